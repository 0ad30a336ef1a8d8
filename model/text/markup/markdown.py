"""Reads Markdown into units; the blocks are markdown-it's, the text inside them is markdown_inline.py's.

CommonMark with tables, strikethrough and front matter. Headings, paragraphs, list items and table cells are units;
the marks of lists, quotes, headings and tables are never touched, nor are code, link targets and titles, reference
definitions, front matter, footnote labels and task boxes. The alternative text of an image is a unit of its own,
unless there is markup in it. Code spans and autolinks are protected. A hard break is a border, a line end inside a
paragraph one space. A collapsed or shortcut reference link becomes a full one where its text is translated, so that it
still finds its definition. HTML blocks at the top are read as HTML, inline HTML as elements; HTML blocks inside lists
and quotes are kept as they are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.common.utils import normalizeReference
from markdown_it.token import Token as Block

from model.text.markup.escaping import escape_html
from model.text.markup.html import PROTECTED, VOID, HtmlReader
from model.text.markup.markdown_inline import InlineScanner, Item
from model.text.markup.options import MarkupOptions
from model.text.markup.units import Handle, UnitBuilder, UnitRecord

_LINE_END = re.compile(r"\r\n|\n|\r")
_FRONT_MATTER = re.compile(
    r"(---|\+\+\+)[ \t]*(?:\r\n|\n|\r)(?:.*(?:\r\n|\n|\r))*?(?:\1|\.\.\.)[ \t]*(?:\r\n|\n|\r|\Z)"
)
_TASK = re.compile(r"\[[ xX]\][ \t]+|\[![A-Za-z]+\][ \t]*(?=\n|\Z)")
_TAG_NAME = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
_NOT_TRANSLATED = re.compile(
    r"\stranslate\s*=\s*[\"']?no\b|\sclass\s*=\s*(?:[\"'][^\"']*)?\bnotranslate\b", re.IGNORECASE
)
_BLOCK_START = re.compile(r"(?:[-+*](?=\s|\Z)|#{1,6}(?=\s|\Z)|>|\d{1,9}[.)](?=\s|\Z)|~~~|=+\s*\Z|-+\s*\Z|\|)")
_ENTITY = re.compile(r"&(?=#?\w{1,32};)")
_ESCAPABLE = re.compile(r"[\\`*_\[\]<~|!]")


@dataclass(slots=True)
class _Open:
    """An element that is open while a block's items are reported."""

    handle: Handle
    pair: int
    name: str


class _Text:
    """A block's text over several lines, and where it stands in the document."""

    def __init__(self, document: str, spans: list[tuple[int, int]]) -> None:
        self.text = "\n".join(document[start:end] for start, end in spans)
        self._raw_starts = [start for start, _ in spans]
        self._starts = [0]
        for start, end in spans[:-1]:
            self._starts.append(self._starts[-1] + end - start + 1)

    def start(self, position: int) -> int:
        """Return where the character at ``position`` begins in the document."""
        line = bisect_right(self._starts, position) - 1
        return self._raw_starts[line] + position - self._starts[line]

    def end(self, position: int) -> int:
        """Return where the character before ``position`` ends in the document."""
        return self.start(position - 1) + 1 if position else self.start(0)


class _MarkdownReader:
    """Tells a builder about a document."""

    def __init__(self, document: str, options: MarkupOptions) -> None:
        self._document = document
        self._options = options
        self._ignored = {name.lower() for name in options.ignore_tags} | PROTECTED
        self._splitting = {"br", *(name.lower() for name in options.splitting_tags)}
        self.builder = UnitBuilder(document, escape_markdown)
        self._open: list[_Open] = []
        self._silent = ""
        self._labels: dict[str, object] = {}

    def read(self) -> None:
        """Read the whole document."""
        front = _FRONT_MATTER.match(self._document)
        begin = front.end() if front else 0
        starts = [begin, *(match.end() for match in _LINE_END.finditer(self._document, begin))]
        ends = [match.start() for match in _LINE_END.finditer(self._document, begin)] + [len(self._document)]
        parser = MarkdownIt("commonmark").enable("table")
        parser.core.ruler.enableOnly(["normalize", "block"])
        environment: dict[str, dict[str, object]] = {}
        blocks = parser.parse(self._document[begin:], environment)
        self._labels = environment.get("references", {})
        cells: list[tuple[int, int]] = []
        column = -1
        for index, block in enumerate(blocks):
            if block.type == "tr_open" and block.map:
                cells, column = _cells(self._document, starts[block.map[0]], ends[block.map[0]]), -1
            elif block.type in ("td_open", "th_open"):
                column += 1
            elif block.type == "html_block" and block.level == 0 and block.map:
                self._html(starts[block.map[0]], ends[block.map[1] - 1])
            elif block.type == "inline" and block.content:
                above = blocks[index - 1]
                if above.type in ("td_open", "th_open"):
                    spans = [span for span in cells[column : column + 1] if self._is_cell(span, block.content)]
                else:
                    spans = self._spans(block, above, starts, ends)
                if spans:
                    self._block(_Text(self._document, spans), in_table=above.type in ("td_open", "th_open"))

    def _html(self, start: int, end: int) -> None:
        self.builder.border()
        self.builder.escape = escape_html
        self.builder.border()
        HtmlReader(self.builder, self._options).read(start, end)
        self.builder.escape = escape_markdown
        self.builder.border()

    def _spans(self, block: Block, above: Block, starts: list[int], ends: list[int]) -> list[tuple[int, int]]:
        """Return where each line of a block's text stands; nothing if it is not found as it is."""
        lines = block.content.split("\n")
        first = block.map[0] if block.map else 0
        spans = []
        for number, line in enumerate(lines):
            if first + number >= len(starts):
                return []
            start, end = starts[first + number], ends[first + number]
            raw, wanted = self._document[start:end], line.strip()
            if above.type == "heading_open" and above.markup.startswith("#"):
                found = raw.find(wanted, len(raw) - len(raw[raw.find("#") :].lstrip("#")))
            else:
                found = len(raw.rstrip()) - len(wanted)
            if found < 0 or not raw.startswith(wanted, found):
                return []
            last = number == len(lines) - 1
            spans.append((start + found, start + found + len(wanted) if last else end))
        return spans

    def _is_cell(self, span: tuple[int, int], content: str) -> bool:
        """Say whether a span holds just the text that the parser found in a cell."""
        return self._document[slice(*span)].replace("\\|", "|") == content

    def _block(self, text: _Text, *, in_table: bool) -> None:
        """Report one block's text."""
        builder = self.builder
        builder.escape = _escape_cell if in_table else escape_markdown
        builder.border()
        items = InlineScanner(text.text, self._is_label).scan()
        task = _TASK.match(text.text)
        names = [_TAG_NAME.match(text.text, item.start) for item in items if item.kind == "html"]
        ends = Counter(name[2].lower() for name in names if name is not None and name[1])
        self._open, self._silent = [], ""
        skipped = task.end() if task else 0
        for item in items:
            if item.start >= skipped:
                self._item(item, text, ends)
            elif item.end > skipped:
                builder.text(text.start(skipped), text.end(item.end))
        while self._open:
            builder.close(self._open.pop().handle, text.end(len(text.text)), text.end(len(text.text)))
        builder.border()

    def _is_label(self, label: str) -> bool:
        return bool(self._labels) and normalizeReference(label) in self._labels

    def _item(self, item: Item, text: _Text, ends: Counter[str]) -> None:
        start, end = text.start(item.start), text.end(item.end)
        builder = self.builder
        if item.kind == "html":
            self._inline_html(item, text, ends)
        elif item.kind == "text":
            builder.text(start, end)
        elif item.kind == "character":
            builder.character(item.decoded, start, end)
        elif item.kind == "soft":
            builder.character(" ", text.end(item.start), text.start(item.end), space=True)
        elif self._silent:
            return
        elif item.kind in ("code", "autolink"):
            self._protected(item, text)
        elif item.kind == "hard":
            builder.border()
        elif item.kind == "open":
            self._open.append(_Open(builder.open(start, end), item.pair, ""))
        elif item.kind == "close":
            self._close(item.pair, start, end, item.decoded or None)
        else:
            builder.empty(start, end)
            if item.kind == "image" and "\n" not in text.text[item.start : item.end]:
                self._alternative(start + 2, start + item.pair - item.start)

    def _protected(self, item: Item, text: _Text) -> None:
        """Report a code span or an autolink, with the text that its reader sees."""
        raw = text.text[item.start : item.end]
        width = len(raw) - len(raw.lstrip("`")) if item.kind == "code" else 1
        first, last = item.start + width, item.end - width
        if item.kind == "code" and raw[width:-width].strip() and raw[width] in " \n" and raw[-width - 1] in " \n":
            first, last = first + 1, last - 1
        self.builder.begin_protected(text.start(item.start))
        cursor = first
        while (line_end := text.text.find("\n", cursor, last)) >= 0:
            self.builder.text(text.start(cursor), text.end(line_end), literal=True)
            self.builder.character(" ", text.end(line_end), text.start(line_end + 1), space=True)
            cursor = line_end + 1
        self.builder.text(text.start(cursor), text.end(last), literal=True)
        self.builder.end_protected(text.end(item.end))

    def _close(self, pair: int, start: int, end: int, rewritten: str | None) -> None:
        """Report the end of emphasis or a link; HTML elements that are still open inside end without a tag."""
        while self._open and self._open[-1].pair != pair:
            self.builder.close(self._open.pop().handle, start, start)
        if self._open:
            self.builder.close(self._open.pop().handle, start, end, rewritten)

    def _inline_html(self, item: Item, text: _Text, ends: Counter[str]) -> None:
        start, end = text.start(item.start), text.end(item.end)
        match = _TAG_NAME.match(text.text, item.start)
        name = match[2].lower() if match else ""
        raw = text.text[item.start : item.end]
        if match and match[1]:
            ends[name] -= 1
            if self._silent:
                if self._silent == name:
                    self._silent = ""
                    self.builder.end_protected(end)
            elif self._open and self._open[-1].name == name:
                self.builder.close(self._open.pop().handle, start, end)
            else:
                self.builder.empty(start, end)
        elif self._silent:
            return
        elif name in self._splitting:
            self.builder.border()
        elif not name or name in VOID or raw.endswith("/>") or not ends[name]:
            self.builder.empty(start, end)
        elif name in self._ignored or _NOT_TRANSLATED.search(raw):
            self._silent = name
            self.builder.begin_protected(start)
        else:
            self._open.append(_Open(self.builder.open(start, end), -1, name))

    def _alternative(self, start: int, end: int) -> None:
        """Report an image's alternative text, unless there is markup in it, which would be lost."""
        pieces = []
        for item in InlineScanner(self._document[start:end], self._is_label).scan():
            if item.kind not in ("text", "character"):
                return
            raw = self._document[start + item.start : start + item.end]
            pieces.append((item.decoded or raw, start + item.start, start + item.end))
        self.builder.attribute(start, end, "]", pieces)


def _cells(document: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the spans of a table row's cells, without the spaces around them."""
    borders = [start - 1]
    cursor = start
    while cursor < end:
        if document[cursor] == "\\":
            cursor += 1
        elif document[cursor] == "|":
            borders.append(cursor)
        cursor += 1
    borders.append(end)
    spans = []
    for left, right in pairwise(borders):
        cell = document[left + 1 : right]
        first = left + 1 + len(cell) - len(cell.lstrip())
        spans.append((first, max(first, left + 1 + len(cell.rstrip()))))
    if len(spans) > 1 and not document[spans[0][0] : spans[0][1]].strip(" \t>"):
        spans.pop(0)
    return spans


def escape_markdown(text: str, before: str, after: str, record: UnitRecord, *, in_table: bool = False) -> str:
    """Write text in Markdown; characters that would become markup get a backslash, others stay as they are.

    ``before`` and ``after`` are the characters that stand beside it in the document.
    """
    parts = []
    cursor = 0
    for match in _ESCAPABLE.finditer(text):
        index = match.start()
        left = text[index - 1] if index else before
        right = text[index + 1] if index + 1 < len(text) else after
        if _is_markup(match[0], left, right, record, in_table=in_table):
            parts.append(text[cursor:index] + "\\")
            cursor = index
    escaped = "".join(parts) + text[cursor:]
    escaped = _ENTITY.sub("&amp;", escaped)
    for character, raw in record.spellings.items():
        if not character.isascii() and character in escaped:
            escaped = escaped.replace(character, raw)
    if before in ("\n", "") and (block := _BLOCK_START.match(escaped)) is not None:
        cut = block.end() - 1 if escaped[0].isdigit() else 0
        escaped = f"{escaped[:cut]}\\{escaped[cut:]}"
    return escaped


def _is_markup(mark: str, left: str, right: str, record: UnitRecord, *, in_table: bool) -> bool:
    """Say whether a character between two others could begin or end markup."""
    if mark == "\\":
        return right.isascii() and not right.isalnum() and not right.isspace()
    if mark in "*_":
        if (not left or left.isspace()) and (not right or right.isspace()):
            return False
        return mark == "*" or not (left.isalnum() and right.isalnum())
    if mark in "[]":
        # Inside an element, which may be a link, or in an image's text, a bracket could end it.
        elements = bool(record.quote) or record.num_elements > 0
        return elements or mark not in record.bare or right in ("(", "[", ":")
    if mark == "<":
        return right.isalpha() or right in ("/", "!", "?")
    if mark == "!":
        return right == "["
    if mark == "~":
        return "~" in (left, right)
    return mark == "`" or in_table


def _escape_cell(text: str, before: str, after: str, record: UnitRecord) -> str:
    """Write text in a table's cell."""
    return escape_markdown(text, before, after, record, in_table=True)


def read_markdown(document: str, options: MarkupOptions) -> list[UnitRecord]:
    """Return the units of a Markdown document; any text is accepted."""
    reader = _MarkdownReader(document, options)
    reader.read()
    return reader.builder.records
