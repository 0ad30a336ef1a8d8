"""Which spans of a text must survive translation unchanged: placeholders, addresses, code, emoji, callers' patterns.

Finds and counts them only; how they are kept through the network is not decided here. The time is linear in the
text: every pattern of ours starts at a rare character or at the beginning of a run, and has no nested repetition.
"""
# ruff: noqa: RUF001 (typographic quotes and spaces are meant)

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5
from typing import Any

import regex

from model.errors import InvalidOptionError

Span = tuple[int, int]
"""First character and the one after the last."""

MAX_PATTERNS = 50
"""Most regular expressions of one caller."""
MAX_PATTERN_LENGTH = 1000
"""Most characters of a caller's regular expression."""
MAX_LITERALS = 1000
"""Most literal strings of one caller."""
MAX_LITERAL_LENGTH = 1000
"""Most characters of a caller's literal string."""
PATTERN_SECONDS = 1.0
"""Most time that one regular expression of a caller may take on one text."""

_PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]{1,200}\}\}"  # Mustache, Jinja, Angular
    r"|\{%[^{}\n]{1,200}%\}"  # Jinja statements
    r"|\{(?:[A-Za-z_]\w{0,60}+|\d{1,4}+)?(?:\.\w{1,60}+|\[[\w.-]{1,60}\]){0,10}(?:![rsa])?(?::[^\s{}]{1,30})?\}"
    r"|\{\s?(?:[A-Za-z_]\w{0,60}+|\d{1,4}+)\s?,"  # ICU: name, type, style
    r"\s?(?:number|date|time|ordinal|duration|spellout)\s?(?:,[^{}\n]{1,60})?\}"
)
_PRINTF = re.compile(
    # A percentage of prose has a digit before its sign ("50 %de", "50%d'avance"); a "%%" may have one.
    r"%%"
    r"|%\d{1,2}\$[-+0#']{0,5}\d{0,3}(?:\.\d{1,3})?(?:hh|h|ll|l|L|q|j|z|t)?[diouxXeEfFgGcs@p]"
    r"|%\([A-Za-z_][\w.-]{0,60}\)[-+0#]{0,5}\d{0,3}(?:\.\d{1,3})?[diouxXeEfFgGcsr]"
    r"|%\{[A-Za-z_][\w.-]{0,60}\}"
    r"|(?<!\d)(?<!\d[ \u00a0\u202f])%[A-Za-z_][\w.]{0,60}+%(?!\w)"
    r"|(?<!\d)%[-+0#]{0,5}(?:\d{1,3}|\*)?(?:\.(?:\d{1,3}|\*))?(?:hh|h|ll|l|L|q|j|z|t)?[diouxXeEfFgGcs@p](?![\w'’])"
    r"|(?<!\d)(?<!\d[ \u00a0\u202f])%(?:\.?\d{1,3})?[disuf](?=(?:s|ms|min|h|m|px|[kKMGT]i?[bBo]|x%)(?!\w)|x%|h%)"
    r"|(?<!\d)(?<!\d[ \u00a0\u202f])%(?:\.?\d{1,3})?[diuxfgcs@](?=['’])"
)
_VARIABLE = re.compile(
    r"(?<!\\)\$\{[^{}\n]{1,200}\}|[#%]\{[A-Za-z_][\w.]{0,60}\}"
    r"|(?<![\w$])\$(?:[A-Z][A-Z0-9]{3,60}|(?=[A-Za-z0-9]{0,60}_)[A-Za-z_]\w{1,60}+|[a-z]{2,40}[A-Z]\w{1,40}+)(?!\w)"
)
_TAG = re.compile(
    r"""(?<!<)<(?:/?[A-Za-z][\w:.-]{0,60}+(?:\s+[\w:@.-]{1,60}+\s*+=\s*+(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]++))*+\s*+/?"""
    r"""|!--(?:(?!-->|<!--).)*+--|!\[CDATA\[[^<>\]]*\]\]|![A-Za-z]{2,20}[^<>]*|\?[A-Za-z][^<>]*\?)>(?!>)""",
    re.DOTALL,
)
_ENTITY = re.compile(r"&(?:([A-Za-z][A-Za-z0-9]{1,31});|#\d{1,7};|#[xX][0-9A-Fa-f]{1,6};)")
_URL = re.compile(r"(?<![A-Za-z0-9])(?:[A-Za-z][A-Za-z0-9+.-]{1,15}://|www\.)[^\s<>\"«»“”`{}|\\^]++", re.IGNORECASE)
_MAILTO = re.compile(r"(?<![A-Za-z0-9])(?:mailto|tel|sms|xmpp|magnet):[^\s<>\"«»“”`{}|\\^]++", re.IGNORECASE)
_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9_][\w.+%-]{0,63}@[A-Za-z0-9][\w-]{0,62}(?:\.[A-Za-z0-9][\w-]{0,62}){1,8}(?![\w@])"
)
_RUN = re.compile(r"(?<![\w./\\~:+-])[\w./\\~:+-]++")
"""A run of the characters of paths, hosts, versions and hashes; each is looked at once, as a whole."""
_RUN_TRIGGER = re.compile(r"[\d./\\]|localhost")
"""What a text has if one of its runs is of interest."""
_MENTION = re.compile(
    r"(?<![\w@./+-])@(?=[\w.-]{0,60}[A-Za-z])\w{1,60}+(?:[.-]\w{1,60}+){0,4}(?:@\w[\w.-]{1,60}\w)?(?![\w@])"
)
_HASHTAG = re.compile(r"(?<![\w#&/@])#(?:[^\W\d]\w{1,100}+|[0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![\w#])")
_BACKTICKS = re.compile(r"`++")
_EMOJI = regex.compile(
    r"(?:\p{Regional_Indicator}{2}"
    r"|[0-9#*]\ufe0f?\u20e3"
    r"|(?![©®™ℹ〰‼⁉\u200d])\p{Extended_Pictographic}(?:\ufe0f|\ufe0e|\p{Emoji_Modifier})?(?:[\U000e0020-\U000e007f])*+"
    r"(?:\u200d\p{Extended_Pictographic}(?:\ufe0f|\p{Emoji_Modifier})?)*+"
    r"|[©®™ℹ〰‼⁉]\ufe0f)++"
)

_HOST_ENDINGS = "com|org|net|edu|gov|mil|io|fr|eu|uk|biz|dev|app|xyz|local|example|onion"
_FILE_ENDINGS = (
    "txt|pdf|docx?|xlsx?|pptx?|od[tps]|rtf|epub|csv|tsv|json|ya?ml|xml|x?html?|css|jsx?|tsx?|py|ipynb|rb|php|java|cpp|hpp"
    "|rs|kt|sql|sqlite|db|toml|ini|cfg|conf|lock|log|md|rst|tex|po|srt|vtt|xliff|jpe?g|png|gif|svg|webp|bmp|tiff?|mp[34]"
    "|wav|ogg|flac|avi|mkv|mov|zip|tar|gz|bz2|xz|7z|rar|exe|dll|dmg|deb|rpm|apk|iso|bat|sh|ps1|bak|tmp"
)
_HOST = re.compile(
    rf"(?:localhost(?::\d{{1,5}})?|(?:[a-z0-9-]{{1,63}}\.){{1,8}}(?:{_HOST_ENDINGS})(?::\d{{1,5}})?|(?:\d{{1,3}}\.){{3}}\d{{1,3}}"
    r"(?::\d{1,5}|/\d{1,2})?)(?:/[\w./~:+-]*)?",
    re.IGNORECASE,
)
_PATH = re.compile(
    rf"(?:[A-Za-z]:\\|\\\\\w)[\w.\\~+-]*|(?:~|\.\.?)/[\w./~+-]+|/[\w.~+-]+/[\w./~+-]*|[\w./\\~+-]*[\w]\.(?i:{_FILE_ENDINGS})"
)
_LINE_AFTER = re.compile(r":\d{1,7}(?::\d{1,5})?$")
_VERSION = re.compile(r"v\d{1,6}(?:\.\d{1,6})+(?:[.+-]\w{1,30})*|\d{1,4}\.\d{1,4}\.\d{1,4}(?:[.+-][A-Za-z0-9]{1,30})*")
_DATE_OR_NUMBER = re.compile(
    r"\d{1,2}\.\d{1,2}\.(?:\d{2}|\d{4})|\d{4}\.\d{1,2}\.\d{1,2}|\d{1,3}(?:\.\d{3})+|\d{1,2}(?:\.\d{1,2})+"
)
_SHORT_VERSION = re.compile(r"\d{1,3}\.\d{1,3}\.\d")
_HASH = re.compile(
    r"(?=(?:[a-f]*\d){2})(?=(?:\d*[a-f]){2})(?:[0-9a-f]{7,64}|[0-9a-f]{96}|[0-9a-f]{128})"
    r"|(?i:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
_CLOSING = {")": "(", "]": "["}


def _spans(pattern: re.Pattern[str], trigger: str) -> Callable[[str], Iterator[Span]]:
    """A finder of all matches of a pattern that needs one of the characters of ``trigger``."""

    def find(text: str) -> Iterator[Span]:
        if any(character in text for character in trigger):
            yield from (match.span() for match in pattern.finditer(text))

    return find


def _entities(text: str) -> Iterator[Span]:
    if "&" in text:
        for match in _ENTITY.finditer(text):
            if match[1] is None or f"{match[1]};" in html5:
                yield match.span()


def _urls(text: str) -> Iterator[Span]:
    if ":" not in text and "." not in text:
        return
    for pattern in (_URL, _MAILTO):
        for match in pattern.finditer(text):
            start, end = _without_tail(text, *match.span())
            if end - start > len(match[0].split(":")[0]) + 3 or (match[0][:4].lower() == "www." and end - start > 6):
                yield start, end


def _without_tail(text: str, start: int, end: int) -> Span:
    """Leave out the punctuation after an address: a closing bracket belongs to it only if it opens there as well."""
    counts = Counter(text[start:end])
    while end > start:
        last = text[end - 1]
        if last in _CLOSING and counts[last] > counts[_CLOSING[last]]:
            counts[last] -= 1
        elif last not in ".,;:!?'’‘…*_":
            break
        end -= 1
    return start, end


def _runs(accepts: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    """A finder of the runs of path characters that ``accepts`` takes, without the punctuation after them."""

    def find(text: str) -> Iterator[Span]:
        if not _RUN_TRIGGER.search(text):
            return
        for match in _RUN.finditer(text):
            run = match[0].rstrip(".:-+")
            if 3 < len(run) <= 4096 and accepts(run):
                yield match.start(), match.start() + len(run)

    return find


def _is_path(run: str) -> bool:
    run = _LINE_AFTER.sub("", run) if ":" in run else run
    return _HOST.fullmatch(run) is not None or _PATH.fullmatch(run) is not None


def _is_version(run: str) -> bool:
    if _VERSION.fullmatch(run):
        return _DATE_OR_NUMBER.fullmatch(run) is None or _SHORT_VERSION.fullmatch(run) is not None
    return _HASH.fullmatch(run) is not None


def _code(text: str) -> Iterator[Span]:
    """Code spans as Markdown has them: from a run of backticks to the next run of the same length."""
    if "`" not in text:
        return
    runs = [match.span() for match in _BACKTICKS.finditer(text)]
    following: dict[int, int] = {}  # length of a run: the next index with that length
    partner = [0] * len(runs)
    for index in range(len(runs) - 1, -1, -1):
        length = runs[index][1] - runs[index][0]
        partner[index] = following.get(length, 0)
        following[length] = index
    index = 0
    while index < len(runs):
        if partner[index]:
            yield runs[index][0], runs[partner[index]][1]
            index = partner[index]
        index += 1


def _emoji(text: str) -> Iterator[Span]:
    if not text.isascii():
        yield from (match.span() for match in _EMOJI.finditer(text))


_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "placeholders": _spans(_PLACEHOLDER, "{"),
    "printf": _spans(_PRINTF, "%"),
    "variables": _spans(_VARIABLE, "$#%"),
    "tags": _spans(_TAG, "<"),
    "entities": _entities,
    "urls": _urls,
    "emails": _spans(_EMAIL, "@"),
    "paths": _runs(_is_path),
    "versions": _runs(_is_version),
    "code": _code,
    "mentions": _spans(_MENTION, "@"),
    "hashtags": _spans(_HASHTAG, "#"),
    "emoji": _emoji,
}
PRESETS: tuple[str, ...] = tuple(_FINDERS)
"""Names of what can be protected without a pattern of the caller."""


@dataclass(frozen=True)
class Protection:
    """What must come back unchanged from a translation.

    Raises:
        InvalidOptionError: an unknown preset, a regular expression that does not compile or matches the empty text, an
            empty literal, or more of them than allowed.
    """

    presets: tuple[str, ...] = PRESETS
    """Names out of ``PRESETS``; all by default."""
    patterns: tuple[str, ...] = ()
    """Regular expressions of the caller, in the syntax of the ``regex`` package."""
    literals: tuple[str, ...] = ()
    """Strings of the caller, found in this case and not inside a longer word."""

    def __post_init__(self) -> None:
        for name in self.presets:
            if name not in _FINDERS:
                raise InvalidOptionError("presets", f"must be among {', '.join(PRESETS)}", name)
        if len(self.patterns) > MAX_PATTERNS:
            raise InvalidOptionError("patterns", f"must be at most {MAX_PATTERNS}", len(self.patterns))
        if len(self.literals) > MAX_LITERALS:
            raise InvalidOptionError("literals", f"must be at most {MAX_LITERALS}", len(self.literals))
        for index, pattern in enumerate(self.patterns):
            _compile(pattern, f"patterns[{index}]")
        for index, literal in enumerate(self.literals):
            if not literal.strip() or len(literal) > MAX_LITERAL_LENGTH:
                rule = f"must have 1 to {MAX_LITERAL_LENGTH} characters, not only spaces"
                raise InvalidOptionError(f"literals[{index}]", rule, literal)


def find_protected(text: str, protection: Protection, taken: Sequence[Span] = ()) -> list[Span]:
    """Find the spans that must survive translation; none overlaps another or one of ``taken``, and they are in order.

    Spans that overlap become one, so that nothing anybody wants kept is cut; of a span that overlaps a taken one only
    the parts outside are returned.

    Args:
        text: any string.
        protection: what to look for.
        taken: spans that are kept already, in any order, such as those of the markup.

    Raises:
        InvalidOptionError: a regular expression of the caller took longer than ``PATTERN_SECONDS`` on this text.
    """
    found: list[Span] = []
    for name in protection.presets:
        found.extend(_FINDERS[name](text))
    for literal in protection.literals:
        found.extend(_literal_spans(text, literal))
    for index, pattern in enumerate(protection.patterns):
        found.extend(_pattern_spans(text, pattern, f"patterns[{index}]"))
    return _subtract(_merge(found), _merge(taken)) if taken else _merge(found)


def check_protected(source_pieces: Sequence[str], target: str) -> list[str]:
    """Return the pieces that ``target`` has more or less often than ``source_pieces``, each once, in their order.

    Longer pieces are counted first and do not count again as a part of them: ``{a}`` is not in ``{{a}}``.
    """
    expected = Counter(piece for piece in source_pieces if piece)
    wrong = set()
    rest = target
    for piece in sorted(expected, key=len, reverse=True):
        parts = rest.split(piece)
        if len(parts) - 1 != expected[piece]:
            wrong.add(piece)
        rest = "\x00".join(parts)
    return [piece for piece in expected if piece in wrong]


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Sort spans and join those that overlap; spans that only touch stay apart, empty ones go."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _subtract(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """The parts of ordered spans outside other ordered spans."""
    parts: list[Span] = []
    first = 0
    for start, end in spans:
        while first < len(taken) and taken[first][1] <= start:
            first += 1
        index = first
        while index < len(taken) and taken[index][0] < end:
            if start < taken[index][0]:
                parts.append((start, taken[index][0]))
            start = max(start, taken[index][1])
            index += 1
        if start < end:
            parts.append((start, end))
    return parts


def _literal_spans(text: str, literal: str) -> Iterator[Span]:
    """Where a literal stands, not inside a longer word."""
    start = text.find(literal)
    while start >= 0:
        end = start + len(literal)
        inside = _is_word(literal[0]) and start > 0 and _is_word(text[start - 1])
        inside = inside or (_is_word(literal[-1]) and end < len(text) and _is_word(text[end]))
        if not inside:
            yield start, end
        start = text.find(literal, start + 1 if inside else end)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _pattern_spans(text: str, pattern: str, name: str) -> list[Span]:
    """Where a caller's regular expression matches, in bounded time."""
    compiled = _compile(pattern, name)
    deadline = time.monotonic() + PATTERN_SECONDS
    spans: list[Span] = []
    position = 0
    try:
        while position <= len(text):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            match = compiled.search(text, position, timeout=left)
            if match is None:
                break
            start, end = match.span()
            spans.append((start, end))
            position = end if end > start else end + 1
    except (TimeoutError, RecursionError, MemoryError) as error:
        rule = f"must need less than {PATTERN_SECONDS:g} s on a text of {len(text)} characters"
        raise InvalidOptionError(name, rule, pattern) from error
    return spans


def _compile(pattern: str, name: str) -> Any:
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise InvalidOptionError(name, f"must have at most {MAX_PATTERN_LENGTH} characters", pattern)
    try:
        compiled = _compiled(pattern)
        matches_nothing = compiled.fullmatch("", timeout=PATTERN_SECONDS) is not None
    except (regex.error, RecursionError, OverflowError, ValueError, MemoryError, TimeoutError) as error:
        raise InvalidOptionError(name, f"must be a regular expression ({error})", pattern) from error
    if matches_nothing:
        raise InvalidOptionError(name, "must be a regular expression that does not match the empty text", pattern)
    return compiled


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    return regex.compile(pattern, regex.VERSION0)
