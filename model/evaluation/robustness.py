"""Dev sets made from a dev set as users write: capitals, titles, no punctuation, typing errors, joined lines, and text
that must survive; it translates and scores nothing.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from model.text.variations import Pair, no_final_punctuation, title_case, typing_errors, upper_case

SURVIVING = (
    "{name}",
    "%s",
    "https://example.org/a?b=1",
    '<x id="1"/>',
    "{{count}}",
    "jean.dupont@example.com",
    "%(total)d",
    "/usr/share/doc",
)
"""What the lines of the set ``protected`` must keep, in turns."""
_JOINED = (2, 3, 4)
_END = re.compile(r"\s*[.!?…:;»\"”)]*\s*$")


@dataclass(frozen=True)
class DevSet:
    """Lines with their translations.

    Attributes:
        name: such as ``news``, or ``news.typos`` for one that was made from it.
        source, target: codes of the languages.
        sources, references: the lines of both.
        pieces: for each line, what must stand in its translation as it is; empty where nothing must.
        terms: for each line, words of the source with their wanted translations; empty where there are none.
    """

    name: str
    source: str
    target: str
    sources: tuple[str, ...]
    references: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...] = ()
    terms: tuple[tuple[tuple[str, str], ...], ...] = ()


def robustness_sets(dev: DevSet) -> Iterator[DevSet]:
    """Yield the sets made from a dev set; they depend on it alone.

    References change with their sources where a good translation would: capitals, titles, and punctuation, but not
    typing errors.
    """
    changes: dict[str, Callable[[Pair, random.Random], Pair]] = {
        "upper_case": upper_case,
        "title_case": lambda pair, _: title_case(pair),
        "no_punctuation": lambda pair, _: no_final_punctuation(pair),
        "typos": typing_errors,
    }
    pairs = [Pair(s, r, dev.source, dev.target) for s, r in zip(dev.sources, dev.references, strict=True)]
    for kind, change in changes.items():
        changed = [change(pair, random.Random(f"{kind} {index}")) for index, pair in enumerate(pairs)]
        yield _made(dev, kind, [(pair.source, pair.target) for pair in changed])
    yield _made(dev, "joined", list(_joined(pairs)))
    pieces = [_pieces_of(index) for index in range(len(pairs))]
    lines = [
        (_with_pieces(pair.source, own), _with_pieces(pair.target, own))
        for pair, own in zip(pairs, pieces, strict=True)
    ]
    yield replace(_made(dev, "protected", lines), pieces=tuple(pieces))


def _made(dev: DevSet, kind: str, lines: Sequence[tuple[str, str]]) -> DevSet:
    sources, references = zip(*lines, strict=True)
    return replace(dev, name=f"{dev.name}.{kind}", sources=sources, references=references, pieces=())


def _joined(pairs: Sequence[Pair]) -> Iterator[tuple[str, str]]:
    """Yield two, three, four lines that follow each other as one, and so on; the last may have fewer."""
    remaining = iter(pairs)
    for count in itertools.cycle(_JOINED):
        group = list(itertools.islice(remaining, count))
        if not group:
            return
        yield " ".join(pair.source for pair in group), " ".join(pair.target for pair in group)


def _pieces_of(index: int) -> tuple[str, ...]:
    """Return one piece, and a second one for every third line."""
    count = 2 if index % 3 == 2 else 1
    return tuple(SURVIVING[(index + place * 3) % len(SURVIVING)] for place in range(count))


def _with_pieces(text: str, pieces: Sequence[str]) -> str:
    """Return a text with the first piece before its final punctuation, and the second at its beginning."""
    match = _END.search(text)
    end = match.start() if match else len(text)
    text = f"{text[:end]} {pieces[0]}{text[end:]}"
    return f"{pieces[1]} {text}" if len(pieces) > 1 else text
