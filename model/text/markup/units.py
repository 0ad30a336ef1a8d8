"""Units of translatable text and how they are gathered from a scanner's pieces; knows no format and writes nothing.

A scanner walks a document once and tells a ``UnitBuilder`` what it meets: text, characters that are written in another
way (entities, escapes), tags, borders. The builder keeps for every unit where each of its characters came from.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

Escape = Callable[[str, str, str, "UnitRecord"], str]
"""(text, character before, character after, unit) to how the text is written in the document."""

_SPACES = re.compile(r"[ \t\n\r\f]{2,}|[\t\n\r\f]")
_WHITESPACE = " \t\n\r\f"


@dataclass(frozen=True)
class Inline:
    """An element inside a unit; offsets are characters of ``Unit.text``."""

    start: int
    end: int
    """End of its content; ``start == end`` is an empty element, a comment, or an element without text."""
    opening: str
    """Its opening tag as it stands in the document; empty if that is before the unit."""
    closing: str
    """Its closing tag; empty for an element without one, or whose closing tag is after the unit."""


@dataclass(frozen=True)
class Unit:
    """A block of translatable text with its tags taken out and its entities decoded."""

    text: str
    inlines: tuple[Inline, ...] = ()
    """Properly nested, outer before inner, in document order."""
    protected: tuple[tuple[int, int], ...] = ()
    """Spans of ``text`` that must come back as they are; they are written from their raw source with its tags."""


@dataclass(frozen=True)
class TargetSegment:
    """The translation of ``Unit.text[start:end]``; what no segment covers is written from its raw source."""

    start: int
    end: int
    text: str
    """Target text without any markup or escape; protected spans stand in it as literal text."""
    protected: tuple[tuple[int, int, int], ...] = ()
    """(start, end in ``text``, index into ``Unit.protected``)."""
    links: tuple[tuple[int, int, int, int], ...] = ()
    """Word alignment: (start, end in ``Unit.text``, start, end in ``text``); without any, tags go by position."""


class Kind(IntEnum):
    """What a token is."""

    OPEN = 0
    CLOSE = 1
    EMPTY = 2
    GAP = 3
    """Whitespace that is not shown, as other whitespace is before it."""


@dataclass(slots=True)
class Token:
    """A piece of a unit's raw source that is not text; ``document[start:end]``, before character ``position``."""

    position: int
    start: int
    end: int
    kind: Kind
    element: int = -1
    rewritten: str | None = None
    """What is written instead when the element's content is translated, such as a reference link's label."""
    verbatim: bool = False
    """Whether the text inside follows the rules of an XML CDATA section."""


@dataclass(slots=True)
class UnitRecord:
    """A unit, and where all of it stands in the document; spans of raw source are half-open."""

    escape: Escape
    tokens: list[Token] = field(default_factory=list)
    text_starts: list[int] = field(default_factory=list)
    raw_starts: list[int] = field(default_factory=list)
    raw_ends: list[int] = field(default_factory=list)
    protected: list[tuple[int, int]] = field(default_factory=list)
    protected_raw: list[tuple[int, int]] = field(default_factory=list)
    spellings: dict[str, str] = field(default_factory=dict)
    """Characters that the source writes as entities or escapes, and how."""
    bare: set[str] = field(default_factory=set)
    """Special characters that the source writes as they are."""
    quote: str = ""
    """The quote around an attribute's value."""
    attribute: tuple[int, int] | None = None
    """Raw span of an attribute's value."""
    num_elements: int = 0
    has_verbatim: bool = False
    """Whether it has a part of a CDATA section."""
    opens: dict[int, int] = field(default_factory=dict)
    """Positions of the opening tags, by element."""
    closes: dict[int, int] = field(default_factory=dict)
    unit: Unit = field(default_factory=lambda: Unit(""))
    text: str = ""

    def raw_start(self, position: int) -> int:
        """Return where the character at ``position`` of the text begins in the document."""
        index = bisect_left(self.protected, (position, -1))
        if index < len(self.protected) and self.protected[index][0] == position:
            return self.protected_raw[index][0]
        piece = bisect_right(self.text_starts, position) - 1
        raw = self.raw_starts[piece] + position - self.text_starts[piece]
        return raw if self._plain(piece) else self.raw_starts[piece]

    def raw_end(self, position: int) -> int:
        """Return where the character before ``position`` of the text ends in the document."""
        index = bisect_left(self.protected, (position, -1)) - 1
        if index >= 0 and self.protected[index][1] == position:
            return self.protected_raw[index][1]
        piece = bisect_right(self.text_starts, position - 1) - 1
        raw = self.raw_starts[piece] + position - self.text_starts[piece]
        return raw if self._plain(piece) else self.raw_ends[piece]

    def _plain(self, piece: int) -> bool:
        """Say whether a piece of text is written character by character."""
        following = self.text_starts[piece + 1] if piece + 1 < len(self.text_starts) else len(self.text)
        return following - self.text_starts[piece] == self.raw_ends[piece] - self.raw_starts[piece]


@dataclass(frozen=True)
class Handle:
    """An opened element: the unit it was opened in, by number, and its number there."""

    unit: int
    element: int


class UnitBuilder:
    """Gathers units from the pieces of a document, which must come in order."""

    def __init__(self, document: str, escape: Escape) -> None:
        """Read pieces of ``document``; units are written with ``escape``."""
        self.document = document
        self.records: list[UnitRecord] = []
        self.escape = escape
        """How the units from the next border on are written."""
        self._serial = 0
        self._begin()

    def _begin(self) -> None:
        self._record = UnitRecord(self.escape)
        self._parts: list[str] = []
        self._length = 0
        self._after_space = True
        self._protected_from: tuple[int, int] | None = None

    def text(self, start: int, end: int, *, literal: bool = False) -> None:
        """Add ``document[start:end]`` as text; runs of whitespace become one space unless they are ``literal``."""
        if start >= end:
            return
        raw = self.document[start:end]
        for special in "&><[]*_`~":
            if special in raw:
                self._record.bare.add(special)
        if literal:
            self._piece(raw, start, end)
            return
        cursor = 0
        if self._after_space and raw[0] in _WHITESPACE:
            cursor = len(raw) - len(raw.lstrip(_WHITESPACE))
            self._token(Kind.GAP, start, start + cursor)
        for match in _SPACES.finditer(raw, cursor):
            if match.start() > cursor:
                self._piece(raw[cursor : match.start()], start + cursor, start + match.start())
            self._piece(" ", start + match.start(), start + match.end())
            cursor = match.end()
        if cursor < len(raw):
            self._piece(raw[cursor:], start + cursor, end)

    def character(self, decoded: str, start: int, end: int, *, space: bool = False) -> None:
        """Add text that is written otherwise: ``document[start:end]`` is read as ``decoded``; a space may collapse."""
        if space and self._after_space:
            self._token(Kind.GAP, start, end)
            return
        if not space:
            self._record.spellings.setdefault(decoded, self.document[start:end])
        self._piece(decoded, start, end)
        self._after_space = space

    def open(self, start: int, end: int, *, verbatim: bool = False) -> Handle:
        """Add an element's opening tag."""
        element = self._record.num_elements
        self._record.num_elements += 1
        self._token(Kind.OPEN, start, end, element).verbatim = verbatim
        self._record.opens[element] = self._length
        self._record.has_verbatim |= verbatim
        return Handle(self._serial, element)

    def close(
        self, handle: Handle, start: int, end: int, rewritten: str | None = None, *, verbatim: bool = False
    ) -> None:
        """Add the closing tag of an element; ``start == end`` where it has none."""
        element = handle.element
        if handle.unit != self._serial:
            if start == end:
                return
            element = self._record.num_elements
            self._record.num_elements += 1
        token = self._token(Kind.CLOSE, start, end, element)
        token.rewritten, token.verbatim = rewritten, verbatim
        self._record.closes[element] = self._length
        self._record.has_verbatim |= verbatim

    def empty(self, start: int, end: int) -> None:
        """Add something without content that keeps its neighbours: an empty element, a comment, a stray tag."""
        if start < end:
            self._token(Kind.EMPTY, start, end)

    def begin_protected(self, start: int) -> None:
        """Begin a protected span, whose raw source begins at ``start``; all that comes until its end belongs to it."""
        self._protected_from = (self._length, start)

    def end_protected(self, end: int) -> None:
        """End the protected span; without any text it is an empty element."""
        if self._protected_from is None:
            return
        position, start = self._protected_from
        self._protected_from = None
        if self._length > position:
            self._record.protected.append((position, self._length))
            self._record.protected_raw.append((start, end))
        else:
            self.empty(start, end)

    def border(self) -> None:
        """End the unit; it is kept if it has any text to translate."""
        record = self._record
        if self._protected_from is not None:
            self.end_protected(record.raw_ends[-1] if record.raw_ends else self._protected_from[1])
        if not self._parts and not record.tokens:
            record.escape = self.escape
            return
        if self._parts:
            record.text = "".join(self._parts)
            if _is_text(record):
                self._trim(record)
                record.unit = Unit(record.text, _inlines(self.document, record), tuple(record.protected))
                self.records.append(record)
        self._serial += 1
        self._begin()

    def attribute(self, start: int, end: int, quote: str, pieces: Sequence[tuple[str, int, int]]) -> None:
        """Add an attribute's value ``document[start:end]`` as a unit of its own, apart from the one that is open."""
        record = UnitRecord(self.escape, quote=quote, attribute=(start, end))
        for text, piece_start, piece_end in pieces:
            record.text_starts.append(len(record.text))
            record.raw_starts.append(piece_start)
            record.raw_ends.append(piece_end)
            record.text += text
            raw = self.document[piece_start:piece_end]
            if raw != text:
                record.spellings.setdefault(text, raw)
            elif "&" in raw:
                record.bare.add("&")
        if _is_text(record):
            record.unit = Unit(record.text)
            self.records.append(record)

    def _piece(self, text: str, start: int, end: int) -> None:
        record = self._record
        record.text_starts.append(self._length)
        record.raw_starts.append(start)
        record.raw_ends.append(end)
        self._parts.append(text)
        self._length += len(text)
        self._after_space = text[-1] in _WHITESPACE

    def _token(self, kind: Kind, start: int, end: int, element: int = -1) -> Token:
        token = Token(self._length, start, end, kind, element)
        if self._protected_from is None:
            self._record.tokens.append(token)
        return token

    def _trim(self, record: UnitRecord) -> None:
        """Leave the space at the end of the unit outside."""
        if not record.text.endswith(" ") or (record.protected and record.protected[-1][1] == len(record.text)):
            return
        length = len(record.text) - 1
        record.text = record.text[:length]
        if record.text_starts[-1] == length:
            record.text_starts.pop()
            record.raw_starts.pop()
            record.raw_ends.pop()
        else:
            record.raw_ends[-1] -= 1
        for token in reversed(record.tokens):
            if token.position <= length:
                break
            token.position = length
        for positions in (record.opens, record.closes):
            for element, position in positions.items():
                positions[element] = min(position, length)


def _is_text(record: UnitRecord) -> bool:
    """Say whether a unit has a letter or digit outside protected spans."""
    cursor = 0
    for start, end in record.protected:
        if any(map(str.isalnum, record.text[cursor:start])):
            return True
        cursor = end
    return any(map(str.isalnum, record.text[cursor:]))


def _inlines(document: str, record: UnitRecord) -> tuple[Inline, ...]:
    """Return the elements of a unit from its tokens; those that were opened before the unit come first."""
    length = len(record.text)
    opened: dict[int, Token] = {}
    closed: dict[int, Token] = {}
    for token in record.tokens:
        if token.kind is Kind.OPEN:
            opened[token.element] = token
        elif token.kind is Kind.CLOSE:
            closed[token.element] = token
    before = [token for element, token in closed.items() if element not in opened]
    inlines = [Inline(0, token.position, "", document[token.start : token.end]) for token in reversed(before)]
    for token in record.tokens:
        raw = document[token.start : token.end]
        if token.kind is Kind.EMPTY:
            inlines.append(Inline(token.position, token.position, raw, ""))
        elif token.kind is Kind.OPEN:
            end = closed.get(token.element)
            closing = "" if end is None else document[end.start : end.end]
            inlines.append(Inline(token.position, length if end is None else end.position, raw, closing))
    return tuple(inlines)
