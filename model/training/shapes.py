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
    """Choose padded lengths that pad little.

    From one shape for each pair of lengths that occurs (rounded up), the two whose union costs the least more padding
    become one, until there are few enough (agglomerative clustering; each step is the best one, the whole need not be).

    Args:
        source_lengths: of the examples, special tokens included.
        target_lengths: of the same examples.
        count: most shapes, at least 1.
        batch_tokens: see :class:`Shapes`.
        longest: source and target length that no example ever exceeds.
    """
    last = int(_rounded(np.array(longest[0]))), int(_rounded(np.array(longest[1])))
    sides = zip((source_lengths, target_lengths), last, strict=True)
    pairs = np.stack([np.minimum(_coarse(lengths), most) for lengths, most in sides], axis=1)
    shapes, times = np.unique(pairs, axis=0, return_counts=True)
    while len(shapes) > count - 1 and len(shapes) > 1:
        unions = np.maximum(shapes[:, None], shapes[None, :])  # (k, k, 2)
        grown = unions.sum(axis=2) - shapes.sum(axis=1)[:, None]
        cost = grown * times[:, None]
        cost = (cost + cost.T).astype(np.float64)
        np.fill_diagonal(cost, np.inf)
        first, second = sorted(np.unravel_index(int(np.argmin(cost)), cost.shape))
        shapes[first] = unions[first, second]
        times[first] += times[second]
        shapes, times = np.delete(shapes, second, axis=0), np.delete(times, second)
    chosen = {(int(source), int(target)) for source, target in shapes} if count > 1 else set()
    return Shapes((*sorted(chosen - {last}, key=lambda shape: (sum(shape), shape)), last), batch_tokens)


def _coarse(lengths: LongArray) -> LongArray:
    """Round up to multiples that grow with the length, so that there are some hundred pairs of them at most."""
    steps = MULTIPLE * np.where(lengths <= 64, 1, np.where(lengths <= 128, 2, 4))
    rounded: LongArray = -(-lengths // steps) * steps
    return rounded


def _rounded(lengths: LongArray) -> LongArray:
    rounded: LongArray = -(-lengths // MULTIPLE) * MULTIPLE
    return rounded
