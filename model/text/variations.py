"""Changes of a sentence pair that users' text also has: letter case, missing punctuation, typing errors; no tokens."""

from __future__ import annotations

import random
import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A source with its target, and the languages of the two."""

    source: str
    target: str
    source_language: str
    target_language: str


_WORD = re.compile(r"[^\W\d_]+")
_ENGLISH_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # noqa: RUF001
_FINAL_PUNCTUATION = re.compile(r"[\s.!?…]*[.!?…]\s*$")
_SMALL_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "as",
        "at",
        "but",
        "by",
        "for",
        "from",
        "in",
        "nor",
        "of",
        "on",
        "or",
        "per",
        "the",
        "to",
        "with",
    )
)
"""Words that English titles do not capitalise inside."""
_KEYBOARDS = {
    "fr": ("azertyuiop", "qsdfghjklm", "wxcvbn"),
    "en": ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
}
_NO_ACCENTS_SHARE = 0.3
"""How often a whole sentence loses its accents, where accents are lost."""
_TYPO_WORDS = 10
"""About one typing error for so many words, and at least one."""


def upper_case(pair: Pair, draw: random.Random) -> Pair:
    """Return both sides in capital letters, the source now and then without accents."""
    source = pair.source.upper()
    if pair.source_language != "en" and draw.random() < _NO_ACCENTS_SHARE:
        source = without_accents(source)
    return _changed(pair, source, pair.target.upper())


def title_case(pair: Pair) -> Pair:
    """Return a source with a capital letter on every word, and a target as titles are written in its language.

    English titles leave small words inside in lower case. Other languages capitalise the first word alone, but a source
    in one of them still gets capitals everywhere: otherwise no model could tell a title from any other sentence.
    """
    source = _english_title(pair.source) if pair.source_language == "en" else _WORD.sub(_capital, pair.source)
    target = _english_title(pair.target) if pair.target_language == "en" else _WORD.sub(_capital, pair.target, count=1)
    return _changed(pair, source, target)


def lower_case(pair: Pair, draw: random.Random) -> Pair:
    """Return a source without capital letters, or without its first one; the target begins in lower case, too.

    A target's first word keeps its capital where that does not come from its place: in names (the same word begins the
    source), in words with more capitals, and in the English "I".
    """
    source = pair.source.lower() if draw.random() < 0.5 else _first_letter_lower(pair.source)
    first, own = _WORD.search(pair.target), _WORD.search(pair.source)
    if first is None or own is None:
        return pair
    word = first.group()
    kept = word == own.group() or word[1:] != word[1:].lower() or (pair.target_language == "en" and word == "I")
    return _changed(pair, source, pair.target if kept else _first_letter_lower(pair.target))


def no_final_punctuation(pair: Pair) -> Pair:
    """Return both sides without the full stops, question and exclamation marks at their ends, if both have some."""
    source, target = (_FINAL_PUNCTUATION.sub("", side) for side in (pair.source, pair.target))
    unchanged = source == pair.source or target == pair.target or not source or not target
    return pair if unchanged else _changed(pair, source, target)


def typing_errors(pair: Pair, draw: random.Random) -> Pair:
    """Return a source with one or more typing errors; words that the target has too, such as names, stay right."""
    text = pair.source
    if not text.isascii() and draw.random() < _NO_ACCENTS_SHARE:
        return _changed(pair, without_accents(text), pair.target)
    copied = set(_WORD.findall(pair.target))
    words = [m for m in _WORD.finditer(text) if len(m.group()) >= 4 and m.group() not in copied]
    if not words:
        return pair
    chosen = draw.sample(words, min(len(words), 1 + len(words) // _TYPO_WORDS))
    for match in sorted(chosen, key=lambda m: -m.start()):  # from the end, so that earlier places stay right
        text = text[: match.start()] + _mistyped(match.group(), pair.source_language, draw) + text[match.end() :]
    return _changed(pair, text, pair.target)


def without_accents(text: str) -> str:
    """Return a text whose letters have lost their accents."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return unicodedata.normalize("NFC", bare)


def _mistyped(word: str, language: str, draw: random.Random) -> str:
    """Return a word with one error: accents missing, letters swapped, one dropped, doubled, or a key beside it."""
    if not word.isascii() and draw.random() < 0.5:
        return without_accents(word)
    at = draw.randrange(1, len(word) - 1)  # people seldom miss the first letter
    kind = draw.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + _neighbour(word[at], language, draw) + word[at + 1 :]


def _neighbour(letter: str, language: str, draw: random.Random) -> str:
    """Return the letter of a key beside a letter's, in the same case; other letters stay."""
    for row in _KEYBOARDS.get(language, _KEYBOARDS["en"]):
        place = row.find(letter.lower())
        if place >= 0:
            beside = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            found = draw.choice(beside)
            return found.upper() if letter.isupper() else found
    return letter


def _english_title(text: str) -> str:
    words = list(_ENGLISH_WORD.finditer(text))
    parts, position = [], 0
    for index, match in enumerate(words):
        small = match.group() in _SMALL_WORDS and 0 < index < len(words) - 1
        parts += [text[position : match.start()], match.group() if small else _capital(match)]
        position = match.end()
    return "".join([*parts, text[position:]])


def _capital(match: re.Match[str]) -> str:
    word = match.group()
    return word[0].upper() + word[1:]


def _first_letter_lower(text: str) -> str:
    match = _WORD.search(text)
    return text if match is None else text[: match.start()] + text[match.start()].lower() + text[match.start() + 1 :]


def _changed(pair: Pair, source: str, target: str) -> Pair:
    return Pair(source, target, pair.source_language, pair.target_language)
