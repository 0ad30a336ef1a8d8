"""The text of a segment as the model is to read it: placeholders and term annotations in it, and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.pipeline.preparation import PreparedSegment
from model.text.glossary import TermMatch
from model.text.tokenizer import PLACEHOLDERS, TERM_AS, TERM_BEGIN, TERM_END


@dataclass(frozen=True)
class Span:
    """A span of one text that stands for a span of another, in characters."""

    start: int
    end: int
    original_start: int
    original_end: int


@dataclass(frozen=True)
class MarkedText:
    """What the model reads in place of a text, or what it wrote, and which parts of it stand for something else."""

    text: str
    spans: tuple[Span, ...]
    """In order: everything between them is the same in both."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that a span of this text stands for."""
        return self._original(start, upper=False), self._original(end, upper=True)

    def _original(self, position: int, upper: bool) -> int:
        shift = 0
        for span in self.spans:
            if position < span.start or (position == span.start and upper):
                break
            if position < span.end or (position == span.end and upper):
                return span.original_end if upper else span.original_start
            shift = span.original_end - span.end
        return position + shift


@dataclass(frozen=True)
class RestoredText:
    """A target text with its protected pieces in place."""

    text: str
    protected: tuple[tuple[int, int, int], ...]
    """(start, end, number of the segment's protected span), in the order of the text."""
    missing: tuple[int, ...]
    """Numbers of the protected spans that are not there, or there more than once."""
    marked: MarkedText
    """What the model wrote."""


def mark_source(segment: PreparedSegment, placeholders: bool, terms: Sequence[TermMatch]) -> MarkedText:
    """Put placeholders for the protected spans of a segment, and annotate terms (Dinu et al. 2019, section 3).

    Args:
        segment: the segment, with no more protected spans than there are placeholders.
        placeholders: whether the model knows them; otherwise the spans stay as they are.
        terms: those to annotate.
    """
    changes: list[tuple[int, int, str]] = []
    if placeholders:
        changes += [(span.start, span.end, PLACEHOLDERS[number]) for number, span in enumerate(segment.protected)]
    for term in terms:
        surface = segment.text[term.start : term.end]
        changes.append((term.start, term.end, f"{TERM_BEGIN}{surface}{TERM_AS}{term.target}{TERM_END}"))
    return _replace(segment.text, sorted(changes))


def restore_target(marked: str, pieces: Sequence[str]) -> RestoredText:
    """Put the protected pieces in the place of their placeholders in what the model wrote."""
    counts = Counter(marked)
    numbers = {PLACEHOLDERS[number]: number for number in range(len(pieces))}
    missing = tuple(number for character, number in numbers.items() if counts[character] != 1)
    return _restored(marked, [(i, i + 1, numbers[c]) for i, c in enumerate(marked) if c in numbers], pieces, missing)


def find_pieces(target: str, pieces: Sequence[str]) -> RestoredText:
    """Find the protected pieces in what a model wrote that knows no placeholders; the longest ones first."""
    wanted = Counter(pieces)
    found: dict[str, list[int]] = {}
    taken = bytearray(len(target))
    for piece in sorted(wanted, key=len, reverse=True):
        places, position = [], target.find(piece)
        while position >= 0:
            end = position + len(piece)
            if not any(taken[position:end]):
                taken[position:end] = b"\1" * len(piece)
                places.append(position)
            position = target.find(piece, end)
        found[piece] = places
    missing = tuple(number for number, piece in enumerate(pieces) if len(found[piece]) != wanted[piece])
    used: Counter[str] = Counter()
    spans = []
    for number, piece in enumerate(pieces):
        if number not in missing:
            start = found[piece][used[piece]]
            used[piece] += 1
            spans.append((start, start + len(piece), number))
    return _restored(target, sorted(spans), pieces, missing)


def _restored(
    marked: str, spans: Sequence[tuple[int, int, int]], pieces: Sequence[str], missing: tuple[int, ...]
) -> RestoredText:
    text = _replace(marked, [(start, end, pieces[number]) for start, end, number in spans])
    placed = [(span.start, span.end) for span in text.spans]
    # The marked text stands for the restored one: the same spans, seen from the other side.
    back = tuple(Span(s.original_start, s.original_end, s.start, s.end) for s in text.spans)
    protected = tuple((start, end, number) for (start, end), (_, _, number) in zip(placed, spans, strict=True))
    return RestoredText(text.text, protected, missing, MarkedText(marked, back))


def _replace(text: str, changes: Sequence[tuple[int, int, str]]) -> MarkedText:
    """Return the text with spans replaced, in order and without overlap."""
    parts: list[str] = []
    spans: list[Span] = []
    position = length = 0
    for start, end, new in changes:
        parts += [text[position:start], new]
        length += start - position
        spans.append(Span(length, length + len(new), start, end))
        length += len(new)
        position = end
    return MarkedText("".join([*parts, text[position:]]), tuple(spans))
