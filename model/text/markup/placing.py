"""Places the tags of a source segment in its target by word alignment; knows no format and writes no text.

An element goes around the target words that are aligned to its words. Of scattered words, the densest stretch counts:
the one with the largest sum, where a word of the element counts 1, one that is half the element's 0, and a word of
others inside it ``-OTHER_WORD`` (a maximum-sum interval, Kadane's algorithm). Then the intervals are made well-formed:
inside the parent's, apart from the siblings'. Any links give every tag exactly once, in a legal order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from model.text.markup.words import Alignment, Link, Words, align

OTHER_WORD = 0.4
"""What a word of others inside an element's stretch costs: up to two may separate two words of the element."""
UNALIGNED_WORD = 0.05
MARK_WEIGHT = 0.1
"""How much a punctuation mark counts against a word."""
TIE = 1e-9
"""Sums of shares that differ by less are the same."""
MAX_WORK = 3_000_000
"""Most steps for one segment; above, tags keep their relative positions."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A tag of the source segment, before its character ``position``."""

    position: int
    kind: Literal["open", "close", "empty"]
    element: int = -1
    """The same for the two tags of an element; an element may have one of them outside the segment."""


@dataclass(slots=True)
class _Node:
    """An element, or a single tag; ``first`` and ``last`` are source words, ``left`` and ``right`` target words."""

    order: int
    opening: int
    closing: int = -1
    start: int = 0
    end: int = 0
    first: int = 0
    last: int = 0
    is_barrier: bool = False
    is_end: bool = False
    """A closing tag whose opening tag is before the segment."""
    left: int = 0
    right: int = 0
    children: list[_Node] = field(default_factory=list)


def place_marks(
    source: str,
    target: str,
    marks: Sequence[Mark],
    links: Sequence[Link] = (),
    protected: Sequence[Link] = (),
    *,
    fill: bool = False,
) -> list[tuple[int, int]]:
    """Return (offset in ``target``, index into ``marks``) of every mark, in the order of the target.

    Args:
        source: the source segment.
        target: its translation.
        marks: tags of the source in order, well-formed; an element without one of its tags reaches beyond the segment.
        links: word alignment as (start, end in source, start, end in target).
        protected: spans of both sides that are the same; no tag goes inside them.
        fill: whether an element with text must not become empty, as Markdown has no empty emphasis.
    """
    if not marks:
        return []
    cuts = [mark.position for mark in marks]
    alignment = align(source, target, cuts, links, protected, by_position=True)
    root = _tree(marks, alignment.source, len(source))
    root.right = len(alignment.target)
    if not alignment.is_complete or _too_much(root, alignment, len(marks)):
        return _in_order(source, marks, alignment.target)
    _Placement(alignment, fill).settle(root)
    return _emission(root, source, alignment)


def _tree(marks: Sequence[Mark], words: Words, length: int) -> _Node:
    """Return the elements as a tree; tags whose other half is elsewhere are barriers at its top."""
    opened = {mark.element for mark in marks if mark.kind == "open"}
    closed = {mark.element for mark in marks if mark.kind == "close"}
    root = _Node(-1, -1, end=length, last=len(words))
    path = [root]
    for index, mark in enumerate(marks):
        if mark.kind == "close" and mark.element in opened:
            node = path.pop()
            node.closing, node.end = index, mark.position
            node.last = max(node.first, bisect_left(words.starts, mark.position))
            continue
        first = bisect_left(words.starts, mark.position)
        node = _Node(index, index, start=mark.position, end=mark.position, first=first, last=first)
        node.is_end = mark.kind == "close"
        node.is_barrier = node.is_end or (mark.kind == "open" and mark.element not in closed)
        path[-1].children.append(node)
        if mark.kind == "open" and not node.is_barrier:
            path.append(node)
    return root


def _too_much(root: _Node, alignment: Alignment, tags: int) -> bool:
    """Say whether placing by alignment would take more than linear time allows."""
    work, ahead = tags, [root]
    num_linked = [0, *accumulate(bool(each) for each in alignment.links)]
    while ahead and work <= MAX_WORK:
        node = ahead.pop()
        ahead.extend(node.children)
        unaligned = node.first < node.last and num_linked[node.first] == num_linked[node.last]
        work += 2 * (node.last - node.first) + (len(alignment.target) if node.is_barrier or unaligned else 0)
    return work > MAX_WORK


def _in_order(source: str, marks: Sequence[Mark], words: Words) -> list[tuple[int, int]]:
    """Keep the order of the tags and their relative positions, at the ends of words."""
    legal = [0, *words.ends, len(words.text)] if words.starts else [0]
    scale = len(words.text) / max(1, len(source))
    return [(legal[bisect_right(legal, round(mark.position * scale)) - 1], index) for index, mark in enumerate(marks)]


class _Placement:
    """Gives every node its interval of target words."""

    def __init__(self, alignment: Alignment, fill: bool) -> None:
        self._alignment = alignment
        self._fill = fill
        target = alignment.target
        self._weights = [MARK_WEIGHT if mark else 1.0 for mark in target.punctuation]
        self._costs = [0.0]
        for weight, total in zip(self._weights, alignment.total, strict=True):
            self._costs.append(self._costs[-1] + weight * (OTHER_WORD if total else UNALIGNED_WORD))
        spans = [(min(j for j, _ in each), max(j for j, _ in each)) if each else None for each in alignment.links]
        self._before: list[tuple[int, int] | None] = [None]
        for i, span in enumerate(spans):
            is_mark = alignment.source.punctuation[i]
            self._before.append(span if span and not is_mark else self._before[-1])
        self._after: list[tuple[int, int] | None] = [None]
        for i in range(len(spans) - 1, -1, -1):
            span = spans[i]
            self._after.append(span if span and not alignment.source.punctuation[i] else self._after[-1])
        self._after.reverse()
        self._spans = spans

    def settle(self, root: _Node) -> None:
        """Place all nodes below ``root``, parents first."""
        ahead = [root]
        while ahead:
            parent = ahead.pop()
            if parent.children:
                self._settle_children(parent)
                ahead.extend(child for child in parent.children if child.children)

    def _settle_children(self, parent: _Node) -> None:
        taken: list[tuple[int, int]] = []
        content = [child for child in parent.children if child.first < child.last and not child.is_barrier]
        rated = []
        for child in content:
            if len(content) == 1 and self._covers(child, parent):
                child.left, child.right = parent.left, parent.right
                rated.append((float("inf"), child.order, child))
            else:
                score, child.left, child.right = self._best(child, parent, taken)
                rated.append((score, child.order, child))
        late = []
        for score, _, child in sorted(rated, key=lambda each: (-each[0], each[1])):
            if taken and _collides(taken, child.left, child.right):
                score, child.left, child.right = self._best(child, parent, taken)
            if score == float("-inf"):
                late.append(child)
                continue
            self._attach_marks(child, parent, taken)
            insort(taken, (child.left, child.right))
        for child in sorted(late, key=lambda each: each.order):
            self._place_unaligned(child, parent, taken)
            if child.left < child.right:
                insort(taken, (child.left, child.right))
        for child in parent.children:
            if not child.is_barrier and child.left >= child.right:
                if child.first >= child.last:
                    child.left = self._beside(child, parent)
                child.left = child.right = _outside(taken, child.left, child)
        self._settle_barriers(parent, taken)
        parent.children.sort(key=lambda each: (each.left, each.right, each.order))

    def _covers(self, child: _Node, parent: _Node) -> bool:
        """Say whether all words of the parent, punctuation apart, are the child's."""
        marks = self._alignment.source.punctuation
        outside = [*range(parent.first, child.first), *range(child.last, parent.last)]
        inside = range(child.first, child.last)
        return all(marks[i] for i in outside) and not all(marks[i] for i in inside)

    def _best(self, child: _Node, parent: _Node, taken: list[tuple[int, int]]) -> tuple[float, int, int]:
        """Return score and interval of the densest stretch of the child's words; -inf if it has none there."""
        shares: dict[int, float] = {}
        for i in range(child.first, child.last):
            for j, share in self._alignment.links[i]:
                if parent.left <= j < parent.right:
                    shares[j] = shares.get(j, 0.0) + share
        best = (float("-inf"), 0, 0)
        running, start, previous, gap = float("-inf"), 0, -1, -1
        for j in sorted(shares):
            here = bisect_right(taken, (j, len(self._weights) + 1))
            if here and taken[here - 1][1] > j:
                continue
            share = min(1.0, shares[j] / self._alignment.total[j])
            value = self._weights[j] * (2 * share - 1)
            extended = running - (self._costs[j] - self._costs[previous + 1]) if here == gap else float("-inf")
            if extended <= 0:
                start, extended = j, 0.0
            running, previous, gap = extended + value, j, here
            if running > best[0]:
                best = (running, start, j + 1)
        return best

    def _attach_marks(self, child: _Node, parent: _Node, taken: list[tuple[int, int]]) -> None:
        """Leave out marks around the words, then take as many as the source has inside the element."""
        marks, inside = self._alignment.target.punctuation, self._alignment.source.punctuation
        if all(marks[child.left : child.right]):
            return
        while marks[child.left]:
            child.left += 1
        while marks[child.right - 1]:
            child.right -= 1
        while child.right - child.left > 1 and self._is_elided(child.right - 1):
            child.right -= 1
        here = bisect_left(taken, (child.left, child.right))
        low = max(parent.left, taken[here - 1][1]) if here else parent.left
        high = min(parent.right, taken[here][0]) if here < len(taken) else parent.right
        i = child.last - 1
        while i >= child.first and inside[i] and child.right < high and marks[child.right]:
            child.right += 1
            i -= 1
        i = child.first
        while i < child.last and inside[i] and child.left > low and marks[child.left - 1]:
            child.left -= 1
            i += 1

    def _is_elided(self, index: int) -> bool:
        """Say whether a target word is joined to the next one by its apostrophe, as "l'"."""
        target = self._alignment.target
        joined = target.starts[index + 1 : index + 2] == [target.ends[index]]
        return joined and target.text[target.ends[index] - 1] in "'\u2019"

    def _place_unaligned(self, child: _Node, parent: _Node, taken: list[tuple[int, int]]) -> None:
        """Take the unaligned words between the neighbours' words; without any, become empty after the one before."""
        before, after = self._before[child.first], self._after[child.last]
        low = parent.left if before is None else min(max(before[1] + 1, parent.left), parent.right)
        high = parent.right if after is None else min(max(after[0], parent.left), parent.right)
        marks, total = self._alignment.target.punctuation, self._alignment.total
        free = [j for j in range(low, high) if not total[j] and not marks[j] and not _collides(taken, j, j + 1)]
        if not free and self._fill:
            words = (j for j in range(parent.left, parent.right) if not marks[j] and not _collides(taken, j, j + 1))
            free = sorted(words, key=lambda j: abs(j - low))[:1]
        if not free or (before is None and after is None and not self._fill):
            child.left = child.right = low if before is not None or after is None else high
            return
        child.left, child.right = free[0], free[0] + 1
        for j in free[1:]:
            if j != child.right:
                break
            child.right += 1

    def _beside(self, child: _Node, parent: _Node) -> int:
        """Return the boundary next to the neighbour that an element without text is attached to."""
        i, target = child.first, self._alignment.target
        before = self._spans[i - 1] if i > parent.first else None
        after = self._spans[i] if i < parent.last else None
        if after is not None and (before is None or self.sticks_right(child)):
            boundary = after[0]
        elif before is not None:
            boundary = before[1] + 1
        elif i > parent.first and self._before[i] is not None:
            boundary = (self._before[i] or (0, 0))[1] + 1
            while boundary < len(target) and target.punctuation[boundary] and not self._alignment.total[boundary]:
                boundary += 1
        else:
            following = self._after[i]
            boundary = parent.left if following is None or i <= parent.first else following[0]
        return min(max(boundary, parent.left), parent.right)

    def sticks_right(self, child: _Node) -> bool:
        """Say whether only the text after an element without text touches it."""
        return _sticks_right(self._alignment.source.text, child)

    def _settle_barriers(self, parent: _Node, taken: list[tuple[int, int]]) -> None:
        """Put tags whose other half is outside the segment where they part the words best, in their order."""
        least = parent.left
        for child in parent.children:
            if child.is_barrier:
                cut = max(least, self._best_cut(child, parent))
                least = child.left = child.right = _outside(taken, cut, child)

    def _best_cut(self, child: _Node, parent: _Node) -> int:
        """Return the boundary with most words from before the tag on its left, and from after it on its right.

        Of several, the one that leaves more words in the tag's element.
        """
        shares: dict[int, float] = {}
        for i in range(parent.first, child.first):
            for j, share in self._alignment.links[i]:
                shares[j] = shares.get(j, 0.0) + share
        best, boundary, running = 0.0, parent.left, 0.0
        for j in range(parent.left, parent.right):
            if self._alignment.total[j]:
                gain = self._weights[j] * (2 * shares.get(j, 0.0) / self._alignment.total[j] - 1)
                running += gain
                if child.is_end and gain > 0 and abs(running - best) < TIE:
                    boundary = j + 1
            if running > best + TIE:
                best, boundary = running, j + 1
        return boundary


def _sticks_right(source: str, node: _Node) -> bool:
    left, right = source[node.start - 1 : node.start], source[node.end : node.end + 1]
    return (not left or left.isspace()) and bool(right) and not right.isspace()


def _collides(taken: list[tuple[int, int]], left: int, right: int) -> bool:
    here = bisect_left(taken, (left, right))
    return (here > 0 and taken[here - 1][1] > left) or (here < len(taken) and taken[here][0] < right)


def _outside(taken: list[tuple[int, int]], boundary: int, node: _Node) -> int:
    """Return ``boundary``, or the end of the interval of ``taken`` that it is inside."""
    here = bisect_left(taken, (boundary, -1))
    if here and taken[here - 1][1] > boundary:
        left, right = taken[here - 1]
        return left if not node.is_barrier and boundary - left < right - boundary else right
    return boundary


def _emission(root: _Node, source: str, alignment: Alignment) -> list[tuple[int, int]]:
    """Return offsets and marks in the order of the target: the tree's, with each tag next to its word."""
    words, text = alignment.target, alignment.target.text
    placed: list[tuple[int, int]] = []
    cursor = 0
    ahead: list[tuple[_Node, int, int]] = [(child, 0, len(text)) for child in reversed(root.children)]
    while ahead:
        node, bound, limit = ahead.pop()
        if bound < 0:
            cursor = max(cursor, limit)
            placed.append((cursor, node.closing))
            continue
        opening, closing = _offsets(node, source, words)
        opening = min(max(opening, cursor), limit)
        closing = min(max(closing, opening), limit)
        cursor = opening
        placed.append((cursor, node.opening))
        if node.closing >= 0:
            ahead.append((node, -1, closing))
            ahead.extend((child, 0, closing) for child in reversed(node.children))
    return placed


def _offsets(node: _Node, source: str, words: Words) -> tuple[int, int]:
    """Return where an element's tags go; spaces at the ends of its text stay inside it."""
    text = words.text
    content = source[node.start : node.end]
    if node.left < node.right:
        opening, closing = words.starts[node.left], words.ends[node.right - 1]
        if content[:1].isspace() and opening and text[opening - 1].isspace():
            opening -= 1
        if content[-1:].isspace() and text[closing : closing + 1].isspace():
            closing += 1
        return opening, closing
    after = words.starts[node.left] if node.left < len(words) else len(text)
    before = words.ends[node.left - 1] if node.left else 0
    if not node.left or (node.left == len(words) and not _sticks_right(source, node)):
        after = before if node.left else min(after, 0)
    if content.isspace() and text[before:after].isspace():
        return before, after
    return (after, after) if _sticks_right(source, node) else (before, before)
