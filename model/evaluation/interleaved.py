"""Two contestants measured in turns, so that a machine that drifts slows both; what they do is not its business."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from model.evaluation.latency import percentile

Clock = Callable[[], float]
"""Seconds that only grow."""
Seconds = tuple[list[list[float]], list[list[float]]]
"""What both contestants took, [contestant][round][piece]."""


@dataclass(frozen=True)
class Ratio:
    """Our time over theirs, in pairs measured right after one another; below 1 we are faster."""

    median: float
    """Median over the pairs."""
    lowest: float
    """Smallest of the pairs' ratios."""
    highest: float
    """Greatest of the pairs' ratios."""

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Return the ratio of paired times, of which there is at least one."""
        ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))


def timed(work: Callable[[], Any], clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """Return the seconds that ``work`` took, and what it returned."""
    started = clock()
    result = work()
    return clock() - started, result


def in_turns(
    first: Callable[[int], Any],
    second: Callable[[int], Any],
    count: int,
    rounds: int = 1,
    clock: Clock = time.perf_counter,
) -> Seconds:
    """Do ``count`` pieces of work in each of some rounds with both contestants, one piece after another.

    Who begins changes with every piece and with every round: whoever comes second finds caches that the other has
    filled or emptied.

    Args:
        first: does the piece of work of this number.
        second: the same for the other.
        count: pieces of work.
        rounds: how often all of them are done.
        clock: measures the time.

    Returns:
        Seconds of both.
    """
    seconds: Seconds = ([], [])
    for number in range(rounds):
        for side in seconds:
            side.append([0.0] * count)
        for piece in range(count):
            contestants = [(first, seconds[0]), (second, seconds[1])]
            if (number + piece) % 2:
                contestants.reverse()
            for work, side in contestants:
                side[number][piece], _ = timed(lambda work=work, piece=piece: work(piece), clock)  # type: ignore[misc]
    return seconds


def percentile_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], percent: float) -> Ratio:
    """Return the ratio of a percentile of the pieces, with one pair for each round."""
    return Ratio.of([percentile(each, percent) for each in ours], [percentile(each, percent) for each in theirs])
