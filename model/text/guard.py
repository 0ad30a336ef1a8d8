"""What is suspicious in the translation of one segment: copies, loops, gaps, lost numbers, the wrong language.

Judges the two texts only, never the network; what is done about a finding is not decided here. The thresholds were
chosen on reference translations between English and French, so that people's translations are hardly ever accused.
"""
# ruff: noqa: RUF001 (typographic apostrophes are meant)

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from model.text.glossary import base_language
from model.text.languages import LanguageDetector
from model.text.numbers import lost_and_invented

FindingCode = Literal["copied", "looped", "short", "long", "numbers", "language", "empty"]

COPIED_SHARE = 0.75
"""Share of the target's words that the source has as well, from which the target is a copy."""
COPIED_WORDS = 4
"""Fewest different words in lower case by which a segment is judged as a copy."""
SHORT_COPY_CONFIDENCE = 0.9
"""Confidence of the detector in the source's language from which a short target equal to the source is a copy."""
SHORT_COPY_LETTERS = 15
"""Fewest letters of a segment of few words that is judged as a copy; shorter ones may be borrowed: "film noir"."""
LANGUAGE_LETTERS = 30
"""Fewest letters of a target whose language is judged."""
LANGUAGE_CONFIDENCE = 0.97
"""Confidence of the detector from which a target is in another language than asked."""
HALF_CONFIDENCE = 0.99
"""The same for the first or the second half of the target."""
LENGTH_TOLERANCE = 0.3
"""Greatest distance of the logarithm of the length ratio from the expected one, for an endless segment."""
LENGTH_TOLERANCE_SHORT = 1.6
"""What is added to the tolerance, divided by the square root of the source's number of letters and digits."""
MIN_LENGTH = 15
"""Fewest letters and digits of a source whose translation may be called too short or too long."""
LOOPED_PERIODS = 12
"""Longest group of words that is looked at for immediate repetition."""
REPEATED_WORDS = 7
"""Words in a row that do not come twice in one segment unless the source repeats itself."""
LONG_WORD = 40
"""Letters of a word from which it is looked at for repeated characters."""

_LENGTH_RATIOS = {("en", "fr"): 1.17, ("fr", "en"): 1 / 1.17}
"""Median of target letters and digits over source ones; 1 for other pairs."""
_WORD = re.compile(r"[^\W_]+")
_LETTERS_OR_DIGITS = re.compile(r"[^\W_]")
_APOSTROPHES = str.maketrans("’ʼ", "''")


@dataclass(frozen=True)
class Finding:
    """One thing that is suspicious in a translation."""

    code: FindingCode
    message: str
    """One line for people, without text of the segment but for its numbers."""
    severity: float
    """From 0, hardly worth a look, to 1, useless."""


def check_segment(
    source: str,
    target: str,
    source_language: str,
    target_language: str,
    *,
    detector: LanguageDetector,
    protected: Sequence[str] = (),
) -> list[Finding]:
    """Judge the translation of one segment, in time linear in the two texts.

    Args:
        source: the segment.
        target: its translation.
        source_language: code of the source's language.
        target_language: code of the target's language.
        detector: says which language a text is in.
        protected: strings that are the same in both on purpose; they are not looked at.

    Returns:
        The findings, worst first; none for a translation that looks right.
    """
    empty = not target.strip()
    source, target = _without(protected, source, target)
    if not _LETTERS_OR_DIGITS.search(source):
        return []
    if empty:
        return [Finding("empty", "the translation is empty", 1.0)]
    one_language = base_language(source_language) == base_language(target_language)
    source_words, target_words = _words(source), _words(target)
    found = [
        *([] if one_language else _copied(source_words, target_words, (source_language, target_language), detector)),
        *_looped(source_words, target_words),
        *_length(source, target, (base_language(source_language), base_language(target_language))),
        *_numbers(source, target, base_language(source_language), base_language(target_language)),
        *([] if one_language else _language(source, target, source_language, target_language, detector)),
    ]
    return sorted(found, key=lambda finding: -finding.severity)


def severity(findings: Sequence[Finding]) -> float:
    """How bad findings are together, from 0 (none) to 1: as if each were an independent chance of being useless."""
    return 1.0 - math.prod(1.0 - finding.severity for finding in findings)


def _without(pieces: Sequence[str], source: str, target: str) -> tuple[str, str]:
    """Take out the pieces that both texts have: one that is only in one of them is a difference to be judged."""
    for piece in sorted(filter(None, set(pieces)), key=len, reverse=True):
        if piece in source and piece in target:
            before, after = (r"(?<!\w)" if _WORD.match(piece) else ""), (r"(?!\w)" if _WORD.match(piece[-1]) else "")
            pattern = re.compile(f"{before}{re.escape(piece)}{after}")
            source, target = pattern.sub(" ", source), pattern.sub(" ", target)
    return source, target


def _words(text: str) -> list[str]:
    return _WORD.findall(text.translate(_APOSTROPHES))


def _copied(
    source_words: Sequence[str], target_words: Sequence[str], languages: tuple[str, str], detector: LanguageDetector
) -> Iterator[Finding]:
    """A target that has the source's words. Only those in lower case count, as names and numbers stay the same."""
    ours = Counter(word for word in source_words if word.isalpha() and word.islower())
    theirs = Counter(word for word in target_words if word.isalpha() and word.islower())
    if min(len(ours), len(theirs)) >= COPIED_WORDS:
        shared = (ours & theirs).total() / theirs.total()
        if shared >= COPIED_SHARE:
            yield Finding("copied", f"{shared:.0%} of its words are words of the source", 0.9)
    elif (
        ours
        and len("".join(source_words)) >= SHORT_COPY_LETTERS
        and list(map(str.lower, source_words)) == list(map(str.lower, target_words))
    ):
        best = detector.detect(" ".join(target_words), languages)  # too few words to say without their language
        if best and best[0].language == languages[0] and best[0].confidence >= SHORT_COPY_CONFIDENCE:
            yield Finding("copied", "it is the source again", 0.6)


def _looped(source_words: Sequence[str], target_words: Sequence[str]) -> Iterator[Finding]:
    """A group of words that comes again and again, or a word of repeated characters, unless the source has such."""
    ours = [word.lower() for word in source_words]
    theirs = [word.lower() for word in target_words]
    times, period = _repetition(theirs, LOOPED_PERIODS)
    usual = max(_repetition(ours, LOOPED_PERIODS)[0], 1)
    if times >= usual + (2 if period > 1 else 3) - (usual > 1) and times > 1.5 * usual:
        yield Finding("looped", f"{times} times the same {period} words in a row", min(1.0, 0.6 + 0.05 * times))
        return
    if (most := _most_frequent(theirs, REPEATED_WORDS)) > 1 and _most_frequent(ours, REPEATED_WORDS // 2) < 2:
        yield Finding("looped", f"{most} times the same {REPEATED_WORDS} words", 0.6)
        return
    for size, limit in ((4, 3), (3, 4), (2, 6)):
        most, expected = _most_frequent(theirs, size), _most_frequent(ours, size)
        if most >= limit and most >= 2 * expected + 1:
            yield Finding("looped", f"{most} times the same {size} words", min(1.0, 0.4 + 0.05 * most))
            return
    longest = max(theirs, key=len, default="")
    if len(longest) >= LONG_WORD and len(longest) > 2 * max(map(len, ours), default=0):
        times, period = _repetition(longest, 8)
        if times * period >= len(longest) // 2:
            yield Finding("looped", f"a word with {times} times the same {period} characters in a row", 0.9)


def _repetition(items: Sequence[str], longest: int) -> tuple[int, int]:
    """Return the greatest number of times that a group of items stands in a row, and the items of the group."""
    best = (1, 1) if items else (0, 0)
    if len(set(pairwise(items))) == len(items) - 1:  # no two items come again together: no group of two or more does
        longest = 1
    for period in range(1, min(longest, len(items) // 2) + 1):
        run = most = 0
        for index in range(period, len(items)):
            run = run + 1 if items[index] == items[index - period] else 0
            most = max(most, run)
        best = max(best, (most // period + 1, period), key=lambda pair: pair[0])
    return best


def _most_frequent(words: Sequence[str], size: int) -> int:
    counts = Counter(zip(*(words[offset:] for offset in range(size)), strict=False))
    return max(counts.values(), default=0)


def _length(source: str, target: str, pair: tuple[str, str]) -> Iterator[Finding]:
    """A target whose length does not suit the source: the tolerance is wider for a short source."""
    ours, theirs = len(_LETTERS_OR_DIGITS.findall(source)), len(_LETTERS_OR_DIGITS.findall(target))
    expected = _LENGTH_RATIOS.get(pair, 1.0)
    tolerance = LENGTH_TOLERANCE + LENGTH_TOLERANCE_SHORT / math.sqrt(ours)
    if pair not in _LENGTH_RATIOS:
        tolerance += 0.5
    excess = math.log(max(theirs, 0.5) / (ours * expected))
    if ours < MIN_LENGTH and theirs < 3 * MIN_LENGTH:
        return
    if excess < -tolerance:
        yield Finding("short", f"{theirs} letters for {ours} of the source", min(1.0, 0.3 - (excess + tolerance)))
    elif excess > tolerance:
        yield Finding("long", f"{theirs} letters for {ours} of the source", min(1.0, 0.3 + (excess - tolerance)))


def _numbers(source: str, target: str, source_language: str, target_language: str) -> Iterator[Finding]:
    lost, invented = lost_and_invented(source, target, source_language, target_language)
    if lost or invented:
        parts = [f"{kind} {', '.join(numbers[:5])}" for kind, numbers in (("lost", lost), ("new", invented)) if numbers]
        weight = min(0.9, 0.3 + 0.1 * (len(lost) + len(invented)))
        yield Finding("numbers", f"numbers differ: {'; '.join(parts)}", weight)


def _language(source: str, target: str, ours: str, theirs: str, detector: LanguageDetector) -> Iterator[Finding]:
    """A target that is in another language, unless the source is already a mixture."""
    installed = list(dict.fromkeys([theirs, ours, *detector.languages]))
    words = target.split()
    middle = len(words) // 2
    for text, confidence in (
        (target, LANGUAGE_CONFIDENCE),
        (" ".join(words[:middle]), HALF_CONFIDENCE),
        (" ".join(words[middle:]), HALF_CONFIDENCE),
    ):
        if sum(map(str.isalpha, text)) < LANGUAGE_LETTERS:
            continue
        best = detector.detect(text, installed)
        if best and base_language(best[0].language) != base_language(theirs) and best[0].confidence >= confidence:
            origin = detector.detect(source, installed)
            if origin and base_language(origin[0].language) != base_language(theirs):
                part = "it seems" if text is target else "half of it seems"
                yield Finding("language", f"{part} to be in {best[0].language}, not in {theirs}", 0.9)
            return
