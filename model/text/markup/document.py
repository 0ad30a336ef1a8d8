"""A document as its units and everything between them, and the document again from their translations.

Reading is the formats' business (html.py, xml.py, markdown.py), where a tag goes is placing.py's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from model.errors import InvalidOptionError, InvalidTextError
from model.text.markup.escaping import escape_cdata
from model.text.markup.options import MarkupFormat, MarkupOptions
from model.text.markup.placing import Mark, place_marks
from model.text.markup.units import Kind, TargetSegment, Token, Unit, UnitRecord

_UNQUOTED = frozenset(" \t\n\r\f\"'=<>`")

Change = tuple[int, int, str]
"""Raw span of the document, and what is written instead."""


def parse_markup(text: str, format: MarkupFormat, options: MarkupOptions | None = None) -> MarkupDocument:
    """Return the units of a document.

    Any HTML and any Markdown is accepted.

    Raises:
        InvalidTextError: XML that is not well-formed, or not a string.
        InvalidOptionError: a format that is none.
    """
    if not isinstance(text, str):
        raise InvalidTextError("text", "must be a string", text)
    options = options or MarkupOptions()
    if format == "html":
        from model.text.markup.html import read_html

        return MarkupDocument(text, read_html(text, options))
    if format == "xml":
        from model.text.markup.xml import read_xml

        return MarkupDocument(text, read_xml(text, options))
    if format == "markdown":
        from model.text.markup.markdown import read_markdown

        return MarkupDocument(text, read_markdown(text, options), fill=True)
    raise InvalidOptionError("format", "must be html, xml or markdown", format)


class MarkupDocument:
    """A parsed document; without any segment, ``render`` gives it back byte for byte."""

    def __init__(self, text: str, records: Sequence[UnitRecord], *, fill: bool = False) -> None:
        """Take a reader's units; ``fill`` says that no element may lose all its text."""
        self._text = text
        self._fill = fill
        self._records = sorted(records, key=_first)
        self.units: tuple[Unit, ...] = tuple(record.unit for record in self._records)

    def render(self, targets: Sequence[Sequence[TargetSegment]]) -> str:
        """Return the document with translations in it: for each unit, segments that do not overlap.

        Raises:
            ValueError: not one sequence a unit, or spans outside their text.
        """
        if len(targets) != len(self.units):
            raise ValueError(f"targets must hold one sequence for each of {len(self.units)} units, got {len(targets)}")
        # Attributes first: they stand inside tags, which the text around them is written with.
        inner = _Writing(self._text, [], fill=self._fill)
        outer: list[tuple[UnitRecord, list[TargetSegment]]] = []
        for record, segments in zip(self._records, targets, strict=True):
            ordered = _checked(record, segments)
            if record.attribute is None:
                outer.append((record, ordered))
            elif ordered:
                inner.attribute(record, ordered)
        for record, ordered in outer:
            inner.labels(record, ordered)
        writing = _Writing(self._text, inner.changes, fill=self._fill)
        for record, ordered in outer:
            for segment in ordered:
                writing.segment(record, segment)
        return _Writing(self._text, _outermost(writing.changes, inner.changes), fill=self._fill).raw(0, len(self._text))


def _first(record: UnitRecord) -> int:
    return record.attribute[0] if record.attribute else record.raw_starts[0]


def _checked(record: UnitRecord, segments: Sequence[TargetSegment]) -> list[TargetSegment]:
    """Return a unit's segments in order, after checking their spans."""
    ordered = sorted(segments, key=lambda segment: segment.start)
    cursor = 0
    for segment in ordered:
        if not cursor <= segment.start <= segment.end <= len(record.text):
            raise ValueError(f"segments must not overlap and be inside their unit, got {segment.start}-{segment.end}")
        cursor = segment.end
        after = 0
        for start, end, index in sorted(segment.protected):
            if not (after <= start <= end <= len(segment.text) and 0 <= index < len(record.protected)):
                raise ValueError(f"protected spans must be inside their text, got {start}-{end} of {index}")
            after = end
    return [segment for segment in ordered if segment.start < segment.end]


def _outermost(outer: Sequence[Change], inner: Sequence[Change]) -> list[Change]:
    """Return all changes in order, without the inner ones that an outer one has already written."""
    outer = sorted(outer)
    starts = [change[0] for change in outer]
    kept = list(outer)
    for change in inner:
        index = bisect_right(starts, change[0]) - 1
        if index < 0 or outer[index][1] < change[1]:
            kept.append(change)
    return sorted(kept)


class _Writing:
    """Writes segments over a document in which some spans are already written anew."""

    def __init__(self, text: str, written: Sequence[Change], *, fill: bool) -> None:
        self.changes: list[Change] = []
        self._text = text
        self._written = sorted(written)
        self._starts = [change[0] for change in self._written]
        self._fill = fill

    def raw(self, start: int, end: int) -> str:
        """Return the document's source from ``start`` to ``end``, with what is written anew in it."""
        index = bisect_left(self._starts, start)
        parts = []
        while index < len(self._written) and self._written[index][1] <= end:
            change = self._written[index]
            if change[0] >= start:
                parts.append(self._text[start : change[0]])
                parts.append(change[2])
                start = change[1]
            index += 1
        parts.append(self._text[start:end])
        return "".join(parts)

    def attribute(self, record: UnitRecord, segments: Sequence[TargetSegment]) -> None:
        """Write an attribute's value; one without quotes gets them where it needs them."""
        start, end = record.attribute or (0, 0)
        inside = _Writing(self._text, [], fill=False)
        for segment in segments:
            inside.segment(record, segment)
        value = _Writing(self._text, inside.changes, fill=False).raw(start, end)
        if not record.quote and value != self._text[start:end] and not _UNQUOTED.isdisjoint(value):
            value = f'"{value}"'
        self.changes.append((start, end, value))

    def labels(self, record: UnitRecord, segments: Sequence[TargetSegment]) -> None:
        """Write the closing tags that change when their element's content is translated."""
        ends = [segment.end for segment in segments]
        for token in record.tokens:
            if token.rewritten is None:
                continue
            for segment in segments[bisect_right(ends, record.opens.get(token.element, 0)) :]:
                if segment.start >= token.position:
                    break
                if _is_changed(record, segment):
                    self.changes.append((token.start, token.end, token.rewritten))
                    break

    def segment(self, record: UnitRecord, segment: TargetSegment) -> None:
        """Write one segment, tags in their places."""
        tokens, start, end = _region(record, segment)
        if not _is_changed(record, segment):
            return
        pieces = _protected_pieces(record, segment)
        marks = [Mark(token.position - segment.start, _KINDS[token.kind], token.element) for token in tokens]
        sources: list[Token | tuple[int, int]] = list(tokens)
        for piece in pieces:
            if piece[4] < 0:
                # Not in the target text: it is never lost, but stands where its neighbours are.
                where = bisect_right([mark.position for mark in marks], piece[0])
                marks.insert(where, Mark(piece[0], "empty"))
                sources.insert(where, (piece[2], piece[3]))
        present = [piece for piece in pieces if piece[4] >= 0]
        gaps = {index for index, token in enumerate(sources) if isinstance(token, Token) and token.kind is Kind.GAP}
        kept = [index for index in range(len(marks)) if index not in gaps]
        links = [
            (max(0, a - segment.start), min(segment.end, b) - segment.start, c, d)
            for a, b, c, d in segment.links
            if a < segment.end and b > segment.start
        ]
        placed = place_marks(
            record.text[segment.start : segment.end],
            segment.text,
            [marks[index] for index in kept],
            [(a, b, max(0, c), min(d, len(segment.text))) for a, b, c, d in links],
            [(piece[0], piece[1], piece[4], piece[5]) for piece in present],
            fill=self._fill,
        )
        tags = [(offset, sources[kept[index]], kept[index] + 1 in gaps) for offset, index in placed]
        self.changes.append((start, end, self._compose(record, segment, tags, present, start)))

    def _compose(
        self,
        record: UnitRecord,
        segment: TargetSegment,
        tags: Sequence[tuple[int, Token | tuple[int, int], bool]],
        pieces: Sequence[tuple[int, int, int, int, int, int]],
        start: int,
    ) -> str:
        """Return text, tags and protected spans in the order of the target, as they are written."""
        parts: list[tuple[int, str, bool]] = []  # offset, raw source, whether it is a CDATA section's tag
        for offset, source, spaced in tags:
            if isinstance(source, tuple):
                # A word that the target lacks: at least it is a word of its own.
                left = " " if segment.text[offset - 1 : offset].isalnum() and offset else ""
                right = " " if segment.text[offset : offset + 1].isalnum() else ""
                parts.append((offset, f"{left}{self.raw(*source)}{right}", False))
                continue
            written = self.raw(source.start, source.end)
            follows = segment.text[offset : offset + 1]
            if spaced and source.kind is Kind.EMPTY and follows and not follows.isspace():
                written += " " if not written.startswith("<!--") else ""
            parts.append((offset, written, source.verbatim))
        ends = {}
        for piece in pieces:
            parts.append((piece[4], self.raw(piece[2], piece[3]), False))
            ends[len(parts) - 1] = piece[5]
        order = sorted(range(len(parts)), key=lambda index: (parts[index][0], index in ends))
        # A tag that closes after a protected span has its end as offset, and comes after it by that.
        out: list[str] = []
        cursor, before, verbatim = 0, self._text[start - 1 : start] if start else "\n", _is_verbatim(record, start)
        for index in order:
            offset, written, toggles = parts[index]
            if cursor < offset:
                chunk = segment.text[cursor:offset]
                out.append(escape_cdata(chunk) if verbatim else record.escape(chunk, before, written[:1], record))
                before = chunk[-1]
            # Another tag does not belong into a CDATA section, which ends before it and goes on after it.
            out.append(f"]]>{written}<![CDATA[" if verbatim and not toggles and written else written)
            before = written[-1:] or before
            verbatim = verbatim != toggles
            cursor = max(cursor, ends.get(index, offset))
        if cursor < len(segment.text):
            chunk = segment.text[cursor:]
            out.append(escape_cdata(chunk) if verbatim else record.escape(chunk, before, "", record))
        return "".join(out)


_KINDS: dict[Kind, Literal["open", "close", "empty"]] = {
    Kind.OPEN: "open",
    Kind.CLOSE: "close",
    Kind.EMPTY: "empty",
    Kind.GAP: "empty",
}


def _is_verbatim(record: UnitRecord, start: int) -> bool:
    """Say whether a place of the document is inside a CDATA section."""
    tokens = record.tokens[: bisect_left(record.tokens, start, key=lambda token: token.start)]
    edge = next((token for token in reversed(tokens) if token.verbatim), None) if record.has_verbatim else None
    return edge is not None and edge.kind is Kind.OPEN


def _is_changed(record: UnitRecord, segment: TargetSegment) -> bool:
    return segment.text != record.text[segment.start : segment.end]


def _protected_pieces(record: UnitRecord, segment: TargetSegment) -> list[tuple[int, int, int, int, int, int]]:
    """Return (start, end in the source segment, raw start, raw end, start, end in the target) of protected spans.

    The last two are -1 where the target lacks it; of several in the target, the first counts.
    """
    found: dict[int, tuple[int, int]] = {}
    for start, end, index in sorted(segment.protected):
        if start < end:
            found.setdefault(index, (start, end))
    pieces = []
    first = bisect_right(record.protected, (segment.start, -1))
    if first and record.protected[first - 1][1] > segment.start:
        first -= 1
    for index in range(first, len(record.protected)):
        start, end = record.protected[index]
        if start >= segment.end:
            break
        start, end = max(start, segment.start), min(end, segment.end)
        raw = record.raw_start(start), record.raw_end(end)
        pieces.append((start - segment.start, end - segment.start, *raw, *found.get(index, (-1, -1))))
    return pieces


def _region(record: UnitRecord, segment: TargetSegment) -> tuple[list[Token], int, int]:
    """Return the tokens that move within a segment, and the raw span that it is written over.

    Tags at its edges are inside only if their element covers a part of the segment; so an element that covers all of
    it stays around it.
    """
    tokens, start, end = record.tokens, segment.start, segment.end
    first = bisect_right(tokens, start, key=lambda token: token.position)
    last = bisect_left(tokens, end, key=lambda token: token.position)
    raw_start, raw_end = record.raw_start(start), record.raw_end(end)
    index = bisect_left(tokens, start, key=lambda token: token.position)
    for number in range(index, first):
        token = tokens[number]
        inside = token.kind is Kind.OPEN and start < record.closes.get(token.element, end) < end
        if inside:
            first, raw_start = number, token.start
            break
    after = bisect_right(tokens, end, key=lambda token: token.position)
    for number in range(after - 1, last - 1, -1):
        token = tokens[number]
        if token.kind is Kind.CLOSE and start < record.opens.get(token.element, start) < end:
            last, raw_end = number + 1, token.end
            break
    return tokens[first:last], raw_start, raw_end
