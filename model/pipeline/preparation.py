"""A text into segments ready to be decoded: its units, their protected spans and terms; it decodes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from model.options import Splitting, TextOptions
from model.text.glossary import GlossaryHit, TermMatch, match_terms
from model.text.markup import parse_markup
from model.text.markup.units import TargetSegment, Unit
from model.text.protection import find_protected
from model.text.segmentation import Segment, is_translatable, join_segments, split_long, split_segments
from model.text.tokenizer import NUM_PLACEHOLDERS
from model.translation import TranslationWarning

_WHOLE = re.compile(r"\S(?:.*\S)?", re.DOTALL)
_LINE = re.compile(r"[^\s](?:[^\r\n\u2028\u2029]*[^\s])?")
_BREAKING = re.compile(r"[\s.!?…:;,]")


@dataclass(frozen=True)
class ProtectedSpan:
    """A piece of a segment that must come back as it is."""

    start: int
    """Where it begins in the segment, in characters."""
    end: int
    """Where it ends."""
    index: int | None
    """Which of the unit's protected spans it is; None for one that a pattern found."""


@dataclass(frozen=True)
class PreparedSegment:
    """A sentence, or a piece of a long one, and what is known about it before it is decoded."""

    unit: int
    """Index of its unit."""
    start: int
    """Where it begins in the unit's text, in characters."""
    end: int
    """Where it ends."""
    text: str
    """The characters themselves."""
    protected: tuple[ProtectedSpan, ...] = ()
    """In order, without overlap."""
    terms: tuple[TermMatch, ...] = ()
    """Wanted translations; spans within the segment, in order, clear of the protected ones."""
    has_inlines: bool = False
    """Whether inline elements begin or end inside, so that its words must be aligned."""
    translatable: bool = True
    """Whether there is anything to translate."""

    def pieces(self) -> list[str]:
        """Return the text of each protected span."""
        return [self.text[span.start : span.end] for span in self.protected]


class Document(Protocol):
    """Units of text in something that is put together again."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """The translatable blocks."""

    def render(self, targets: Sequence[Sequence[TargetSegment]]) -> str:
        """Return the whole with each unit's segments replaced."""


@dataclass(frozen=True)
class PlainText:
    """A text that is one unit without markup."""

    text: str

    @property
    def units(self) -> tuple[Unit, ...]:
        """The text itself."""
        return (Unit(self.text, (), ()),)

    def render(self, targets: Sequence[Sequence[TargetSegment]]) -> str:
        """Put the segments in the place of their sources."""
        segments = [Segment(part.start, part.end, "") for part in targets[0]] if targets else []
        return join_segments(self.text, segments, [part.text for part in targets[0]] if targets else [])


@dataclass(frozen=True)
class PreparedText:
    """A text ready to be decoded."""

    document: Document
    segments: tuple[PreparedSegment, ...]
    """Of all units, in order."""
    warnings: tuple[TranslationWarning, ...]
    """Sentences that were cut."""
    skipped_terms: tuple[GlossaryHit, ...]
    """Terms that are in the text, and why they cannot be applied."""


def read_document(text: str, options: TextOptions) -> Document:
    """Parse a text as what its options say it is.

    Raises:
        InvalidTextError: XML that is not well-formed.
    """
    return PlainText(text) if options.format == "text" else parse_markup(text, options.format, options.markup)


def prepare(
    document: Document, source: str, target: str, options: TextOptions, fits: Callable[[str], bool]
) -> PreparedText:
    """Cut the units of a document into segments with their protected spans and terms.

    Args:
        document: the parsed text.
        source: code of its language.
        target: code of the language to translate to; glossaries of other pairs do not count.
        options: what to protect, which terms are wanted, where to cut.
        fits: whether the network can take a text at once.
    """
    pair = (source, target)
    glossaries = [each for each in options.glossaries if (each.source_language, each.target_language) == pair]
    segments: list[PreparedSegment] = []
    warnings: list[TranslationWarning] = []
    skipped: list[GlossaryHit] = []
    for index, unit in enumerate(document.units):
        found = find_protected(unit.text, options.protection, unit.protected)
        own = [ProtectedSpan(start, end, number) for number, (start, end) in enumerate(unit.protected)]
        spans = sorted([*own, *(ProtectedSpan(start, end, None) for start, end in found)], key=lambda span: span.start)
        terms: list[TermMatch] = []
        if glossaries:
            taken = [(span.start, span.end) for span in spans]
            terms, missed = match_terms(unit.text, glossaries, source, taken)
            skipped += missed
        cut = list(_cut(unit.text, spans, source, options.splitting, fits, index, warnings))
        segments += [_prepared(index, unit, segment, spans, terms) for segment in cut]
        skipped += _outside(terms, cut)
    return PreparedText(document, tuple(segments), tuple(warnings), tuple(skipped))


def _cut(
    text: str,
    spans: Sequence[ProtectedSpan],
    source: str,
    splitting: Splitting,
    fits: Callable[[str], bool],
    unit: int,
    warnings: list[TranslationWarning],
) -> Iterator[Segment]:
    """Yield the segments of one unit; protected spans are never cut."""
    calm = _calmed(text, spans)
    for segment in _split(calm, source, splitting):
        if not is_translatable(segment.text) or fits(segment.text):
            pieces = [segment]
        else:
            pieces = split_long(segment, fits)
            message = f"a sentence was too long for the model and was translated in {len(pieces)} pieces"
            warnings.append(TranslationWarning("cut", message, segment.start, segment.end, unit))
        for piece in pieces:
            for start, end in _few_placeholders(piece.start, piece.end, spans):
                yield Segment(start, end, text[start:end])


def _calmed(text: str, spans: Sequence[ProtectedSpan]) -> str:
    """Return the text with nothing inside protected spans at which it could be cut; offsets stay."""
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], _BREAKING.sub("x", text[span.start : span.end])]
        position = span.end
    return "".join([*parts, text[position:]])


def _split(text: str, source: str, splitting: Splitting) -> list[Segment]:
    if splitting == "sentences":
        return split_segments(text, source)
    pattern = _LINE if splitting == "lines" else _WHOLE
    return [Segment(*found.span(), found.group()) for found in pattern.finditer(text)]


def _few_placeholders(start: int, end: int, spans: Sequence[ProtectedSpan]) -> Iterator[tuple[int, int]]:
    """Cut before every span that would be one too many for the placeholder tokens."""
    inside = [span for span in spans if start <= span.start and span.end <= end]
    for span in inside[NUM_PLACEHOLDERS::NUM_PLACEHOLDERS]:
        yield start, span.start
        start = span.start
    yield start, end


def _prepared(
    index: int, unit: Unit, segment: Segment, spans: Sequence[ProtectedSpan], terms: Sequence[TermMatch]
) -> PreparedSegment:
    start, end = segment.start, segment.end
    own = tuple(
        ProtectedSpan(span.start - start, span.end - start, span.index)
        for span in spans
        if start <= span.start and span.end <= end
    )
    rest, position = [], 0
    for span in own:
        rest.append(segment.text[position : span.start])
        position = span.end
    rest.append(segment.text[position:])
    return PreparedSegment(
        unit=index,
        start=start,
        end=end,
        text=segment.text,
        protected=own,
        terms=tuple(term.moved(-start) for term in terms if start <= term.start and term.end <= end),
        has_inlines=any(
            start < edge < end or (inline.start == inline.end and start <= edge <= end)
            for inline in unit.inlines
            for edge in (inline.start, inline.end)
        ),
        translatable=is_translatable(segment.text) and any(map(str.isalpha, "".join(rest))),
    )


def _outside(terms: Sequence[TermMatch], segments: Sequence[Segment]) -> Iterator[GlossaryHit]:
    """Yield the terms that no segment holds whole."""
    for term in terms:
        if not any(segment.start <= term.start and term.end <= segment.end for segment in segments):
            yield term.skipped("it lies across two sentences")
