"""Text that is all capitals, spelt as a sentence and back: the pipeline translates the former through the latter.

Capitals alone are other tokens than the same words in small letters, and far rarer ones. Lengths never change, so that
spans of one spelling are spans of the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Span = tuple[int, int]

_WORD = re.compile(r"[^\W\d_]+")
_LEAST_LETTERS = 6
_LONG_WORD = 4
"""A text of short words only may be a row of abbreviations, which must stay as they are."""
_PRONOUN = re.compile(r"\bi\b")
"""English spells it with a capital."""


def sentence_case(text: str, language: str, kept: Sequence[Span] = ()) -> str | None:
    """Return a text of capitals in small letters with a capital first letter; None for any other text.

    Args:
        text: one sentence.
        language: its code.
        kept: spans that do not count and stay as they are, in order.
    """
    words = [word for word in _WORD.finditer(_blanked(text, kept)) if word.group().upper() != word.group().lower()]
    if any(word.group() != word.group().upper() for word in words):
        return None
    lengths = [len(word.group()) for word in words]
    if sum(lengths) < _LEAST_LETTERS or max(lengths) < _LONG_WORD:
        return None
    first = words[0].start()
    small = _changed(text, kept, lambda part: "".join(map(_lower, part)))
    small = small[:first] + text[first] + small[first + 1 :]
    return _changed(small, kept, lambda part: _PRONOUN.sub("I", part)) if language == "en" else small


def capitals(text: str, kept: Sequence[Span] = ()) -> str:
    """Return a text in capitals, spans that are ``kept`` as they are.

    A letter whose capital is several letters, such as the German sharp s, stays small.
    """
    return _changed(text, kept, lambda part: "".join(map(_upper, part)))


def _changed(text: str, kept: Sequence[Span], change: Callable[[str], str]) -> str:
    """Return the text with everything outside the kept spans changed."""
    parts, position = [], 0
    for start, end in kept:
        parts += [change(text[position:start]), text[start:end]]
        position = end
    return "".join([*parts, change(text[position:])])


def _blanked(text: str, kept: Sequence[Span]) -> str:
    """Return the text with spaces in the place of the kept spans."""
    parts, position = [], 0
    for start, end in kept:
        parts += [text[position:start], " " * (end - start)]
        position = end
    return "".join([*parts, text[position:]])


def _lower(character: str) -> str:
    small = character.lower()
    return small if len(small) == 1 else character


def _upper(character: str) -> str:
    large = character.upper()
    return large if len(large) == 1 else character
