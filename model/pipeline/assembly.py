"""The segments' results put together: one translation of the whole text, with what there is to report about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.pipeline.markers import find_pieces
from model.pipeline.preparation import PreparedSegment, PreparedText
from model.text.glossary import GlossaryHit
from model.text.languages import Detection
from model.text.markup.units import TargetSegment
from model.translation import SegmentTranslation, Translation


@dataclass(frozen=True)
class Assembly:
    """Makes the translation of one text."""

    prepared: PreparedText
    source: str
    target: str
    detected: Detection | None

    def assemble(self, segments: Sequence[SegmentTranslation]) -> Translation:
        """Put the results, one a prepared segment and in their order, into the document."""
        text = self._render(segments)
        decoded = [segment for segment in segments if segment.num_tokens]
        target_tokens = sum(segment.num_tokens for segment in decoded)
        warnings = [*self.prepared.warnings, *(warning for segment in segments for warning in segment.warnings)]
        rated = [word.quality for segment in segments for word in segment.words]
        return Translation(
            text=text,
            source=self.source,
            target=self.target,
            detected=self.detected,
            segments=tuple(_placed(segments)),
            alternatives=tuple(self._alternatives(segments, text)),
            score=sum(segment.log_prob for segment in decoded) / target_tokens if target_tokens else 0.0,
            finish_reason="length" if any(segment.finish_reason == "length" for segment in segments) else "end",
            warnings=tuple(sorted(warnings, key=lambda warning: (warning.unit, warning.start))),
            source_tokens=sum(segment.num_source_tokens for segment in segments),
            target_tokens=target_tokens,
            glossary_hits=tuple(sorted(self._hits(segments), key=lambda hit: hit.start)),
            quality=sum(rated) / len(rated) if rated else None,
        )

    def _hits(self, segments: Sequence[SegmentTranslation]) -> Iterator[GlossaryHit]:
        yield from self.prepared.skipped_terms
        for segment in segments:
            yield from segment.glossary_hits

    def _render(self, segments: Sequence[SegmentTranslation]) -> str:
        targets: list[list[TargetSegment]] = [[] for _ in self.prepared.document.units]
        for prepared, segment in zip(self.prepared.segments, segments, strict=True):
            if prepared.translatable:
                targets[prepared.unit].append(_target(prepared, segment))
        return self.prepared.document.render(targets)

    def _alternatives(self, segments: Sequence[SegmentTranslation], text: str) -> Iterator[str]:
        """Yield whole texts made of each segment's n-th hypothesis, or its best where it has fewer."""
        seen = {text}
        for index in range(max((len(segment.alternatives) for segment in segments), default=0)):
            whole = self._render(
                [_alternative(*pair, index) for pair in zip(self.prepared.segments, segments, strict=True)]
            )
            if whole not in seen:
                seen.add(whole)
                yield whole


def _target(prepared: PreparedSegment, segment: SegmentTranslation) -> TargetSegment:
    protected = []
    for start, end, number in segment.protected:
        index = prepared.protected[number].index
        if index is not None:
            protected.append((start, end, index))
    return TargetSegment(segment.start, segment.end, segment.text, tuple(protected), _links(segment))


def _links(segment: SegmentTranslation) -> tuple[tuple[int, int, int, int], ...]:
    alignment, offset = segment.alignment, segment.start
    if alignment is None:
        return ()
    pairs = ((alignment.source_words[i], alignment.target_words[j]) for i, j in alignment.links)
    return tuple((offset + start, offset + end, *target) for (start, end), target in pairs)


def _alternative(prepared: PreparedSegment, segment: SegmentTranslation, index: int) -> SegmentTranslation:
    if index >= len(segment.alternatives):
        return segment
    found = find_pieces(segment.alternatives[index], prepared.pieces())
    if found.missing:
        return segment
    alignment = segment.alternative_alignments[index] if segment.alternative_alignments else None
    return dataclasses.replace(segment, text=found.text, protected=found.protected, alignment=alignment)


def _placed(segments: Sequence[SegmentTranslation]) -> Iterator[SegmentTranslation]:
    """Yield the segments with their places in their unit's translation."""
    unit, grown = -1, 0
    for segment in segments:
        if segment.unit != unit:
            unit, grown = segment.unit, 0
        start = segment.start + grown
        grown += len(segment.text) - (segment.end - segment.start)
        yield dataclasses.replace(segment, target_start=start, target_end=start + len(segment.text))
