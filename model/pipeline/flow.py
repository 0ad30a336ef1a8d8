"""One segment from its marked source to its checked translation; what is to be decoded is yielded, see ``pending``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.config import MAX_BEAM_SIZE, GenerationConfig
from model.errors import UnavailableError
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.pipeline.markers import MarkedText, RestoredText, find_pieces, mark_source, restore_target
from model.pipeline.pending import Flow
from model.pipeline.preparation import PreparedSegment
from model.pipeline.reading import Reader
from model.text.casing import capitals, sentence_case
from model.text.glossary import GlossaryHit, HitStatus, TermMatch, term_present
from model.text.guard import Finding, check_segment, severity
from model.translation import SegmentTranslation, TranslationWarning, WarningCode

_DOUBTFUL = 0.3
"""Severity of findings from which a segment is decoded again."""
_WIDER_BEAM = 8
"""Beam, and hypotheses to choose from, when a segment is decoded again."""
_ELISION_GAP = re.compile(r"(?<=\b[ldjmtscnLDJMTSCN]['\u2019]) |(?<=\b[qQ]u['\u2019]) ")


@dataclass(frozen=True)
class Candidate:
    """One hypothesis for a segment, read as text."""

    hypothesis: Hypothesis
    restored: RestoredText
    missing_terms: tuple[int, ...]
    """Numbers of the segment's terms that the text lacks."""
    findings: tuple[Finding, ...]
    """What the guard says."""

    @property
    def doubt(self) -> float:
        """How bad the findings are, together."""
        return severity(self.findings)

    def rank(self) -> tuple[int, int, float, float]:
        """Return what candidates are compared by; the least is the best."""
        return len(self.restored.missing), len(self.missing_terms), round(self.doubt, 3), -self.hypothesis.score


class SegmentFlow:
    """Decodes one segment, checks it, and where it is doubtful decodes it once more and keeps what is better.

    Protected spans come back exactly once in any case: where neither the first nor the constrained search keeps them,
    the text between them is translated piece by piece.
    """

    def __init__(
        self,
        segment: PreparedSegment,
        reader: Reader,
        config: GenerationConfig,
        *,
        guard: bool,
        align: bool,
        quality: bool,
    ) -> None:
        """Prepare the source.

        Args:
            segment: what to translate.
            reader: the model's view of text.
            config: how to decode it; a target prefix in it is this segment's.
            guard: whether doubtful translations are decoded again.
            align: whether the words must be aligned.
            quality: whether the words' quality is estimated.
        """
        self._reader = reader
        self._config = config
        self._capitals = segment.text
        kept = [(span.start, span.end) for span in segment.protected]
        # A beginning is not rewritten: it is spelt as its writer wants the whole.
        has_beginning = len(config.target_prefix) > len(reader.decoder_prefix)
        quiet = None if has_beginning else sentence_case(segment.text, reader.source, kept)
        self._is_loud = quiet is not None and segment.translatable
        if quiet is not None and self._is_loud:
            segment = dataclasses.replace(segment, text=quiet)
        self.segment = segment
        self._guard = guard
        self._align = align
        self._quality = quality
        self._pieces = segment.pieces()
        self._skipped: dict[int, str] = {}
        can_mark = reader.can_mark(segment.text)
        self._placeholders = can_mark and reader.knows_placeholders and bool(segment.protected)
        self._marked, self._source_ids = self._mark(can_mark and reader.knows_terms)

    def run(self) -> Flow:
        """Return the flow."""
        if not self.segment.translatable:
            return self._untouched()
        return self._aloud(self._translate()) if self._is_loud else self._translate()

    # Sources

    def _mark(self, annotate: bool) -> tuple[MarkedText, list[int]]:
        """Return the source as the model reads it; annotations that do not fit are left out."""
        reader, segment = self._reader, self.segment
        terms = segment.terms if annotate else ()
        marked = mark_source(segment, self._placeholders, terms)
        ids = reader.encode_source(marked.text, marked=bool(marked.spans))
        if terms and len(ids) > reader.max_source_length:
            return self._mark(False)
        return marked, ids

    def _untouched(self) -> Flow:
        segment = self.segment
        hits = [self._hit(term, "skipped", "nothing is translated here") for term in segment.terms]
        return SegmentTranslation(
            segment.start,
            segment.end,
            segment.text,
            segment.text,
            score=0.0,
            unit=segment.unit,
            protected=tuple((span.start, span.end, number) for number, span in enumerate(segment.protected)),
            glossary_hits=tuple(hits),
        )
        yield []  # makes this a generator; never reached

    def _aloud(self, flow: Flow) -> Flow:
        """Give the result the capitals that the segment has and the model did not see."""
        result = yield from flow
        alternatives = [find_pieces(text, self._pieces) for text in result.alternatives]
        return dataclasses.replace(
            result,
            source=self._capitals,
            text=capitals(result.text, [(start, end) for start, end, _ in result.protected]),
            alternatives=tuple(
                capitals(other.text, [(start, end) for start, end, _ in other.protected]) for other in alternatives
            ),
        )

    # Decoding

    def _translate(self) -> Flow:
        [hypotheses] = yield [GenerationInput(self._source_ids, self._first_config())]
        candidates = [self._read(hypothesis) for hypothesis in hypotheses]
        best = candidates[0]
        notes: list[TranslationWarning] = []
        if self._wants_more(best):
            try:
                [more] = yield [GenerationInput(self._source_ids, self._second_config(best))]
            except UnavailableError:
                more = []  # there is no room for a second attempt: the first has to do
            best = min([best, *(self._read(hypothesis) for hypothesis in more)], key=Candidate.rank)
            if best is not candidates[0]:
                notes.append(self._decoded_again(candidates[0]))
        if best.restored.missing:
            result = yield from self._piecewise(best)
            return result
        alternatives = [other.restored for other in candidates if not other.restored.missing]
        return self._result(best, alternatives, [*notes, *self._remaining(best)])

    def _first_config(self) -> GenerationConfig:
        """A model that knows no term annotations is made to use the terms from the start."""
        if not self.segment.terms or self._reader.knows_terms or self._config.sampling:
            return self._config
        return self._constrained(self._config, self._phrases((), range(len(self.segment.terms))))

    def _wants_more(self, best: Candidate) -> bool:
        config = self._config
        if best.restored.missing or (best.missing_terms and self._reader.knows_terms):
            return not config.sampling
        limited = config.max_new_tokens is not None and best.hypothesis.finish_reason == "length"
        return self._guard and not config.sampling and not limited and best.doubt >= _DOUBTFUL

    def _second_config(self, first: Candidate) -> GenerationConfig:
        """Return other settings, after what was wrong with the first translation."""
        codes = {finding.code for finding in first.findings}
        config = self._config
        wide = min(MAX_BEAM_SIZE, max(_WIDER_BEAM, config.beam_size))
        config = dataclasses.replace(
            config,
            beam_size=wide,
            num_hypotheses=wide,
            no_repeat_ngram_size=3 if "looped" in codes else config.no_repeat_ngram_size,
            length_penalty=config.length_penalty + (0.5 if "short" in codes else 0.0),
        )
        return self._constrained(config, self._phrases(first.restored.missing, first.missing_terms))

    def _constrained(self, config: GenerationConfig, phrases: tuple[tuple[int, ...], ...]) -> GenerationConfig:
        if not phrases:
            return config
        # A lower length penalty: the mean score would favour a phrase that is tacked on at the end.
        penalty = min(config.length_penalty, 0.5)
        beam = max(config.beam_size, 4)
        return dataclasses.replace(config, required_phrases=phrases, beam_size=beam, length_penalty=penalty)

    def _phrases(self, pieces: Sequence[int], terms: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        reader = self._reader
        phrases = [reader.placeholder_phrase(number) for number in pieces] if self._placeholders else []
        phrases += [tuple(reader.encode_target(self.segment.terms[number].target)) for number in terms]
        return tuple(phrases)

    def _piecewise(self, best: Candidate) -> Flow:
        """Translate what is between the protected spans, each part for itself."""
        segment, reader = self.segment, self._reader
        parts: list[tuple[str, int | None]] = []
        position = 0
        for number, span in enumerate(segment.protected):
            parts += [(segment.text[position : span.start], None), (self._pieces[number], number)]
            position = span.end
        parts.append((segment.text[position:], None))
        begin = reader.decoder_prefix
        config = dataclasses.replace(
            self._config, num_hypotheses=1, target_prefix=begin, num_unscored=len(begin), required_phrases=()
        )
        wanted = [index for index, (text, number) in enumerate(parts) if number is None and any(map(str.isalpha, text))]
        inputs = [GenerationInput(reader.encode_source(_core(parts[index][0])), config) for index in wanted]
        try:
            answers = yield inputs
        except UnavailableError:
            answers = [[] for _ in inputs]
        texts = [text for text, _ in parts]
        for index, hypotheses in zip(wanted, answers, strict=True):
            if hypotheses:
                texts[index] = _fitted(parts[index][0], reader.decode(hypotheses[0].token_ids))
        spans: list[tuple[int, int, int]] = []
        length = 0
        for text, (_, which) in zip(texts, parts, strict=True):
            if which is not None:
                spans.append((length, length + len(text), which))
            length += len(text)
        whole = "".join(texts)
        restored = RestoredText(whole, tuple(spans), (), MarkedText(whole, ()))
        missing = tuple(i for i, t in enumerate(segment.terms) if not self._has_term(whole, t))
        hypothesis = dataclasses.replace(best.hypothesis, token_ids=(), token_log_probs=())
        message = "what must stay as it is would have been lost, so the text around it was translated piece by piece"
        warning = self._warning("pieces", message)
        return self._result(Candidate(hypothesis, restored, missing, ()), [], [warning])

    # Reading

    def _read(self, hypothesis: Hypothesis) -> Candidate:
        reader, segment = self._reader, self.segment
        if self._placeholders:
            restored = restore_target(reader.decode_marked(hypothesis.token_ids), self._pieces)
        else:
            text = reader.decode(hypothesis.token_ids)
            if segment.terms and not reader.knows_terms:
                text = _ELISION_GAP.sub("", text)  # a required phrase begins with a space
            restored = find_pieces(text, self._pieces)
        text = restored.text
        missing = tuple(number for number, term in enumerate(segment.terms) if not self._has_term(text, term))
        findings = check_segment(
            segment.text,
            text,
            reader.source,
            reader.target,
            detector=reader.detector,
            protected=[*self._pieces, *(term.target for term in segment.terms)],
        )
        return Candidate(hypothesis, restored, missing, tuple(findings))

    def _has_term(self, text: str, term: TermMatch) -> bool:
        return term_present(text, term.target, self._reader.target)

    # Results

    def _result(
        self, best: Candidate, alternatives: Sequence[RestoredText], warnings: Sequence[TranslationWarning]
    ) -> SegmentTranslation:
        segment, hypothesis, text = self.segment, best.hypothesis, best.restored.text
        others: dict[str, RestoredText] = {}
        for other in alternatives:
            if other.text != text:
                others.setdefault(other.text, other)
        result = SegmentTranslation(
            start=segment.start,
            end=segment.end,
            source=segment.text,
            text=text,
            score=hypothesis.score,
            unit=segment.unit,
            token_ids=hypothesis.token_ids,
            token_scores=hypothesis.token_log_probs if self._config.return_token_scores else (),
            num_tokens=len(hypothesis.token_log_probs),
            log_prob=hypothesis.log_prob,
            alternatives=tuple(others),
            finish_reason=hypothesis.finish_reason,
            protected=best.restored.protected,
            glossary_hits=tuple(self._hits(best)),
            warnings=tuple(warnings),
            num_source_tokens=len(self._source_ids),
        )
        if segment.has_inlines:
            result = dataclasses.replace(
                result,
                alternative_alignments=tuple(
                    self._examine(dataclasses.replace(result, text=other.text), other, quality=False).alignment
                    for other in others.values()
                ),
            )
        if self._align or self._quality:
            return self._examine(result, best.restored, quality=self._quality)
        return result

    def _examine(self, result: SegmentTranslation, restored: RestoredText, *, quality: bool) -> SegmentTranslation:
        """Align a result's words, and estimate their quality if asked."""
        if not result.text.strip():
            return result
        return self._reader.examine(result, self._marked, restored.marked, quality=quality)

    def _hits(self, best: Candidate) -> Iterator[GlossaryHit]:
        for number, term in enumerate(self.segment.terms):
            if number in best.missing_terms:
                yield self._hit(term, "skipped", "the model did not use it")
            else:
                yield self._hit(term, "inflected" if term.inflected else "used", "")

    def _hit(self, term: TermMatch, status: HitStatus, reason: str) -> GlossaryHit:
        return term.moved(self.segment.start).hit(status, reason)

    def _decoded_again(self, first: Candidate) -> TranslationWarning:
        reasons = [finding.message for finding in first.findings]
        if first.restored.missing:
            reasons.append("a part that must stay as it is was lost")
        if first.missing_terms:
            reasons.append("a term of the glossary was not used")
        return self._warning("decoded_again", f"decoded again with other settings, because {'; '.join(reasons)}")

    def _remaining(self, best: Candidate) -> Iterator[TranslationWarning]:
        """Yield what is still wrong with the translation that is returned."""
        if best.hypothesis.finish_reason == "length":
            yield self._warning("length", "the translation of this part reached its token limit")
        for finding in best.findings:
            yield self._warning(finding.code, finding.message)

    def _warning(self, code: WarningCode, message: str) -> TranslationWarning:
        return TranslationWarning(code, message, self.segment.start, self.segment.end, self.segment.unit)


def _core(part: str) -> str:
    """Return what of a part between protected spans is to be translated: not what stands before its first word."""
    return part[_words_begin(part) :].strip()


def _fitted(part: str, target: str) -> str:
    """Return the translation of a part's core in the place of the core.

    It goes on with a sentence where the part does, so that it begins with a small letter then.
    """
    begin = _words_begin(part)
    core = _core(part)
    target = target.strip()
    if core[:1].islower() and target[:1].isupper() and target[1:2].islower():
        target = target[0].lower() + target[1:]
    return f"{part[:begin]}{target}{part[begin + len(core) :]}"


def _words_begin(part: str) -> int:
    return next((place for place, character in enumerate(part) if character.isalnum()), len(part))
