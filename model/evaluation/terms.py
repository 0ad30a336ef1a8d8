"""Terms of a dev set, found in the set itself, and whether translations have them; it translates nothing.

Words that keep occurring in each other's company are translations of each other (Dice's coefficient, Smadja et al.
1996). So every line gets terms whose wanted translations are those of its own reference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from model.evaluation.robustness import DevSet
from model.text.glossary import Glossary, term_present

MIN_LETTERS = 4
"""Shorter words are mostly function words, which nobody puts into a glossary."""
MIN_LINES = 3
"""Lines that two words must share."""
MIN_DICE = 0.6
MAX_SHARE = 0.05
"""A word in a larger share of the lines is no term."""
MAX_TERMS = 2
"""Terms of one line."""
_WORD = re.compile(rf"[^\W\d_]{{{MIN_LETTERS},}}")


@dataclass(frozen=True)
class TermSurvival:
    """How many of a set's terms came out.

    Attributes:
        count: terms in all lines.
        kept: share of them that is in the translation, where the translator was given them as a glossary.
        without: the same where it was not: what the model would have written anyway.
    """

    count: int
    kept: float
    without: float


def term_set(dev: DevSet) -> DevSet | None:
    """Return the lines of a set that have terms, with these; None where there are none."""
    sources, references = (list(map(_words, side)) for side in (dev.sources, dev.references))
    pairs = _dictionary(sources, references)
    lines = []
    for index, (source, reference) in enumerate(zip(sources, references, strict=True)):
        found = [
            (source[word], reference[pairs[word]])
            for word in sorted(source)
            if word in pairs and pairs[word] in reference and source[word] != reference[pairs[word]]
        ]
        if found:
            lines.append((dev.sources[index], dev.references[index], tuple(found[:MAX_TERMS])))
    if not lines:
        return None
    chosen, wanted, terms = zip(*lines, strict=True)
    return replace(dev, name=f"{dev.name}.terms", sources=chosen, references=wanted, pieces=(), terms=terms)


def glossaries_of(dev: DevSet) -> list[Glossary]:
    """Return a glossary for each line."""
    return [Glossary("terms", "terms", dev.source, dev.target, entries) for entries in dev.terms]


def share_present(dev: DevSet, hypotheses: Iterable[str]) -> float:
    """Return the share of all terms that is in the translations, inflected or not."""
    found = [
        term_present(text, wanted, dev.target)
        for terms, text in zip(dev.terms, hypotheses, strict=True)
        for _, wanted in terms
    ]
    return sum(found) / len(found)


def _words(text: str) -> dict[str, str]:
    """Return the words that occur once in a text: in lower case, and as they stand there."""
    found = [match.group() for match in _WORD.finditer(text)]
    counts = Counter(map(str.lower, found))
    return {word.lower(): word for word in found if counts[word.lower()] == 1}


def _dictionary(sources: Sequence[dict[str, str]], references: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the pairs of words that are each other's single best."""
    limit = max(MIN_LINES, int(MAX_SHARE * len(sources)))
    singles = [Counter(word for line in side for word in line) for side in (sources, references)]
    usable = [{word for word, times in counts.items() if MIN_LINES <= times <= limit} for counts in singles]
    together = Counter(
        (one, other)
        for source, reference in zip(sources, references, strict=True)
        for one in source.keys() & usable[0]
        for other in reference.keys() & usable[1]
    )
    dice = {
        pair: 2 * times / (singles[0][pair[0]] + singles[1][pair[1]])
        for pair, times in together.items()
        if times >= MIN_LINES
    }
    best: tuple[dict[str, tuple[float, str | None]], dict[str, tuple[float, str | None]]] = ({}, {})
    for (one, other), value in dice.items():
        for table, word, partner in ((best[0], one, other), (best[1], other, one)):
            before = table.get(word, (0.0, None))
            if value > before[0]:
                table[word] = (value, partner)
            elif value == before[0]:
                table[word] = (value, None)  # two that are as good: neither is sure
    return {
        one: other
        for one, (value, other) in best[0].items()
        if other is not None and value >= MIN_DICE and best[1][other][1] == one
    }
