"""Which sentence pairs are unfit for training, and why; it reads no files and tokenises nothing."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from functools import cached_property

from model.text.languages import LanguageDetector, sample_words
from model.text.numbers import lost_and_invented
from model.text.protection import Protection, find_protected
from model.training_config import FilterConfig

STRICT = FilterConfig(
    min_letters=0.4,
    language_confidence=0.9,
    numbers=True,
    urls=True,
    repeats=True,
    near_duplicates=True,
    max_family=20,
)
"""Every rule, at values that cost a clean corpus little."""
_MIN_LANGUAGE_WORDS = 4
"""Shorter sides may be names, titles or loans, of which no detector can be sure."""
_ADDRESSES = Protection(presets=("urls", "emails"))
_REPEATED_CHARACTER = re.compile(r"([^\W\d_])\1{4}|([^\w\s.…=*~#/\\-])\2{5}")
_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"\w+")
_REPEATED_TIMES = 4
_LONGEST_REPEATED = 4
_LETTER_RUN = re.compile(r"[^\W\d_]+")
_MASKED = re.compile(r"\"[^\"]*\"|«[^»]*»|“[^”]*”|‘[^’]*’|\S*[\d/\\_@<>{}=$%]\S*|\w+\.\w\S*")  # noqa: RUF001


def rejection(first: str, second: str, max_ratio: float) -> str | None:
    """Return why a pair of sides is unfit for training, or None when it is fit.

    The rules need no language: both sides have letters, their lengths are comparable, they are not copies of more than
    three words (names are copied, sentences are not), and neither has characters that a wrong decoding lost.

    Args:
        first: one side, normalised.
        second: the other.
        max_ratio: the longer side may have this times the characters of the shorter, plus 20.
    """
    if not first or not second:
        return "empty side"
    if not (_has_letter(first) and _has_letter(second)):
        return "no letters"
    longer, shorter = max(len(first), len(second)), min(len(first), len(second))
    if longer > max_ratio * shorter + 20:
        return "length ratio"
    if first == second and len(first.split()) > 3:
        return "copy"
    if "\ufffd" in first or "\ufffd" in second:
        return "damaged characters"
    return None


def letter_share(text: str) -> float:
    """Return the share of letters among the characters of a text that are no spaces; 0 of an empty text."""
    visible = "".join(text.split())
    return sum(map(str.isalpha, visible)) / len(visible) if visible else 0.0


def repeats(text: str) -> bool:
    """Say whether a letter stands five times in a row, a sign six times, or one to four words four times.

    Signs that draw lines or lead to a page number do not count.
    """
    if _REPEATED_CHARACTER.search(text):
        return True
    words = _WORD.findall(text.lower())
    if not words or Counter(words).most_common(1)[0][1] < _REPEATED_TIMES:
        return False
    for length in range(1, _LONGEST_REPEATED + 1):
        run = 0
        for left, right in zip(words, words[length:], strict=False):
            run = run + 1 if left == right else 0
            if run == length * (_REPEATED_TIMES - 1):
                return True
    return False


def different_addresses(first: str, second: str) -> bool:
    """Say whether the sides do not have the same URLs and e-mail addresses, each as often."""
    counts = [Counter(side[start:end] for start, end in find_protected(side, _ADDRESSES)) for side in (first, second)]
    return counts[0] != counts[1]


def different_numbers(first: str, second: str, languages: tuple[str, str]) -> bool:
    """Say whether a number that one side has in digits is missing from the other, where it may be a word."""
    return bool(_DIGIT.search(first + second)) and any(lost_and_invented(first, second, *languages))


def near_duplicate_key(first: str, second: str) -> bytes:
    """Return what two pairs share that differ in nothing but case, digits, spaces and punctuation."""
    letters = ("".join(_LETTER_RUN.findall(side)).casefold() for side in (first, second))
    return _digest("\t".join(letters))


def family_key(first: str, second: str) -> bytes | None:
    """Return what the pairs of one template share: the first side without what a template is filled with.

    That is words with digits or the signs of paths, variables and markup, quoted text, and words that stand in the
    second side as they are, which are nearly all names. With fewer than two words left there is no template: None.
    """
    same = set(_LETTER_RUN.findall(second))
    masked = _MASKED.sub("0", first)
    masked = _LETTER_RUN.sub(lambda match: "0" if match.group() in same else match.group(), masked)
    if len(_LETTER_RUN.findall(masked)) < 2:
        return None
    # Names of several words are one, and a hyphen between two does not matter.
    return _digest(re.sub(r"0(?:[\s0'’,.:-]*0)*", "0", masked).casefold())  # noqa: RUF001


class PairFilter:
    """The further rules of one corpus; it remembers the pairs that it has let pass.

    Args:
        config: which rules there are.
        languages: of the two sides.
    """

    def __init__(self, config: FilterConfig, languages: tuple[str, str]) -> None:
        self.config = config
        self.languages = languages
        self._seen: set[bytes] = set()
        self._families: Counter[bytes] = Counter()

    def rejection(self, first: str, second: str) -> str | None:
        """Return why a pair is unfit, or None; a pair that is fit counts for those that follow."""
        return self.own_fault(first, second) or self.repeated(*self.keys(first, second))

    def own_fault(self, first: str, second: str) -> str | None:
        """Return why a pair is unfit by itself, or None; nothing is remembered."""
        config = self.config
        if min(letter_share(first), letter_share(second)) < config.min_letters:
            return "few letters"
        if config.repeats and (repeats(first) or repeats(second)):
            return "repeated characters or words"
        if config.numbers and different_numbers(first, second, self.languages):
            return "different numbers"
        if config.urls and different_addresses(first, second):
            return "different addresses"
        if config.language_confidence and self._wrong_language(first, second):
            return "wrong language"
        return None

    def keys(self, first: str, second: str) -> tuple[bytes | None, bytes | None]:
        """Return what a pair shares with its near duplicates and with its family, as far as the rules ask for it."""
        return (
            near_duplicate_key(first, second) if self.config.near_duplicates else None,
            family_key(first, second) if self.config.max_family else None,
        )

    def repeated(self, near: bytes | None, family: bytes | None) -> str | None:
        """Return why a pair with such keys is unfit beside those that passed, or None, and then it counts as passed.

        To be asked last of all, so that a pair that is dropped never stands for another.
        """
        if near is not None and near in self._seen:
            return "near duplicate"
        if family is not None:
            if self._families[family] >= self.config.max_family:
                return "template family"
            self._families[family] += 1
        if near is not None:
            self._seen.add(near)
        return None

    def _wrong_language(self, first: str, second: str) -> bool:
        """Say whether a side is in the other side's language, as surely as the configuration asks."""
        for text, language in zip((first, second), self.languages, strict=True):
            if len(sample_words(text)) >= _MIN_LANGUAGE_WORDS:
                best = self._detector.detect(text, self.languages)[0]
                if best.language != language and best.confidence >= self.config.language_confidence:
                    return True
        return False

    @cached_property
    def _detector(self) -> LanguageDetector:
        return LanguageDetector()


def _has_letter(text: str) -> bool:
    return any(unicodedata.category(character).startswith("L") for character in text)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()
