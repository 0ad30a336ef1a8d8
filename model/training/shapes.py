"""A small set of padded shapes for all batches of a run, chosen for its text; it knows lengths only, no text.

Where every batch has one of a few shapes, nothing is compiled anew and memory is reused. The price is padding, which is
least where the shapes follow the lengths of the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LongArray = npt.NDArray[np.int64]

MULTIPLE = 8
"""Padded lengths are multiples of this, as matrix units and attention kernels like them."""


@dataclass(frozen=True)
class Shapes:
    """Padded lengths, the cheapest first; the last one holds everything.

    Attributes:
        lengths: (padded source, padded target) of each shape.
        batch_tokens: budget: neither padded side of a batch has more tokens, unless one row has.
    """

    lengths: tuple[tuple[int, int], ...]
    batch_tokens: int

    def of(self, source_lengths: LongArray, target_lengths: LongArray) -> LongArray:
        """Return the number of the first shape that holds each example, special tokens included in its lengths."""
        found = np.full(len(source_lengths), len(self.lengths) - 1, dtype=np.int64)
        for number in reversed(range(len(self.lengths))):
            source, target = self.lengths[number]
            found[(source_lengths <= source) & (target_lengths <= target)] = number
        return found

    def num_rows(self, number: int) -> int:
        """Return how many rows every batch of a shape has."""
        return max(1, self.batch_tokens // max(self.lengths[number]))

    def padded(self, number: int) -> tuple[int, int, int]:
        """Return rows, padded source and padded target of a shape."""
        return self.num_rows(number), *self.lengths[number]


def choose_shapes(
    source_lengths: LongArray, target_lengths: LongArray, count: int, batch_tokens: int, longest: tuple[int, int]
) -> Shapes:
    """Choose padded lengths that pad as little as may be.

    Half of ``count`` levels of target length are chosen, and two levels of source length in each, by the least sum of
    padded lengths (dynamic programming over the lengths that occur).

    Args:
        source_lengths: of the examples, special tokens included.
        target_lengths: of the same examples.
        count: most shapes, at least 1.
        batch_tokens: see :class:`Shapes`.
        longest: source and target length that no example ever exceeds.
    """
    levels = _levels(_rounded(target_lengths), max(1, count // 2))
    chosen: set[tuple[int, int]] = set()
    below = 0
    for level in levels:
        inside = (target_lengths > below) & (target_lengths <= level)
        sources = _levels(_rounded(source_lengths[inside]), 2 if count >= 2 else 1)
        chosen.update((source, level) for source in sources)
        below = level
    last = int(_rounded(np.array(longest[0]))), int(_rounded(np.array(longest[1])))
    # The shape that holds everything takes the place of the largest one, which it nearly is.
    kept = sorted(chosen, key=lambda shape: (sum(shape), shape))[: count - 1] if len(chosen) >= count else chosen
    return Shapes((*sorted(set(kept) - {last}, key=lambda shape: (sum(shape), shape)), last), batch_tokens)


def _rounded(lengths: LongArray) -> LongArray:
    rounded: LongArray = -(-lengths // MULTIPLE) * MULTIPLE
    return rounded


def _levels(lengths: LongArray, count: int) -> list[int]:
    """Return up to ``count`` of the lengths, rising and with the largest, so that rounding up to them adds least."""
    values, times = np.unique(lengths, return_counts=True)
    count = min(count, len(values))
    before = np.concatenate([[0], np.cumsum(times)])
    # best[j]: least padded sum of the first j values; last[k][j]: where its last level's values begin.
    best = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)
    last: list[LongArray] = []
    for _ in range(count):
        cost = best[:, None] + (before[None, :] - before[:, None]) * np.concatenate([[0], values])[None, :]
        cost[np.tril_indices(len(values) + 1)] = np.inf
        last.append(np.argmin(cost, axis=0))
        best = cost.min(axis=0)
    levels, end = [], len(values)
    for starts in reversed(last):
        levels.append(int(values[end - 1]))
        end = int(starts[end])
    return levels[::-1]
