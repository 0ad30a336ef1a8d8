"""Texts of subtitle cues: joined where cues share a sentence, and cut again at spaces; it knows no file format.

The translation is cut in proportion to the lengths of the cues and of their lines. Tags such as ``<i>`` are numbered
tags in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from model.documents.document import DocumentText, Edit, Raw, Slot, invalid, is_translatable
from model.documents.xml_tokens import escape, unescape

MAX_LINE = 42
"""Characters of a line above which it is broken; the limit that broadcasters commonly set."""
_MAX_JOINED = 8
"""Cues that are joined at most, for files without any punctuation."""
_MAX_OPENED = 100
"""Tags in one another that are still matched."""
_ASS_PAIR = re.compile(r"\{\\([bius])([01])\}")
_ANGLE_PAIR = re.compile(r"<(/?)([A-Za-z]+)")
_SPEAKER = re.compile(r"(?:<[^<>]*+>|\{[^{}]*+\})*+\s*+[-\u2013\u2014\u2010]\s*\S|<v[ .]")
"""The beginning of a line that somebody else says."""
_VOICE = re.compile(r"<v[ .][^<>]*>")
_ENDED = re.compile(r"[.!?\u2026:;\u266a\u266b)\]\u3002\uff01\uff1f][\"'\u2019\u201d\u00bb\s]*$")
_OPENERS = "\"'\u2018\u201c\u00ab "
_TAG = re.compile(r"<(/?)([wx])(\d+)\s*(/?)>")
_SPACES = re.compile(r"[ \t\r\n\f\v]+")


@dataclass(frozen=True)
class Dialect:
    """How text is written in one of the formats."""

    tag: re.Pattern[str]
    line_break: re.Pattern[str]
    read: Callable[[str], str]
    """Source to characters."""
    write: Callable[[str], str]
    """Characters to source."""


@dataclass(frozen=True)
class Cue:
    """The place of a cue's text in its file."""

    start: int
    end: int
    newline: str
    """The line break to write."""
    voice: str = ""
    """Cues of different voices are never joined."""


@dataclass(frozen=True)
class _Tag:
    """A tag in a piece; ``pair`` is the index of its partner among the items, or -1."""

    raw: str
    pair: int = -1


@dataclass
class _Piece:
    """What one speaker says in one cue, without what stands before and after the words."""

    start: int
    end: int
    items: list[str | _Tag]
    newline: str
    voice: str
    lines: list[int] = field(default_factory=list)
    """Characters in each line."""

    @property
    def plain(self) -> str:
        return "".join(item for item in self.items if isinstance(item, str))


def cue_slots(text: str, cues: Iterator[Cue], dialect: Dialect) -> list[Slot]:
    """Return the slots for all cues of a file that have words.

    Raises:
        InvalidDocumentError: by the slots, for translations with other tags than their texts.
    """
    pieces = [piece for cue in cues for piece in _pieces(text, cue, dialect)]
    return [_slot(group, dialect) for group in _groups(pieces)]


def _pieces(text: str, cue: Cue, dialect: Dialect) -> Iterator[_Piece]:
    """Cut a cue where somebody else begins to speak."""
    start, end = cue.start, cue.end
    cuts = [start]
    separators = {found.end(): found.start() for found in dialect.line_break.finditer(text, start, end)}
    if separators and _SPEAKER.match(text, start):
        cuts += [at for at in separators if _SPEAKER.match(text, at, end)]
    for index, first in enumerate(cuts):
        last = separators[cuts[index + 1]] if index + 1 < len(cuts) else end
        speaker = _VOICE.match(text, first, last)
        items = _paired(_items(text[first:last], dialect))
        begin, stop = _trim(items)
        width = [len(item.raw if isinstance(item, _Tag) else item) for item in items]
        first, last = first + sum(width[:begin]), last - sum(width[stop:])
        kept: list[str | _Tag] = []
        for item in items[begin:stop]:
            pair = item.pair - begin if isinstance(item, _Tag) and item.pair >= 0 else -1
            kept.append(_Tag(item.raw, pair) if isinstance(item, _Tag) else item)
        raw_lines = dialect.line_break.split("".join(item for item in kept if isinstance(item, str)))
        lines = [len(dialect.read(line).strip()) for line in raw_lines if line.strip()]
        kept = [
            item if isinstance(item, _Tag) else _SPACES.sub(" ", dialect.read(dialect.line_break.sub(" ", item)))
            for item in kept
        ]
        yield _Piece(first, last, kept, cue.newline, cue.voice + (speaker[0] if speaker else ""), lines)


def _items(source: str, dialect: Dialect) -> list[str | _Tag]:
    """Cut a piece's source into texts, runs of spaces and tags."""
    items: list[str | _Tag] = []
    position = 0
    for found in dialect.tag.finditer(source):
        items += [*_texts(source[position : found.start()], dialect), _Tag(found[0])]
        position = found.end()
    return [*items, *_texts(source[position:], dialect)]


def _texts(source: str, dialect: Dialect) -> list[str]:
    """Cut spaces and line breaks at both ends off a text, so that they can be left outside."""
    space = re.compile(rf"[ \t\r\n\f\v]|{dialect.line_break.pattern}")
    first, last = 0, len(source)
    while found := space.match(source, first):
        first = found.end()
    while last > first:
        width = next((width for width in (1, 2) if space.fullmatch(source, max(last - width, first), last)), 0)
        if not width:
            break
        last -= width
    return [part for part in (source[:first], source[first:last], source[last:]) if part]


def _paired(items: list[str | _Tag]) -> list[str | _Tag]:
    """Tell tags that belong together, such as ``<i>`` and ``</i>``."""
    opened: list[tuple[str, int]] = []
    for index, item in enumerate(items):
        if not isinstance(item, _Tag):
            continue
        if found := _ASS_PAIR.fullmatch(item.raw):
            closes, name = found[2] == "0", found[1]
        elif angle := _ANGLE_PAIR.match(item.raw):
            closes, name = bool(angle[1]), angle[2].lower()
        else:
            continue
        if not closes:
            opened.append((name, index))
            del opened[:-_MAX_OPENED]
        elif any(name == other for other, _ in opened):
            while opened[-1][0] != name:
                opened.pop()
            start = opened.pop()[1]
            first = items[start]
            assert isinstance(first, _Tag)
            items[start], items[index] = _Tag(first.raw, index), _Tag(item.raw, start)
    return items


def _trim(items: Sequence[str | _Tag]) -> tuple[int, int]:
    """Return the range of items without spaces, single tags and pairs around everything at its ends."""
    first, last = 0, len(items)

    def outside(item: str | _Tag) -> bool:
        return item.pair < 0 if isinstance(item, _Tag) else not item.replace("\\N", "").replace("\\n", "").strip()

    while first < last:
        left, right = items[first], items[last - 1]
        if outside(left):
            first += 1
        elif outside(right):
            last -= 1
        elif isinstance(left, _Tag) and left.pair == last - 1:
            first, last = first + 1, last - 1
        else:
            break
    return first, last


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Join pieces that share a sentence; pieces without words are left out."""
    groups: list[list[_Piece]] = []
    previous: _Piece | None = None
    for piece in pieces:
        text = piece.plain
        if not is_translatable(text):
            previous = None
            continue
        joined = (
            previous is not None
            and previous.voice == piece.voice
            and len(groups[-1]) < _MAX_JOINED
            and not _ENDED.search(previous.plain)
            and (text.lstrip(_OPENERS)[:1].islower() or previous.plain.rstrip().endswith(","))
        )
        if joined:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        previous = piece
    return groups


_Mark = tuple[int, int]
"""A tag in a translation: 0 for an opening, 1 for a closing, 2 for a single tag; and its number."""
_Word = list[str | _Mark]


def _slot(group: Sequence[_Piece], dialect: Dialect) -> Slot:
    """Return the slot of the pieces of one text."""
    tags: dict[_Mark, str] = {}
    written: list[str] = []
    tagged = any(isinstance(item, _Tag) for piece in group for item in piece.items)
    number = 0
    for piece in group:
        numbers: dict[int, int] = {}
        content = []
        for index, item in enumerate(piece.items):
            if isinstance(item, str):
                content.append(escape(item) if tagged else item)
                continue
            kind = 2 if item.pair < 0 else int(item.pair < index)
            if kind != 1:
                number += 1
                numbers[index] = number
            own = numbers[item.pair if kind == 1 else index]
            tags[kind, own] = item.raw
            content.append((f"<w{own}>", f"</w{own}>", f"<x{own}/>")[kind])
        written.append("".join(content))

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:  # noqa: ARG001 - one signature for all slots
        words = _words(translations[0], tagged)
        if Counter(mark for word in words for mark in word if isinstance(mark, tuple)) != Counter(list(tags)):
            raise invalid("must get back the tags of its texts, each exactly once", translations[0])
        edits: list[Edit] = []
        opened: list[int] = []
        for piece, part in zip(group, _split(words, [sum(piece.lines) for piece in group]), strict=True):
            source = ["".join(tags[0, each] for each in opened)]
            for index, line in enumerate(_broken(part, piece.lines)):
                source.append(piece.newline if index else "")
                source.append(" ".join(_source(word, tags, opened, dialect) for word in line))
            source += [tags[1, each] for each in reversed(opened)]
            edits.append((piece.start, piece.end, "".join(source)))
        return edits

    text = DocumentText(" ".join(written), "xml" if tagged else "text")
    return Slot(group[-1].end, (text,), write)


def _words(translation: str, tagged: bool) -> list[_Word]:
    """Cut a translation at its spaces into words with the tags that touch them."""
    words: list[_Word] = [[]]
    stack: list[str] = []

    def add(text: str) -> None:
        for index, part in enumerate(_SPACES.split(unescape(text) if tagged else text)):
            if index:
                words.append([])
            if part:
                words[-1].append(part)

    position = 0
    for found in _TAG.finditer(translation) if tagged else ():
        add(translation[position : found.start()])
        position = found.end()
        closing, letter, number, empty = found.groups()
        if (letter == "x") != bool(empty) or (closing and (not stack or stack.pop() != number)):
            raise invalid("must get back tags that nest", translation)
        if letter == "w" and not closing:
            stack.append(number)
        words[-1].append((2 if empty else int(bool(closing)), int(number)))
    if stack or (tagged and "<" in _TAG.sub("", translation)):
        raise invalid("must get back tags that nest", translation)
    add(translation[position:])
    return [word for word in words if word]


def _length(word: _Word) -> int:
    return sum(len(part) for part in word if isinstance(part, str))


def _split(words: Sequence[_Word], weights: Sequence[int]) -> list[Sequence[_Word]]:
    """Cut words into parts whose lengths are as close to ``weights`` as words allow."""
    if len(weights) < 2:
        return [words]
    ends = []
    position = -1
    for word in words:
        position += _length(word) + 1
        ends.append(position)
    # The space between two parts belongs to neither of them.
    scale = max(position, 0) / (sum(weights) + len(weights) - 1)
    parts, first, wished = [], 0, -1.0
    for index, weight in enumerate(weights[:-1]):
        wished += weight + 1
        last_possible = max(len(words) - (len(weights) - 1 - index), min(first + 1, len(words)))
        after = bisect_left(ends, scale * wished)
        near = (min(max(at, min(first + 1, last_possible)), last_possible) for at in (after, after + 1))
        cut = min(near, key=lambda at: abs((ends[at - 1] if at else 0) - scale * wished))
        parts.append(words[first:cut])
        first = cut
    return [*parts, words[first:]]


def _broken(words: Sequence[_Word], lines: Sequence[int]) -> list[Sequence[_Word]]:
    """Cut the words of a piece into lines: like the source's where that fits, and else into equal parts."""
    length = sum(_length(word) + 1 for word in words) - 1
    count = max(len(lines), -(-length // MAX_LINE))
    if count < 2 or len(words) < 2:
        return [words]
    for parts in (_split(words, lines), _split(words, [1000] * count)):
        if all(sum(_length(word) + 1 for word in part) - 1 <= MAX_LINE for part in parts):
            break
    return [part for part in parts if part]


def _source(word: _Word, tags: dict[_Mark, str], opened: list[int], dialect: Dialect) -> str:
    """Return the source of a word; ``opened``: numbers of the tags that are open, kept up to date."""
    source = []
    for part in word:
        if isinstance(part, str):
            source.append(dialect.write(part))
            continue
        if part[0] == 0:
            opened.append(part[1])
        elif part[0] == 1:
            opened.remove(part[1])
        source.append(tags[part])
    return "".join(source)
