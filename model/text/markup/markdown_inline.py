"""Finds emphasis, links, code and the rest in the text of one Markdown block; knows no blocks and no units.

CommonMark 0.31.2, section 6, with strikethrough; in linear time.
"""

from __future__ import annotations

import html
import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from html.entities import html5
from typing import Literal

ItemKind = Literal[
    "text", "character", "code", "autolink", "html", "hard", "soft", "delimiter", "open", "close", "image", "note"
]

_SPECIAL = re.compile(r"[\\`<&\[\]!*_~\n]")
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_AUTOLINK = re.compile(r"<(?:[A-Za-z][A-Za-z0-9+.-]{1,31}:[^\s<>]*+|[\w.!#$%&'*+/=?^`{|}~-]++@[\w.-]++)>", re.ASCII)
_HTML = re.compile(
    r"<(?:[A-Za-z][A-Za-z0-9-]*+(?:\s++[A-Za-z_:][\w.:-]*+(?:\s*+=\s*+(?:[^\s\"'=<>`]++|'[^']*+'|\"[^\"]*+\"))?+)*+\s*+/?+>"
    r"|/[A-Za-z][A-Za-z0-9-]*+\s*+>)",
    re.ASCII,
)
_NOTE = re.compile(r"\[\^[^\]\s\[]{1,100}\]:?")
_LABEL = re.compile(r"\[((?:[^\[\]\\]|\\.){0,999})\]", re.DOTALL)
_TITLE = re.compile(r"""[ \t\n]++(?:"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|\((?:[^()\\]|\\.)*+\))""", re.DOTALL)
_ANGLE = re.compile(r"<(?:[^<>\n\\]|\\.)*+>")
_MAX_PARENTHESES = 8
"""Most that are open in a destination; the specification asks for three."""
_DESTINATION = re.compile(r"(?:[^\s\x00-\x20()<\\]++|\\.)*+")


@dataclass(slots=True)
class Item:
    """A piece of a block's text, ``text[start:end]``."""

    kind: ItemKind
    start: int
    end: int
    decoded: str = ""
    """What a character stands for; what a reference link's end is written as once its text has changed."""
    pair: int = -1
    """The same for both ends of an element."""


@dataclass(slots=True)
class _Delimiter:
    """A run of ``*``, ``_`` or ``~``; closing tags are taken from its left end, opening ones from its right."""

    item: int
    left: int
    right: int
    mark: str
    can_open: bool
    can_close: bool
    length: int = 0
    closes: list[Item] = field(default_factory=list)
    opens: list[Item] = field(default_factory=list)


@dataclass(slots=True)
class _Bracket:
    item: int
    image: bool
    num_delimiters: int
    active: bool = True


class InlineScanner:
    """One pass over one block's text."""

    def __init__(self, text: str, is_label: Callable[[str], bool]) -> None:
        """Scan ``text``; ``is_label`` says whether a reference label is defined in the document."""
        self._text = text
        self._is_label = is_label
        self._items: list[Item] = []
        self._delimiters: list[_Delimiter] = []
        self._runs: dict[int, _Delimiter] = {}
        self._brackets: list[_Bracket] = []
        self._num_pairs = 0
        self._plain_from = 0
        self._ticks: defaultdict[int, list[int]] = defaultdict(list)
        for match in re.finditer(r"`+", text):
            self._ticks[len(match[0])].append(match.start())
        self._missing: set[str] = set()
        self._last_angle = text.rfind(">")

    def scan(self) -> list[Item]:
        """Return items that cover the text, elements properly nested."""
        text, cursor = self._text, 0
        while (match := _SPECIAL.search(text, cursor)) is not None:
            cursor = self._special(match.start())
        self._plain(len(text))
        self._pair_delimiters(0)
        items: list[Item] = []
        for index, item in enumerate(self._items):
            run = self._runs.get(index)
            if run is None or item.kind != "delimiter":
                items.append(item)
                continue
            items.extend(run.closes)
            if run.left < run.right:
                items.append(Item("text", run.left, run.right))
            items.extend(reversed(run.opens))
        return items

    def _plain(self, end: int) -> None:
        if self._plain_from < end:
            self._items.append(Item("text", self._plain_from, end))
        self._plain_from = end

    def _add(self, kind: ItemKind, start: int, end: int, decoded: str = "") -> int:
        self._plain(start)
        self._items.append(Item(kind, start, end, decoded))
        self._plain_from = end
        return end

    def _special(self, start: int) -> int:
        """Read the special character at ``start``; return where to go on."""
        text = self._text
        mark = text[start]
        following = text[start + 1 : start + 2]
        if mark == "\\":
            if following in _PUNCTUATION and following:
                return self._add("character", start, start + 2, following)
            return self._add("hard", start, start + 2) if following == "\n" else start + 1
        if mark == "\n":
            hard = text.endswith("  ", self._plain_from, start)
            return self._add("hard" if hard else "soft", start, start + 1)
        if mark == "`":
            return self._code(start)
        if mark == "<":
            return self._angle(start)
        if mark == "&":
            match = _ENTITY.match(text, start)
            if match is None or (match[0][1] != "#" and match[0][1:] not in html5):
                return start + 1
            return self._add("character", start, match.end(), html.unescape(match[0]) or "\ufffd")
        if mark in "*_~":
            return self._delimiter(start)
        if mark == "]":
            return self._bracket_end(start)
        if mark == "!" and following != "[":
            return start + 1
        note = _NOTE.match(text, start)
        if note is not None:
            return self._add("note", start, note.end())
        end = start + (2 if mark == "!" else 1)
        self._add("text", start, end)
        self._brackets.append(_Bracket(len(self._items) - 1, mark == "!", len(self._delimiters)))
        return end

    def _code(self, start: int) -> int:
        end = start
        while self._text[end : end + 1] == "`":
            end += 1
        same = self._ticks[end - start]
        closing = bisect_right(same, start)
        if closing == len(same):
            return end
        return self._add("code", start, same[closing] + end - start)

    def _angle(self, start: int) -> int:
        for opening, closing in (("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>")):
            if self._text.startswith(opening, start) and closing not in self._missing:
                end = self._text.find(closing, start + len(opening))
                if end >= 0:
                    return self._add("html", start, end + len(closing))
                self._missing.add(closing)
        if start > self._last_angle:
            return start + 1
        match = _AUTOLINK.match(self._text, start)
        if match is not None:
            return self._add("autolink", start, match.end())
        match = _HTML.match(self._text, start)
        return start + 1 if match is None else self._add("html", start, match.end())

    def _delimiter(self, start: int) -> int:
        text, mark, end = self._text, self._text[start], start
        while text[end : end + 1] == mark:
            end += 1
        if mark == "~" and end - start != 2:
            return end
        before, after = text[start - 1 : start] or " ", text[end : end + 1] or " "
        left = not after.isspace() and (not _is_mark(after) or before.isspace() or _is_mark(before))
        right = not before.isspace() and (not _is_mark(before) or after.isspace() or _is_mark(after))
        can_open = left and (mark != "_" or not right or _is_mark(before))
        can_close = right and (mark != "_" or not left or _is_mark(after))
        self._add("delimiter", start, end)
        run = _Delimiter(len(self._items) - 1, start, end, mark, can_open, can_close, end - start)
        self._runs[run.item] = run
        self._delimiters.append(run)
        return end

    def _bracket_end(self, start: int) -> int:
        if not self._brackets:
            return start + 1
        bracket = self._brackets.pop()
        if not bracket.active:
            return start + 1
        opening = self._items[bracket.item]
        end, rewritten = self._target(opening.end, start)
        if end < 0:
            return start + 1
        self._plain(start)
        self._pair_delimiters(bracket.num_delimiters)
        if bracket.image:
            del self._items[bracket.item :]
            self._plain_from = opening.start
            self._add("image", opening.start, end)
            self._items[-1].pair = start
            return end
        opening.kind, opening.pair = "open", self._num_pairs
        self._items.append(Item("close", start, end, rewritten, self._num_pairs))
        self._num_pairs += 1
        self._plain_from = end
        for earlier in reversed(self._brackets):
            if not earlier.image:
                if not earlier.active:
                    break
                earlier.active = False
        return end

    def _target(self, content: int, start: int) -> tuple[int, str]:
        """Return the end of what follows the "]" at ``start`` of a link, -1 if it is none, and how to rewrite it."""
        text = self._text
        if text[start + 1 : start + 2] == "(":
            end = self._destination(start + 2)
            if end >= 0:
                return end, ""
        label = text[content:start]
        if text[start + 1 : start + 2] == "[":
            match = _LABEL.match(text, start + 1)
            if match is not None and match[1] and self._is_label(match[1]):
                return match.end(), ""
            if match is not None and match[1]:
                return -1, ""
        if len(label) > 999 or not self._is_label(label):
            return -1, ""
        end = start + 3 if text.startswith("[]", start + 1) else start + 1
        return end, f"][{label}]"

    def _destination(self, cursor: int) -> int:
        """Return the end of a link's destination and title in parentheses; -1 if it is none."""
        text = self._text
        cursor = _skip_space(text, cursor)
        angle = _ANGLE.match(text, cursor)
        if angle is not None:
            cursor = angle.end()
        else:
            depth = 0
            while (match := _DESTINATION.match(text, cursor)) is not None:
                cursor = match.end()
                following = text[cursor : cursor + 1]
                depth += {"(": 1, ")": -1}.get(following, _MAX_PARENTHESES)
                if not 0 <= depth < _MAX_PARENTHESES:
                    break
                cursor += 1
            depth -= _MAX_PARENTHESES if depth >= _MAX_PARENTHESES else 0
            if depth > 0:
                return -1
        title = _TITLE.match(text, cursor)
        if title is not None:
            cursor = title.end()
        cursor = _skip_space(text, cursor)
        return cursor + 1 if text[cursor : cursor + 1] == ")" else -1

    def _pair_delimiters(self, bottom: int) -> None:
        """Pair the runs from ``bottom`` on as emphasis, and forget them (the specification's "process emphasis")."""
        waiting: list[_Delimiter] = []
        least: dict[tuple[str, bool, int], int] = {}
        for run in self._delimiters[bottom:]:
            while run.can_close and run.left < run.right:
                key = (run.mark, run.can_open, run.length % 3)
                found = self._opener(run, waiting, least.get(key, 0))
                if found < 0:
                    least[key] = len(waiting)
                    break
                self._pair(waiting[found], run)
                empty = waiting[found].left == waiting[found].right
                del waiting[found if empty else found + 1 :]
                least = {each: min(place, len(waiting)) for each, place in least.items()}
            if run.can_open and run.left < run.right:
                waiting.append(run)
        del self._delimiters[bottom:]

    def _opener(self, closer: _Delimiter, waiting: list[_Delimiter], least: int) -> int:
        """Return which of the runs that wait opens what ``closer`` closes; -1 if none does."""
        for index in range(len(waiting) - 1, least - 1, -1):
            opener = waiting[index]
            if opener.mark != closer.mark:
                continue
            either = (opener.can_close or closer.can_open) and (opener.length + closer.length) % 3 == 0
            if not either or (opener.length % 3 == 0 and closer.length % 3 == 0) or closer.mark == "~":
                return index
        return -1

    def _pair(self, opener: _Delimiter, closer: _Delimiter) -> None:
        width = 2 if opener.right - opener.left >= 2 and closer.right - closer.left >= 2 else 1
        opener.right -= width
        opener.opens.append(Item("open", opener.right, opener.right + width, pair=self._num_pairs))
        closer.closes.append(Item("close", closer.left, closer.left + width, pair=self._num_pairs))
        closer.left += width
        self._num_pairs += 1


def _is_mark(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character)[0] in "PS"


def _skip_space(text: str, cursor: int) -> int:
    while text[cursor : cursor + 1] in (" ", "\t", "\n"):
        cursor += 1
    return cursor
