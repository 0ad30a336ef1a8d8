"""Cuts a segment into words and punctuation for placing tags, and joins both sides by a word alignment."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import regex

Span = tuple[int, int]
Link = tuple[int, int, int, int]

MAX_PAIRS = 400_000
"""Most pairs of words that a segment's links may stand for; above, tags keep their relative positions."""

# A word with its elision ("l'"), or any other character with its marks.
_ATOM = regex.compile(r"[\p{L}\p{N}_\p{M}\u200d]+['’]?|(?!\s)\X")  # noqa: RUF001
_SYMBOLS = frozenset("%&@#*/\\_§†‡")
_CUT_BEFORE = regex.compile(r"[\p{M}\u200c\u200d\ufe0f\U0001f3fb-\U0001f3ff]")


@dataclass
class Words:
    """The words of one side: ``starts[i]``, ``ends[i]``, and whether it is punctuation."""

    text: str
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    punctuation: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.starts)

    def overlapping(self, start: int, end: int) -> range:
        """Return the words that have a character in ``text[start:end]``."""
        return range(bisect_right(self.ends, start), bisect_left(self.starts, end)) if start < end else range(0)


@dataclass
class Alignment:
    """Which target words each source word is aligned to, and the share of the link it brings."""

    source: Words
    target: Words
    links: list[list[tuple[int, float]]]
    total: list[float]
    """Sum of the shares of each target word."""
    is_complete: bool = True
    """False if there were too many links to follow."""


def cut_words(text: str, whole: Sequence[Span], cuts: Iterable[int]) -> Words:
    """Return the words of a text; spans in ``whole`` are words and stay so, others are cut at ``cuts`` as well."""
    words = Words(text)
    wanted = sorted(set(cuts))
    cursor = 0
    for start, end in [*whole, (len(text), len(text))]:
        for match in _ATOM.finditer(text, cursor, start):
            first, last = match.span()
            inside = wanted[bisect_right(wanted, first) : bisect_left(wanted, last)]
            for cut in [*inside, last]:
                if cut < last and (_CUT_BEFORE.match(text[cut]) or text[cut - 1] == "\u200d"):
                    continue
                _append(words, first, cut)
                first = cut
        if start < end:
            words.starts.append(start)
            words.ends.append(end)
            words.punctuation.append(False)
        cursor = max(cursor, end)
    return words


def _append(words: Words, start: int, end: int) -> None:
    words.starts.append(start)
    words.ends.append(end)
    character = words.text[start]
    is_mark = unicodedata.category(character).startswith("P") and character not in _SYMBOLS
    words.punctuation.append(is_mark)


def align(
    source: str,
    target: str,
    cuts: Sequence[int],
    links: Sequence[Link],
    protected: Sequence[Link],
    *,
    by_position: bool,
) -> Alignment:
    """Join the words of ``source``, cut at ``cuts``, to those of ``target``.

    Args:
        cuts: offsets in the source where tags stand.
        links: the word alignment, as spans of both sides.
        protected: source and target spans of what is the same on both sides and never cut.
        by_position: whether to align by relative position where there are no links.
    """
    links = [link for link in links if link[0] < link[1] and link[2] < link[3]]
    if not links and by_position:
        links = _by_position(source, target, protected)
    source_cuts, target_cuts = set(cuts), {edge for link in links for edge in link[2:]}
    ordered_cuts = sorted(source_cuts)
    room = MAX_PAIRS
    for source_start, source_end, target_start, target_end in links:
        inside = ordered_cuts[bisect_right(ordered_cuts, source_start) : bisect_left(ordered_cuts, source_end)][:room]
        room -= len(inside)
        word = target[target_start:target_end].casefold()
        for cut in inside:
            # A beginning or an end that both sides have is cut at the same place, so that a tag there stays.
            if word.endswith(source[cut:source_end].casefold()):
                target_cuts.add(max(target_start, target_end - (source_end - cut)))
            elif word.startswith(source[source_start:cut].casefold()):
                target_cuts.add(min(target_end, target_start + cut - source_start))
    source_words = cut_words(
        source, sorted(link[:2] for link in protected), source_cuts | {edge for link in links for edge in link[:2]}
    )
    target_words = cut_words(target, [link[2:] for link in sorted(protected, key=lambda link: link[2])], target_cuts)
    alignment = Alignment(source_words, target_words, [[] for _ in source_words.starts], [0.0] * len(target_words))
    num_pairs = 0
    for link in [*links, *protected]:
        sources, targets = source_words.overlapping(*link[:2]), target_words.overlapping(*link[2:])
        num_pairs += len(sources) * len(targets)
        if num_pairs > MAX_PAIRS:
            alignment.is_complete = False
            return alignment
        _link(alignment, link, sources, targets)
    _join_punctuation(alignment)
    return alignment


def _by_position(source: str, target: str, protected: Sequence[Link]) -> list[Link]:
    """Return links between words at the same relative position, each word of the longer side once."""
    sources = [match.span() for match in regex.finditer(r"\S+", source)]
    targets = [match.span() for match in regex.finditer(r"\S+", target)]
    longest = max(len(sources), len(targets)) if sources and targets else 0
    pairs = (
        (*sources[index * len(sources) // longest], *targets[index * len(targets) // longest])
        for index in range(longest)
    )
    taken = [link[:2] for link in protected]
    return [link for link in pairs if not any(start < link[1] and link[0] < end for start, end in taken[:50])]


def _link(alignment: Alignment, link: Link, sources: range, targets: range) -> None:
    """Add one link: pair by pair if both sides are the same, else all with all, words apart from punctuation."""
    source, target = alignment.source, alignment.target
    both = list(zip(sources, targets, strict=False))
    alike = any(_piece(source, i) == _piece(target, j) for i, j in both)
    if alike and len(sources) == len(targets):
        pairs = both
    else:
        kinds = {source.punctuation[i] for i in sources} & {target.punctuation[j] for j in targets}
        pairs = [
            (i, j)
            for i in sources
            for j in targets
            if not kinds or (source.punctuation[i] == target.punctuation[j] and source.punctuation[i] in kinds)
        ]
    for i, j in pairs:
        share = (source.ends[i] - source.starts[i]) / (link[1] - link[0]) / len(pairs) * len(sources)
        alignment.links[i].append((j, share))
        alignment.total[j] += share


def _piece(words: Words, index: int) -> str:
    return words.text[words.starts[index] : words.ends[index]].casefold()


def _join_punctuation(alignment: Alignment) -> None:
    """Align marks that no link has, in order, where both sides have as many of a kind."""
    source, target = alignment.source, alignment.target
    left: defaultdict[str, list[int]] = defaultdict(list)
    right: defaultdict[str, list[int]] = defaultdict(list)
    for i, linked in enumerate(alignment.links):
        if source.punctuation[i] and not linked:
            left[source.text[source.starts[i]]].append(i)
    for j, total in enumerate(alignment.total):
        if target.punctuation[j] and not total:
            right[target.text[target.starts[j]]].append(j)
    for mark, positions in left.items():
        if len(positions) == len(right[mark]):
            for i, j in zip(positions, right[mark], strict=True):
                alignment.links[i].append((j, 1.0))
                alignment.total[j] += 1.0
