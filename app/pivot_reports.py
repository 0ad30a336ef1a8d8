"""What is reported of a text that went through two translators: spans, scores, alignment, warnings and terms joined.

Pure functions on results; pivot says when they are called, and what the rules are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from model import (
    GlossaryHit,
    SegmentTranslation,
    Translation,
    TranslationWarning,
    WordAlignment,
    WordQuality,
    match_terms,
)

if TYPE_CHECKING:
    from model import Glossary


class Way(Protocol):
    """The three languages of a text."""

    @property
    def source(self) -> str: ...
    @property
    def via(self) -> str: ...
    @property
    def target(self) -> str: ...


@dataclass(frozen=True)
class SecondLeg:
    """What the second translator made of some segments."""

    text: str
    segments: tuple[SegmentTranslation, ...]
    """With their places in the texts between and after."""
    offset: int = 0
    """Where ``text`` begins in the translation that the segments' target spans are of."""
    alternatives: tuple[str, ...] = ()
    warnings: tuple[TranslationWarning, ...] = ()
    glossary_hits: tuple[GlossaryHit, ...] = ()

    @classmethod
    def of(cls, translation: Translation) -> SecondLeg:
        """Return a whole translation as such."""
        return cls(
            translation.text,
            translation.segments,
            0,
            translation.alternatives,
            translation.warnings,
            translation.glossary_hits,
        )


def composed_segment(
    parts: Sequence[SegmentTranslation], second: SecondLeg | None, way: Way, glossaries: Sequence[Glossary]
) -> SegmentTranslation:
    """Return one segment of what both legs made of the same words.

    Args:
        parts: the first leg's segments, at least one, neighbours in one unit, with their places in the text between.
        second: the second leg's result; None where there was nothing to translate.
        way: the languages.
        glossaries: those for the whole way, whose terms are reported as skipped.
    """
    first, last = parts[0], parts[-1]
    found = second.segments if second is not None else ()
    both = (*parts, *found)
    span = (first.start, last.end)
    num_tokens = sum(each.num_tokens for each in both)
    log_prob = sum(each.log_prob for each in both if each.num_tokens)  # others were put together from pieces
    skipped = _skipped(parts, glossaries, way.via)
    quality = _mean([part.quality for part in parts])
    text = second.text if second is not None else _joined([(each.target_start, each.text) for each in parts])
    start = found[0].target_start if found else first.target_start
    own_warnings = [_said(each, f"{way.source} to {way.via}") for part in parts for each in part.warnings]
    warnings = (
        [_said(each, f"{way.via} to {way.target}", (*span, first.unit)) for each in second.warnings] if second else []
    )
    hits = [
        replace(hit, start=span[0], end=span[1], reason=hit.reason or f"applied between {way.via} and {way.target}")
        for hit in (second.glossary_hits if second else ())
    ]
    return SegmentTranslation(
        start=span[0],
        end=span[1],
        source=_joined([(part.start, part.source) for part in parts]),
        text=text,
        score=log_prob / num_tokens if num_tokens else sum(each.score for each in both) / len(both),
        token_ids=tuple(token for each in found for token in each.token_ids),
        token_scores=tuple(score for each in found for score in each.token_scores),
        alternatives=second.alternatives if second is not None else (),
        finish_reason="length" if any(each.finish_reason == "length" for each in both) else "end",
        unit=first.unit,
        target_start=start,
        target_end=start + len(text),
        log_prob=log_prob,
        num_tokens=num_tokens,
        num_source_tokens=sum(each.num_source_tokens for each in both),
        alignment=composed_alignment(parts, found, second.offset) if second is not None else None,
        quality=_product(quality, _mean([each.quality for each in found])),
        words=tuple(_rated(found, second.offset if second else 0, quality)),
        glossary_hits=(*(hit for part in parts for hit in part.glossary_hits), *hits, *skipped),
        warnings=(*own_warnings, *warnings),
    )


def composed_translation(
    text: str,
    segments: Sequence[SegmentTranslation],
    alternatives: Sequence[str],
    whole: Translation,
    seconds: Sequence[Translation],
    way: Way,
) -> Translation:
    """Return the translation of a whole text.

    Args:
        text: the text in the target language.
        segments: all composed segments, in order.
        alternatives: other texts.
        whole: the first leg's translation.
        seconds: all of the second leg's.
        way: the languages.
    """
    num_tokens = sum(segment.num_tokens for segment in segments)
    log_prob = sum(segment.log_prob for segment in segments)
    scores = [each.score for each in (whole, *seconds)]
    warnings = [_said(each, f"{way.source} to {way.via}") for each in whole.warnings]
    warnings += [each for segment in segments for each in segment.warnings if each not in warnings]
    hits = list(whole.glossary_hits)
    hits += [hit for segment in segments for hit in segment.glossary_hits if hit not in hits]
    rated = [word.quality for segment in segments for word in segment.words]
    return Translation(
        text=text,
        source=way.source,
        target=way.target,
        detected=whole.detected,
        segments=tuple(segments),
        alternatives=tuple(each for each in dict.fromkeys(alternatives) if each != text),
        score=log_prob / num_tokens if num_tokens else sum(scores) / len(scores),
        finish_reason="length" if any(segment.finish_reason == "length" for segment in segments) else "end",
        warnings=tuple(sorted(warnings, key=lambda each: (each.unit, each.start))),
        source_tokens=whole.source_tokens + sum(each.source_tokens for each in seconds),
        target_tokens=whole.target_tokens + sum(each.target_tokens for each in seconds),
        glossary_hits=tuple(sorted(hits, key=lambda hit: hit.start)),
        quality=sum(rated) / len(rated) if rated else None,
    )


def composed_alignment(
    parts: Sequence[SegmentTranslation], found: Sequence[SegmentTranslation], offset: int
) -> WordAlignment | None:
    """Link the words that both legs link to the same word between them; None unless all segments are aligned.

    Args:
        parts: the first leg's segments.
        found: the second leg's.
        offset: where the composed target begins in what the target spans of ``found`` count in.
    """
    if not found or any(each.alignment is None for each in (*parts, *found)):
        return None
    source_words, between, first_links = _laid_out(parts, lambda part: (part.start - parts[0].start, part.target_start))
    via_words, target_words, second_links = _laid_out(found, lambda each: (each.start, each.target_start - offset))
    weights: dict[tuple[int, int], float] = {}
    for i, j, weight in first_links:
        for k, m, other in second_links:
            if between[j][0] < via_words[k][1] and via_words[k][0] < between[j][1]:
                weights[i, m] = weights.get((i, m), 0.0) + weight * other
    links = sorted(weights)
    return WordAlignment(
        tuple(source_words),
        tuple(target_words),
        tuple(links),
        tuple(round(min(1.0, weights[link]), 4) for link in links),
    )


def grouped(whole: Translation, second: Translation) -> Iterator[tuple[list[SegmentTranslation], SecondLeg | None]]:
    """Yield the first leg's segments with what the second one made of them; as few together as the cuts allow."""
    groups: list[tuple[list[SegmentTranslation], list[SegmentTranslation]]] = []
    units = sorted({part.unit for part in whole.segments})
    for unit in units:
        ends = [(part.target_start, part.target_end, part, True) for part in whole.segments if part.unit == unit]
        ends += [(each.start, each.end, each, False) for each in second.segments if each.unit == unit]
        reached, before = -1, len(groups)
        for start, end, each, is_part in sorted(ends, key=lambda item: item[:2]):
            if start >= reached or len(groups) == before:
                groups.append(([], []))
            groups[-1][0 if is_part else 1].append(each)
            reached = max(reached, end)
    complete = [group for group in groups if group[0]]
    for parts, found in groups:
        if not parts and complete:  # of what the first leg took for no text: no span of the source is known
            near = [group for group in complete if group[0][0].unit == found[0].unit]
            (near or complete)[-1][1].extend(found)
    strays = [each for each in second.segments if each.unit not in units]
    if strays and complete:
        complete[-1][1].extend(strays)
    for parts, found in complete:
        yield parts, _second_leg(found, second) if found else None


def _second_leg(found: Sequence[SegmentTranslation], second: Translation) -> SecondLeg:
    unit, start, end = found[0].unit, found[0].start, found[-1].end
    return SecondLeg(
        _joined([(each.target_start, each.text) for each in found]),
        tuple(found),
        found[0].target_start,
        found[0].alternatives if len(found) == 1 else (),
        tuple(each for each in second.warnings if each.unit == unit and start <= each.start < end),
        tuple(hit for each in found for hit in each.glossary_hits),
    )


def _laid_out(
    segments: Sequence[SegmentTranslation], place: Callable[[SegmentTranslation], tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], list[tuple[int, int, float]]]:
    """Return the words of both sides of some aligned segments, moved to their places, and the links with weights."""
    source_words: list[tuple[int, int]] = []
    target_words: list[tuple[int, int]] = []
    links: list[tuple[int, int, float]] = []
    for segment in segments:
        alignment = segment.alignment
        assert alignment is not None
        source_offset, target_offset = place(segment)
        weights = alignment.weights or (1.0,) * len(alignment.links)
        links += [
            (len(source_words) + i, len(target_words) + j, weight)
            for (i, j), weight in zip(alignment.links, weights, strict=True)
        ]
        source_words += [(start + source_offset, end + source_offset) for start, end in alignment.source_words]
        target_words += [(start + target_offset, end + target_offset) for start, end in alignment.target_words]
    return source_words, target_words, links


def _joined(pieces: Sequence[tuple[int, str]]) -> str:
    """Put neighbours together, with blanks where something stood between them that is not known here."""
    text, position = "", pieces[0][0]
    for start, piece in pieces:
        text += " " * (start - position) + piece
        position = start + len(piece)
    return text


def _rated(found: Sequence[SegmentTranslation], offset: int, quality: float | None) -> Iterator[WordQuality]:
    """Yield the second leg's words; each can be right only if the first leg's segment was."""
    for each in found if quality is not None else ():
        move = each.target_start - offset
        for word in each.words:
            yield WordQuality(word.start + move, word.end + move, word.quality * (quality or 0.0))


def _skipped(parts: Sequence[SegmentTranslation], glossaries: Sequence[Glossary], via: str) -> Iterator[GlossaryHit]:
    """Yield the terms of the whole way's glossaries that stand in the source."""
    if not glossaries:
        return
    reason = f"the text is translated by way of {via}, which the glossary does not know"
    for part in parts:
        terms, missed = match_terms(part.source, glossaries, glossaries[0].source_language)
        yield from (term.moved(part.start).skipped(reason) for term in terms)
        yield from (replace(hit, start=hit.start + part.start, end=hit.end + part.start) for hit in missed)


def _said(warning: TranslationWarning, leg: str, place: tuple[int, int, int] | None = None) -> TranslationWarning:
    """Return a warning that says in which leg it arose."""
    start, end, unit = place or (warning.start, warning.end, warning.unit)
    return replace(warning, message=f"{leg}: {warning.message}", start=start, end=end, unit=unit)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other
