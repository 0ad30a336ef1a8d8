"""Glossaries: their entries from and to TSV and CSV, and where a text uses their terms, inflected ones included.

Finds terms and says whether a target has them; making the network use them is not done here. Words are compared by
the stems of the Snowball algorithms (Porter 2001) and, for French and English, by their endings as well, because a
stem alone takes "university" for "universe".
"""
# ruff: noqa: RUF001 (typographic apostrophes and hyphens are meant)

from __future__ import annotations

import csv
import io
import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from snowballstemmer import algorithms, stemmer

from model.errors import InvalidRequestError, UnsupportedLanguageError
from model.text.languages import language as known_language

MAX_ENTRIES = 50_000
"""Most entries of a glossary."""
MAX_TERM_BYTES = 1024
"""Most bytes of one side of an entry in UTF-8."""
MAX_NAME_LENGTH = 1024
"""Most characters of a glossary's name."""

_TOKEN = re.compile(r"\w[\w\u0300-\u036f]*|[^\w\s]")
"""A word with its combining accents, or one sign."""
_WORDS = re.compile(r"\S+").findall
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_APOSTROPHES = {"’": "'", "ʼ": "'", "‐": "-", "‑": "-"}
_ELISIONS = frozenset(_WORDS("l d j m t s n c qu jusqu lorsqu puisqu quoiqu quelqu presqu"))
_CLITICS = frozenset(
    _WORDS("il elle on ils elles je j tu nous vous moi toi lui leur le la les y en ce ci là t même mêmes")
)
"""French words that a hyphen joins to any verb or noun: "donne-moi", "cet ordinateur-ci"."""

_ENGLISH_ENDINGS = frozenset(["", *_WORDS("s es ed d ing e y ies ied er est")])
_FRENCH_ENDINGS = frozenset(
    [
        "",
        *_WORDS("s x e es l le les ux aux f ve fs ves r er ers ère ères se ses eux euse euses ne nes te tes"),
        *_WORDS("é ée és ées i ie is ies it u ue us ues ir re ant ante ants antes ons ez ent ions iez"),
        *_WORDS("ais ait aient ai as a âmes âtes èrent era erai eras erons erez eront erais erait eraient"),
        *_WORDS("issons issez issent issant issait issaient ira iront irait iraient t"),
    ]
)
_ENDINGS = {"en": _ENGLISH_ENDINGS, "fr": _FRENCH_ENDINGS}
_PLURAL_ENDINGS = {
    "en": frozenset(["", "s", "es", "y", "ies", "f", "fe", "ves"]),
    "fr": frozenset(["", "s", "x", "l", "ux", "il"]),
}
_SHORT_WORD = 6
"""Words up to this many letters are only matched with their plural: "porte" is not a form of "port"."""
_SNOWBALL = {"nb": "norwegian", "nn": "norwegian", "no": "norwegian"}

HitStatus = Literal["used", "inflected", "skipped"]


@dataclass(frozen=True)
class Glossary:
    """Terms of a source language and what they must become in a target language.

    Raises:
        InvalidRequestError: an entry with an empty side, control characters, spaces around a term or more than
            ``MAX_TERM_BYTES``; a source twice; no entry or more than ``MAX_ENTRIES``; a name that is empty or too long.
    """

    id: str
    name: str
    source_language: str
    """Code of the language of the terms."""
    target_language: str
    """Code of the language of their translations."""
    entries: tuple[tuple[str, str], ...]
    """Pairs (source, target), each source once; equal sides are terms that are not translated."""

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > MAX_NAME_LENGTH:
            raise InvalidRequestError("name", f"must have 1 to {MAX_NAME_LENGTH} characters", self.name)
        _check_entries(self.entries, range(1, len(self.entries) + 1), "entry")

    @classmethod
    def from_tsv(cls, text: str, *, id: str, name: str, source_language: str, target_language: str) -> Glossary:
        """Read one entry per line, its sides separated by one tab, nothing quoted, as DeepL's API takes them.

        Empty lines are passed over, and so are spaces around a term.

        Raises:
            InvalidRequestError: as of the class, with the number of the line; a line without exactly one tab.
        """
        entries, lines = [], []
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), 1):
            if line.strip():
                sides = line.split("\t")
                if len(sides) != 2:
                    raise InvalidRequestError(f"entries line {number}", "must have exactly one tab", line)
                entries.append((sides[0].strip(), sides[1].strip()))
                lines.append(number)
        _check_entries(entries, lines, "line")
        return cls(id, name, source_language, target_language, tuple(entries))

    @classmethod
    def from_csv(cls, text: str, *, id: str, name: str, source_language: str, target_language: str) -> Glossary:
        """Read rows of source and target, quoted as RFC 4180 says; two more columns may repeat the languages.

        Raises:
            InvalidRequestError: as of the class, with the number of the line; rows of another width or language pair,
                quotes that do not close.
        """
        entries, lines = [], []
        reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
        try:
            for row in reader:
                number = reader.line_num
                if not any(side.strip() for side in row):
                    continue
                if len(row) not in (2, 4):
                    rule = "must have two columns, or four with the languages"
                    raise InvalidRequestError(f"entries line {number}", rule, ",".join(row))
                if len(row) == 4 and (base_language(row[2]), base_language(row[3])) != (
                    base_language(source_language),
                    base_language(target_language),
                ):
                    rule = f"must have the languages {source_language} and {target_language}"
                    raise InvalidRequestError(f"entries line {number}", rule, f"{row[2]},{row[3]}")
                entries.append((row[0].strip(), row[1].strip()))
                lines.append(number)
        except csv.Error as error:
            raise InvalidRequestError(f"entries line {reader.line_num}", f"must be CSV ({error})", text) from error
        _check_entries(entries, lines, "line")
        return cls(id, name, source_language, target_language, tuple(entries))

    def to_tsv(self) -> str:
        """All entries, one per line, without a line break after the last; ``from_tsv`` reads them back."""
        return "\n".join(f"{source}\t{target}" for source, target in self.entries)

    def to_csv(self) -> str:
        """All entries as rows of RFC 4180; ``from_csv`` reads them back."""
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows(self.entries)
        return buffer.getvalue()

    @cached_property
    def _index(self) -> _Node:
        """The entries as a trie over the keys of their tokens; built when the glossary is first used."""
        root = _Node()
        for source, target in self.entries:
            tokens = _tokens(source, self.source_language)
            node = root
            for token in tokens:
                node = node.following.setdefault(token.key, _Node())
            node.entries.append(_Entry(source, target, tuple(tokens), _is_case_sensitive(source)))
        return root


@dataclass(frozen=True)
class TermMatch:
    """A term of a glossary in a text."""

    start: int
    end: int
    source: str
    """The source side of the entry, which the text may have in another form."""
    target: str
    """The target side of the entry, in capitals or with a capital where the text has them."""
    glossary_id: str
    inflected: bool
    """Whether the text has another form of the term, such as the plural."""
    target_as_entered: str = ""
    """The target side of the entry with the case that the glossary gives."""

    def moved(self, offset: int) -> TermMatch:
        """The same match with its span moved by ``offset`` characters."""
        return replace(self, start=self.start + offset, end=self.end + offset)

    def hit(self, status: HitStatus, reason: str = "") -> GlossaryHit:
        """What is reported of this match."""
        return GlossaryHit(self.source, self.target, self.start, self.end, status, reason, self.glossary_id)

    def skipped(self, reason: str) -> GlossaryHit:
        """What is reported of this match if it is not applied."""
        return self.hit("skipped", reason)


@dataclass(frozen=True)
class GlossaryHit:
    """What became of one term in one translation."""

    source: str
    target: str
    start: int
    end: int
    status: HitStatus
    reason: str
    """Why it was skipped; empty otherwise."""
    glossary_id: str


@dataclass(frozen=True)
class _Token:
    start: int
    end: int
    text: str
    """Composed (NFC), with plain apostrophes and hyphens."""
    folded: str
    key: str
    """The stem of a word, a sign itself."""
    spaced: bool
    """Whether space stands before it."""


@dataclass(frozen=True)
class _Entry:
    source: str
    target: str
    tokens: tuple[_Token, ...]
    case_sensitive: bool


@dataclass
class _Node:
    following: dict[str, _Node] = field(default_factory=dict)
    entries: list[_Entry] = field(default_factory=list)


def match_terms(
    text: str, glossaries: Sequence[Glossary], source_language: str, taken: Sequence[tuple[int, int]] = ()
) -> tuple[list[TermMatch], list[GlossaryHit]]:
    """Find the terms of glossaries in a text; the time is linear in the text for terms of bounded length.

    Longer terms win over shorter ones, exact forms over inflected ones, earlier glossaries over later ones. An entry
    in capitals or with capitals inside a word (``OPEP``, ``iPhone``) matches only in its own case, others in any.

    Args:
        text: any string.
        glossaries: in order of precedence, all for ``source_language``.
        source_language: code of the text's language.
        taken: spans that no term may touch, such as protected ones, in any order.

    Returns:
        The terms, in order and without overlap, and those left out with the reason, in order.

    Raises:
        InvalidRequestError: a glossary for another source language.
    """
    for glossary in glossaries:
        if base_language(glossary.source_language) != base_language(source_language):
            rule = f"must be for the source language {source_language}"
            raise InvalidRequestError(f"glossary {glossary.id}", rule, glossary.source_language)
    if not any(glossary.entries for glossary in glossaries):
        return [], []
    tokens = _tokens(text, source_language)
    candidates = []
    for rank, glossary in enumerate(glossaries):
        for first, length, match in _candidates(text, tokens, glossary, source_language):
            candidates.append((-length, match.start - match.end, match.inflected, rank, first, match))
    candidates.sort(key=lambda candidate: candidate[:5])
    used = bytearray(len(text))
    for start, end in taken:
        used[start:end] = b"\x01" * len(used[start:end])
    matches: list[TermMatch] = []
    skipped: list[GlossaryHit] = []
    for negative_length, _, _, _, first, match in candidates:
        if mark := max(used[match.start : match.end]):
            skipped.append(match.skipped("in a protected span" if mark == 1 else "overlaps another term"))
        elif reason := _joined(tokens, first, first - negative_length, source_language):
            skipped.append(match.skipped(reason))
        else:
            used[match.start : match.end] = b"\x02" * (match.end - match.start)
            matches.append(match)
    matches.sort(key=lambda match: match.start)
    skipped.sort(key=lambda hit: (hit.start, -hit.end))
    return matches, skipped


def term_present(target_text: str, term: str, target_language: str) -> bool:
    """Say whether a text has a term, in any case and also inflected.

    Args:
        target_text: any string.
        term: the target side of an entry; True if it has no word and no sign.
        target_language: code of the language of both.
    """
    wanted = _tokens(term, target_language)
    tokens = _tokens(target_text, target_language)
    for first in range(len(tokens) - len(wanted) + 1):
        pairs = list(zip(tokens[first : first + len(wanted)], wanted, strict=True))
        if all(
            token.key == other.key
            and (index == 0 or token.spaced == other.spaced)
            and (token.folded == other.folded or _same_word(token.folded, other.folded, target_language))
            for index, (token, other) in enumerate(pairs)
        ):
            return True
    return not wanted


def _candidates(
    text: str, tokens: Sequence[_Token], glossary: Glossary, language: str
) -> Iterator[tuple[int, int, TermMatch]]:
    """Every way to read a term of a glossary in a text: (first token, number of tokens, match)."""
    root = glossary._index
    for first in range(len(tokens)):
        node: _Node | None = root
        for last in range(first, len(tokens)):
            node = node.following.get(tokens[last].key) if node else None
            if node is None:
                break
            if not node.entries:
                continue
            found = tokens[first : last + 1]
            fitting = [(_fit(found, entry, language), index) for index, entry in enumerate(node.entries)]
            best, index = min(fitting)
            if best < _NO_FIT:
                entry = node.entries[index]
                start, end = found[0].start, found[-1].end
                target = _adapt_case(text[start:end], entry.source, entry.target)
                inflected = best >= _INFLECTED
                match = TermMatch(start, end, entry.source, target, glossary.id, inflected, entry.target)
                yield first, len(found), match


_INFLECTED = 2
_NO_FIT = 3


def _fit(found: Sequence[_Token], entry: _Entry, language: str) -> int:
    """How well tokens of a text fit an entry with the same keys: 0 exact, 1 other case, 2 inflected, 3 not at all."""
    grade = 0
    for index, (token, wanted) in enumerate(zip(found, entry.tokens, strict=True)):
        if index and token.spaced != wanted.spaced:
            return _NO_FIT
        if token.text == wanted.text:
            continue
        if entry.case_sensitive:
            if token.text != wanted.text + "s":  # "PCs"
                return _NO_FIT
            grade = _INFLECTED
        elif token.folded == wanted.folded:
            grade = max(grade, 1)
        elif _same_word(token.folded, wanted.folded, language):
            grade = _INFLECTED
        else:
            return _NO_FIT
    return grade


def _joined(tokens: Sequence[_Token], first: int, end: int, language: str) -> str:
    """Why the tokens first..end-1 are a part of something longer, or nothing."""
    before = tokens[first - 1] if first and not tokens[first].spaced else None
    after = tokens[end] if end < len(tokens) and not tokens[end].spaced else None
    if before and before.text == "-" and first > 1 and not before.spaced and _is_word(tokens[first - 2]):
        return "part of a word with a hyphen"
    if after and after.text == "-" and end + 1 < len(tokens) and not tokens[end + 1].spaced:
        following = tokens[end + 1]
        if _is_word(following) and not (base_language(language) == "fr" and following.folded in _CLITICS):
            return "part of a word with a hyphen"
    if after and after.text in ("+", "#") and _is_word(tokens[end - 1]):  # the language "C" is not in "C++"
        return f"part of a word with {after.text}"
    contracted = after and after.text == "'" and end + 1 < len(tokens) and not tokens[end + 1].spaced
    if contracted and base_language(language) == "en" and tokens[end + 1].folded == "t":  # "don't"
        return "part of a word with an apostrophe"
    return _apostrophe_before(tokens, first, before, language)


def _apostrophe_before(tokens: Sequence[_Token], first: int, before: _Token | None, language: str) -> str:
    """Refuse the second half of "don't" and "aujourd'hui", but not a word after an elision."""
    if not before or before.text != "'" or first < 2 or before.spaced or not _is_word(tokens[first - 2]):
        return ""
    if base_language(language) == "en" or (
        base_language(language) == "fr" and tokens[first - 2].folded not in _ELISIONS
    ):
        return "part of a word with an apostrophe"
    return ""


def _is_word(token: _Token) -> bool:
    return token.text[0].isalnum() or token.text[0] == "_"


def _tokens(text: str, language: str) -> list[_Token]:
    """Words and signs with their keys."""
    base = base_language(language)
    tokens: list[_Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        surface = match[0] if match[0].isascii() else unicodedata.normalize("NFC", match[0])
        surface = _APOSTROPHES.get(surface, surface)
        folded = surface.casefold()
        key = _stem(folded, base) if folded[0].isalpha() else folded
        tokens.append(_Token(*match.span(), surface, folded, key, match.start() > end or not tokens))
        end = match.end()
    return tokens


def _same_word(one: str, other: str, language: str) -> bool:
    """Say whether two words of equal stem are forms of one word: their different ends are endings of inflection."""
    base = base_language(language)
    if base not in _ENDINGS:
        return True
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        shared += 1
    ends = {one[shared:], other[shared:]}
    short = min(len(one), len(other)) <= _SHORT_WORD
    allowed = _PLURAL_ENDINGS[base] if short else _ENDINGS[base]
    if ends <= allowed:
        return True
    if base == "en" and not short and shared:  # a doubled consonant: "plan", "planning"
        doubled = one[shared - 1]
        return {end.removeprefix(doubled) for end in ends} <= allowed
    return False


def _is_case_sensitive(source: str) -> bool:
    """Say whether an entry has a word in capitals, or with a capital after its first letter."""
    return any(any(character.isupper() for character in word[1:]) for word in source.split()) or (
        source.isupper() and sum(map(str.isalpha, source)) == 1
    )


def _adapt_case(found: str, source: str, target: str) -> str:
    """Give a target the capitals of the text: all where the text has all, the first where the entry has none there."""
    if sum(map(str.isalpha, found)) > 1 and found.isupper() and not source.isupper():
        return target.upper()
    if found[0].isupper() and source[0].islower() and target[0].islower():
        return target[0].upper() + target[1:]
    return target


def _check_entries(entries: Sequence[tuple[str, str]], numbers: Iterable[int], place: str) -> None:
    if not 1 <= len(entries) <= MAX_ENTRIES:
        raise InvalidRequestError("entries", f"must have 1 to {MAX_ENTRIES} entries", len(entries))
    first_seen: dict[str, int] = {}
    for number, (source, target) in zip(numbers, entries, strict=True):
        where = f"entries {place} {number}"
        for side, term in (("source", source), ("target", target)):
            if not term.strip():
                raise InvalidRequestError(where, f"must have a {side} that is not empty", f"{source}\t{target}")
            if _CONTROL.search(term):
                raise InvalidRequestError(where, f"must have no control character in its {side}", term)
            if term != term.strip():
                raise InvalidRequestError(where, f"must have no space around its {side}", term)
            if len(term.encode("utf-8", "surrogatepass")) > MAX_TERM_BYTES:
                raise InvalidRequestError(where, f"must have at most {MAX_TERM_BYTES} bytes in its {side}", term)
        if source in first_seen:
            rule = f"must not repeat the source of {place} {first_seen[source]}"
            raise InvalidRequestError(where, rule, source)
        first_seen[source] = number


@lru_cache(maxsize=256)
def base_language(code: str) -> str:
    """The language of a code without region or script: ``en`` for ``en-GB`` and ``eng_Latn``."""
    try:
        return known_language(code).code.partition("-")[0]
    except UnsupportedLanguageError:
        return code.strip().casefold().replace("_", "-").partition("-")[0]


class _Stemmers(threading.local):
    """The stemmers of one thread, because a Snowball stemmer keeps its word in itself."""

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}


_STEMMERS = _Stemmers()


@lru_cache(maxsize=65536)
def _stem(word: str, base: str) -> str:
    """The stem of a folded word; the word itself in a language without an algorithm, or if it is absurdly long."""
    if len(word) > 64:
        return word
    if base not in _STEMMERS.of:
        name = _algorithm(base)
        _STEMMERS.of[base] = stemmer(name) if name else None
    found = _STEMMERS.of[base]
    return str(found.stemWord(word)) if found else word


@lru_cache(maxsize=256)
def _algorithm(base: str) -> str:
    """Name of the Snowball algorithm for a language, or nothing."""
    try:
        name = _SNOWBALL.get(base) or known_language(base).name.split()[0].lower()
    except UnsupportedLanguageError:
        return ""
    return name if name in algorithms() else ""
