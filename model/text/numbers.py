"""Numbers in English and French text as values, and which of a source its translation lacks or adds.

Reads digits in both notations (1,000.5 and 1 000,5), times, Roman numerals and number words; what has several readings
has several values, and numbers are only called lost if no reading is found. Does not convert units or currencies.
"""
# ruff: noqa: RUF001 (typographic spaces and apostrophes are meant)

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

Value = float | str
"""A number, or a time of day such as ``t870`` (minutes after midnight)."""

_NUMBER = re.compile(
    r"(?P<time>(?<![\d.,:])(?P<hour>\d{1,2})(?:\s?[hH:]\s?(?P<minute>[0-5]\d)(?!\d)|\s?[hH](?![\w])|\.(?P<dotted>[0-5]\d)(?=\s?[ap]\.?m\b)"
    r"|(?=\s?[ap]\.?m\b)|(?=\s?heures?\b)|(?=\so'clock))(?:\s?min\b)?(?:\s?(?P<half>[ap])\.?m\b)?)"
    r"|(?P<grouped>\d{1,3}(?:[ \u00a0\u202f.,'’]\d{3})+(?!\d)(?:[.,]\d{1,9})?)"
    r"|(?P<plain>\d{1,30}(?:[.,]\d{1,9})?)",
    re.IGNORECASE,
)
_GROUP = re.compile(r"\d{1,30}")
_SCALE_AFTER = re.compile(r"[\s\u00a0-]{0,2}(?:\w{1,12}\s)?([A-Za-z]{1,10})\b")
_DECADE = re.compile(r"(?<=['’])\d0(?=s)|(?<=années )\d0", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_ROMAN = re.compile(
    r"(?<!\w)(?=[IVXLC])(C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})(?=(?:er|e|ème|ère|th|st|nd|rd)?(?!\w))"
)
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_SPACES = re.compile(r"[ \u00a0\u202f'’]")

_SCALES = {
    **dict.fromkeys(("thousand", "thousands", "mille", "milliers", "k"), 1e3),
    **dict.fromkeys(("hundred", "hundreds", "cent", "cents"), 1e2),
    **dict.fromkeys(("million", "millions", "m", "mn"), 1e6),
    **dict.fromkeys(("billion", "bn", "b", "milliard", "milliards", "md", "mds"), 1e9),
    **dict.fromkeys(("trillion", "trillions", "tn"), 1e12),
}
_SCALES_OF = {"en": {**_SCALES, "billions": 1e9}, "fr": {**_SCALES, "billions": 1e12}}


def _count(words: str, first: int = 1, step: int = 1) -> dict[str, float]:
    """Number words in order; words with a bar between them mean the same."""
    values = (first + step * index for index in range(len(words.split(" "))))
    return {word: float(v) for group, v in zip(words.split(" "), values, strict=True) for word in group.split("|")}


_WORDS: dict[str, dict[str, float]] = {
    "en": {
        **_count(
            "zero|no one|a|an|once|single|first two|twice|double|second|pair|both three|triple|third|thirds|thrice", 0
        ),
        **_count("four|fourth|quadruple five|fifth six|sixth seven|seventh eight|eighth nine|ninth ten|tenth", 4),
        **_count(
            "eleven|eleventh twelve|twelfth|dozen|dozens thirteen|thirteenth fourteen|fourteenth fifteen|fifteenth", 11
        ),
        **_count("sixteen|sixteenth seventeen|seventeenth eighteen|eighteenth nineteen|nineteenth", 16),
        **_count(
            "twenty|twentieth|twenties thirty|thirtieth|thirties forty|fortieth|forties fifty|fiftieth|fifties", 20, 10
        ),
        **_count("sixty|sixties|sixtieth seventy|seventies eighty|eighties ninety|nineties", 60, 10),
        "half": 0.5,
        "quarter": 0.25,
        "quarters": 0.25,
        "hundred": 100.0,
        "hundreds": 100.0,
        "century": 100.0,
    },
    "fr": {
        **_count(
            "zéro|aucun|aucune un|une|premier|première deux|deuxième|second|seconde|double trois|troisième|tiers",
            0,
        ),
        **_count("quatre|quatrième cinq|cinquième six|sixième sept|septième huit|huitième neuf|neuvième", 4),
        **_count(
            "dix|dixième|dizaine|dizaines onze|onzième douze|douzième|douzaine treize|treizième quatorze|quatorzième",
            10,
        ),
        **_count("quinze|quinzième|quinzaine seize|seizième", 15),
        **_count(
            "vingt|vingts|vingtième|vingtaine trente|trentaine quarante|quarantaine cinquante|cinquantaine", 20, 10
        ),
        **_count("soixante|soixantaine septante huitante|octante nonante", 60, 10),
        "demi": 0.5,
        "demie": 0.5,
        "moitié": 0.5,
        "quart": 0.25,
        "quarts": 0.25,
        "centaine": 100.0,
        "centaines": 100.0,
        "siècle": 100.0,
    },
}
_LINKS = {"en": frozenset({"and"}), "fr": frozenset({"et"})}
_TIMES = {"noon": 720, "midday": 720, "midnight": 0, "midi": 720, "minuit": 0}
_WORDLESS_LIMIT = 12
"""Numbers up to here may be words in a language whose number words are not known."""


def lost_and_invented(
    source: str, target: str, source_language: str, target_language: str
) -> tuple[list[str], list[str]]:
    """Return the numbers in digits of the source that the target lacks, and those of the target that the source lacks.

    Args:
        source, target: a segment and its translation.
        source_language, target_language: base codes, such as ``en``; number words are read in English and French.
    """
    return (
        _missing(source, source_language, _readings(target, target_language), target_language),
        _missing(target, target_language, _readings(source, source_language), source_language),
    )


def _missing(text: str, language: str, there: set[Value], other_language: str) -> list[str]:
    """Numbers in digits of which no reading is in ``there``, each once, in order."""
    missing: dict[str, None] = {}
    for match in _NUMBER.finditer(text):
        values = set(_values(match, text, language))
        if other_language not in _WORDS and any(isinstance(v, float) and v <= _WORDLESS_LIMIT for v in values):
            continue
        groups = [float(group) for group in _GROUP.findall(match[0])]
        if values & there or (len(groups) > 1 and all(group in there for group in groups)):
            continue
        missing[match[0].strip()] = None
    return list(missing)


def _readings(text: str, language: str) -> set[Value]:
    """Every value that a text could be said to have."""
    values: set[Value] = set(_word_values(text, language))
    groups = []
    for match in _NUMBER.finditer(text):
        values.update(_values(match, text, language))
        groups += [(found.start() + match.start(), found[0]) for found in _GROUP.finditer(match[0])]
    values.update(float(group) for _, group in groups)
    values.update(
        float(one + other)
        for (start, one), (following, other) in pairwise(groups)
        if len(other) == 3 and following - start - len(one) <= 2
    )
    for match in _ROMAN.finditer(text):
        digits = [_ROMAN_DIGITS[digit] for digit in match[0]]
        values.add(float(sum(-d if d < n else d for d, n in zip(digits, [*digits[1:], 0], strict=True))))
    return values


def _values(match: re.Match[str], text: str, language: str) -> Iterator[Value]:
    """The readings of one number in digits."""
    if match["time"]:
        yield from _time_values(match)
        return
    literal = _SPACES.sub("", match[0])
    readings = list(_decimals(literal))
    yield from readings
    after = text[match.end() : match.end() + 40]
    if (scale := _SCALE_AFTER.match(after)) and (factor := _SCALES_OF.get(language, {}).get(scale[1].lower())):
        yield from (round(value * factor, 6) for value in readings)
    if len(literal) == 4 and literal.isdecimal() and literal[0] in "12":
        yield float(literal[2:])
    if _DECADE.match(text, match.start()):
        yield from (1900.0 + readings[0], 1800.0 + readings[0], 2000.0 + readings[0])


def _time_values(match: re.Match[str]) -> Iterator[Value]:
    hour, minute = int(match["hour"]), int(match["minute"] or match["dotted"] or 0)
    half = (match["half"] or "").lower()
    if not minute:
        yield float(hour)  # "5 h" may be five hours
    if half:
        yield f"t{(hour % 12 + (12 if half == 'p' else 0)) * 60 + minute}"
    else:
        yield f"t{hour * 60 + minute}"
        if hour <= 12:
            yield f"t{(hour % 12 + 12) * 60 + minute}"


def _decimals(literal: str) -> Iterator[float]:
    """Read digits with points and commas: a single one before three digits may separate thousands or decimals."""
    points, commas = literal.count("."), literal.count(",")
    if points and commas:
        decimal = max(".", ",", key=literal.rfind)
        other = "," if decimal == "." else "."
        if literal.count(decimal) == 1:
            yield float(literal.replace(other, "").replace(decimal, "."))
        else:
            yield float(literal.replace(".", "").replace(",", ""))
    elif points + commas == 1:
        yield float(literal.replace(",", "."))
        if len(literal.replace(",", ".").partition(".")[2]) == 3:
            yield float(literal.replace(",", "").replace(".", ""))
    else:
        yield float(literal.replace(",", "").replace(".", ""))


def _word_values(text: str, language: str) -> Iterator[Value]:
    """Values of number words, alone and composed: "twenty-one", "deux cent cinquante", "quatre-vingt-dix"."""
    known, scales, links = _WORDS.get(language, {}), _SCALES_OF.get(language, {}), _LINKS.get(language, frozenset())
    total = group = 0.0
    for match in _WORD.finditer(text.lower()):
        word = match[0]
        if word in _TIMES:
            yield f"t{_TIMES[word]}"
        if word in scales and len(word) > 2:
            yield scales[word]
            if scales[word] == 100:
                group = max(group, 1.0) * 100
            else:
                total, group = total + max(group, 1.0) * scales[word], 0.0
        elif word in known:
            value = known[word]
            yield value
            if word in ("vingt", "vingts") and group % 100 == 4:
                group += 76
            elif group and (group % 10 or value >= 10) and group % 100 and not (group % 100 >= 60 and 10 <= value < 20):
                total, group = 0.0, value
            else:
                group += value
        elif word not in links:
            total = group = 0.0
            continue
        yield total + group
