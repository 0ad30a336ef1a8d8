"""Cuts a document into translatable segments with source spans, and puts translations back between the same gaps.

Rules, not statistics: lines first, then sentences of French and English inside a line. Everything between segments
(line breaks, runs of spaces, bullets, numbers, emoji) stays in the gaps and is never touched. Markup is not understood
here.
"""
# ruff: noqa: RUF001 (punctuation that resembles other punctuation is this file's business)

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

_STOPS = ".!?…‼⁇⁈⁉؟।॥۔"
_WIDE_STOPS = "。！？｡"
_CLOSERS = "\"'”’)\\]}*_¹²³"
_OPENERS = "«“„\"'‘’(\\[{<¿¡*_–—\\-"
_OUTER = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff\u200b\u2060"
)
"""Whitespace and invisible characters, which no segment begins or ends with."""
_LONGEST_TOKEN = 24
"""Characters looked at before a full stop: no abbreviation is longer, and a bound keeps the whole linear."""

_HARD_BREAK = re.compile(r"[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+|\s{4,}")
# The look-behind and the possessive quantifiers keep a run of any length at one visit a character.
_CANDIDATE = re.compile(
    rf"(?<![{_STOPS}])([{_STOPS}]++)(?:[ \u00a0\u202f]?+»|[{_CLOSERS}]|\[\d{{1,3}}\])*+(?P<gap>\s++)"
    rf"|[{_WIDE_STOPS}]++[」』）”]*+(?P<wide>\s*+)"
)
_MARKER = re.compile(
    r"(?:(?:[-–—*•◦▪‣·●○■□➢➤>]++|\#{1,6}|\d{1,3}(?:\.\d{1,3}){0,4}[.)]|\(\d{1,3}\)|\(?[a-z]\)|\(?[ivx]{1,5}\)"
    r"|(?:X{1,3}(?:IX|IV|V?I{0,3})|IX|IV|VI{0,3}|I{2,3})[.)])\s++){1,4}+"
)
_NEXT_WORD = re.compile(rf"[{_OPENERS}\s]{{0,8}}+(\w{{1,20}})(['’]?)")
_INITIALS = re.compile(r"[A-ZÀ-ÖØ-Þ]|[^\W\d_](?:(?:\.-?|-)[^\W\d_])+")
_ROMAN_OR_LETTER = re.compile(r"[IVXLCDM]+|[A-Z]")
_ADDRESS = re.compile(r"(?:(?:https?|ftp)://|www\.)\S+|[^\s@<>]+@[^\s@<>]+\.\w+")
_ELISIONS = frozenset({"L", "D", "C", "J", "S", "N", "M", "T", "Qu", "Jusqu", "Lorsqu", "Puisqu"})
_PARTICLES = frozenset({"Le", "La", "De", "Du", "Des", "An", "A"})

_BREAKS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:[!?…]|(?<=[a-zà-ÿ]{{4}})\.)[»{_CLOSERS}]{{0,4}}\s|[{_WIDE_STOPS}]",
        r"[;:]\s|[；：]",
        r"[,،]\s|[，、]",
        r"\s(?=[-–—]\s)|(?<=\S)—|…",
        r"[)\]»”]\s|\s(?=[(\[«“])",
        r"\s",
        r"[-/_.,;:|&?=+~\\]",
    )
)
"""Where to cut a segment that is too long, best first."""
_CUT_RADIUS = 256
"""Characters looked at on each side of the wished cut."""
_LONGEST_CLUSTER = 64
"""A grapheme cluster above this is hostile and is cut; stream-safe text has at most 30 marks (UAX #15, section 13)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A translatable piece of a document, without outer whitespace: ``source[start:end] == text``."""

    start: int
    """Index of the first character in the source."""
    end: int
    """Index behind the last character in the source."""
    text: str
    """The characters themselves."""


@dataclass(frozen=True)
class _Rules:
    """The abbreviations of one language, by what may follow them."""

    title: frozenset[str]
    digit: frozenset[str]
    number: frozenset[str]
    final: frozenset[str]
    starter: frozenset[str]


def split_segments(text: str, language: str | None = None) -> list[Segment]:
    """Split a document into sentences, in order; time is linear in the length.

    A line break, a tab or four spaces always separate: hard-wrapped prose is translated line by line, because joining
    two lines would lose the break. Pieces without a letter are left in the gaps, as are bullets and list numbers.

    Args:
        text: any string.
        language: ``"fr"`` or ``"en"`` picks that language's abbreviations; anything else takes both.
    """
    rules = _rules(language if language in ("fr", "en") else None)
    segments: list[Segment] = []
    for start, end in _lines(text):
        _split_line(text, start, end, rules, segments)
    return segments


def join_segments(source: str, segments: Sequence[Segment], translations: Sequence[str]) -> str:
    """Put one translation in the place of each segment; everything around them is the source's, byte for byte.

    Raises:
        ValueError: the two sequences differ in length.
    """
    parts: list[str] = []
    position = 0
    for segment, translation in zip(segments, translations, strict=True):
        assert position <= segment.start <= segment.end <= len(source), "segments must be in order and not overlap"
        parts.append(source[position : segment.start])
        parts.append(translation)
        position = segment.end
    parts.append(source[position:])
    return "".join(parts)


def is_translatable(text: str) -> bool:
    """Whether there is anything to translate: a letter, in something that is not just a web or mail address."""
    return text.isalpha() or (any(map(str.isalpha, text)) and not _ADDRESS.fullmatch(text))


def split_long(segment: Segment, fits: Callable[[str], bool]) -> list[Segment]:
    """Cut a segment into pieces that fit, at the best punctuation or space near the middle, halving until they do.

    Never cuts inside a grapheme cluster of sane length; a single cluster that does not fit is returned as it is. Pieces
    without a letter stay in the gaps, so ``join_segments`` with the pieces still gives the source back.

    Args:
        segment: the piece to cut.
        fits: whether a text is short enough; should be true of the empty string and of parts of a text that fits.
            It is called O(pieces) times on O(n log n) characters at most, and never on a text far longer than the limit
            after the first call.
    """
    text = segment.text
    if fits(text):
        return [segment]
    known = _fitting_prefix(text, fits)
    pieces: list[Segment] = []
    stack = [(0, len(text))]
    while stack:
        start, end = stack.pop()
        # Pieces far above a length that fitted are halved unasked: asking costs as much as encoding them.
        cut = None if end - start <= 8 * known and fits(text[start:end].strip(_OUTER)) else _cut(text, start, end)
        if cut is None:
            _append(text, start, end, pieces)
        else:
            stack += [(cut, end), (start, cut)]
    return [Segment(segment.start + piece.start, segment.start + piece.end, piece.text) for piece in pieces]


@cache
def _rules(language: str | None) -> _Rules:
    """Read the abbreviations of one language, or of all of them."""
    kinds: dict[str, set[str]] = {kind: set() for kind in ("title", "digit", "number", "final", "starter")}
    table = resources.files(__package__).joinpath("data", "abbreviations.tsv").read_text(encoding="utf-8")
    for line in table.splitlines():
        if line.startswith("#"):
            continue
        kind, languages, words = line.split("\t")
        if language is None or language in languages.split():
            kinds[kind].update(words.split())
    if language is None:
        kinds["title"] -= {"Me", "Mes"}  # French "Maître", but an English sentence often ends in "Me."
    return _Rules(**{kind: frozenset(words) for kind, words in kinds.items()})


def _lines(text: str) -> Iterator[tuple[int, int]]:
    """Spans between hard breaks."""
    position = 0
    for gap in _HARD_BREAK.finditer(text):
        if gap.start() > position:
            yield position, gap.start()
        position = gap.end()
    if position < len(text):
        yield position, len(text)


def _split_line(text: str, start: int, end: int, rules: _Rules, segments: list[Segment]) -> None:
    """Append the sentences of one line."""
    sentence = _skip_marker(text, start, end)
    if end - sentence < 3:  # the shortest line with two sentences is "あ。い"
        _append(text, sentence, end, segments)
        return
    for match in _CANDIDATE.finditer(text, sentence, end):
        if match.start() < sentence or match.end() == end:
            continue
        if match["gap"] is None:
            stop = match.start("wide")
        elif _ends_sentence(text, sentence, end, match, rules):
            stop = match.start("gap")
        else:
            continue
        _append(text, sentence, stop, segments)
        sentence = _skip_marker(text, match.end(), end)
    _append(text, sentence, end, segments)


def _skip_marker(text: str, start: int, end: int) -> int:
    """Where the sentence proper begins behind bullets, dialogue dashes and list numbers."""
    while start < end and text[start] in _OUTER:
        start += 1
    marker = _MARKER.match(text, start, end)
    return marker.end() if marker else start


def _append(text: str, start: int, end: int, segments: list[Segment]) -> None:
    """Append a span, less its outer whitespace, if there is anything to translate in it."""
    piece = text[start:end].rstrip(_OUTER)
    end = start + len(piece)
    piece = piece.lstrip(_OUTER)
    if is_translatable(piece):
        segments.append(Segment(end - len(piece), end, piece))


def _ends_sentence(text: str, sentence: int, end: int, match: re.Match[str], rules: _Rules) -> bool:
    """Whether a run of stops followed by whitespace ends the sentence that began at ``sentence``."""
    following = text[match.end()]
    if following.islower() or following in _STOPS or following in ",;:)]}»":
        return False
    word = _NEXT_WORD.match(text, match.end(), end)
    if word and word[1][0].islower():  # « Oui. » — dit-il
        return False
    if match[1] != ".":
        return True
    return _full_stop_ends(_last_token(text, sentence, match.start()), match.start() - sentence, word, rules)


def _full_stop_ends(token: str, length: int, word: re.Match[str] | None, rules: _Rules) -> bool:
    """Whether a single full stop behind ``token`` ends the sentence (of ``length`` characters) before ``word``."""
    bare = token.replace("’", "'").rpartition("'")[2]  # l'art. 5
    if token in rules.title or bare in rules.title:
        return False
    following = word[1] if word else ""
    starts = following in rules.starter or (word is not None and bool(word[2]) and following in _ELISIONS)
    if _INITIALS.fullmatch(token) and token.lower() not in rules.number:
        return starts and length > len(token) and not (len(token) == 1 and following in _PARTICLES)
    folded = bare.casefold()
    if following[:1].isdigit() and (folded in rules.digit or folded in rules.number):
        return False
    if folded in rules.number and _ROMAN_OR_LETTER.fullmatch(following) and not (word and word[2]):
        return False
    return folded not in rules.final or starts


def _last_token(text: str, sentence: int, stop: int) -> str:
    """The word before a full stop, without opening quotes and brackets; empty behind a space."""
    head = text[max(sentence, stop - _LONGEST_TOKEN) : stop]
    return head.split()[-1].lstrip("«“„\"'‘’([{<*_") if head and not head[-1].isspace() else ""


def _fitting_prefix(text: str, fits: Callable[[str], bool]) -> int:
    """A prefix length that fits, within a factor of two; 32 at least, which every model takes."""
    size = 32
    while size * 2 < len(text) and fits(text[: size * 2]):
        size *= 2
    return size


def _cut(text: str, start: int, end: int) -> int | None:
    """The best place to cut ``text[start:end]`` in two near its middle; None if it is one grapheme cluster."""
    middle = (start + end) // 2
    radius = min((end - start) // 4, _CUT_RADIUS)
    low, high = middle - radius, middle + radius
    for pattern in _BREAKS:
        cuts = [match.end() for match in pattern.finditer(text, low, high)]
        cuts = [cut for cut in cuts if start < cut < end and _is_cluster_boundary(text, cut)]
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - middle))
    for distance in range(_LONGEST_CLUSTER + 1):
        for cut in (middle - distance, middle + distance):
            if start < cut < end and _is_cluster_boundary(text, cut):
                return cut
    if end - start <= 2 * _LONGEST_CLUSTER:
        return None
    return middle + 1 if _is_surrogate_pair(text[middle - 1], text[middle]) else middle


def _is_cluster_boundary(text: str, cut: int) -> bool:
    """Whether a cut keeps grapheme clusters whole (the rules of UAX #29 that matter outside of line breaks)."""
    left, right = text[cut - 1], text[cut]
    if left < "\u0300" and right < "\u0300":
        return True
    if unicodedata.category(right)[0] == "M" or right in "\u200c\u200d\u0e33\u0eb3" or left == "\u200d":
        return False
    if "\U0001f3fb" <= right <= "\U0001f3ff" or "\U000e0020" <= right <= "\U000e007f":  # skin tones, flag tags
        return False
    if "\u1160" <= right <= "\u11ff" or ("\u1100" <= left <= "\u115f" and "\uac00" <= right <= "\ud7a3"):  # Hangul
        return False
    if _is_surrogate_pair(left, right):
        return False
    if _is_flag_letter(left) and _is_flag_letter(right):
        first = cut
        while first > max(0, cut - 2 * _LONGEST_CLUSTER) and _is_flag_letter(text[first - 1]):
            first -= 1
        return (cut - first) % 2 == 0
    return True


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _is_surrogate_pair(left: str, right: str) -> bool:
    return "\ud800" <= left <= "\udbff" and "\udc00" <= right <= "\udfff"
