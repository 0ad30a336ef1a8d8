"""Numbers made of measured times: percentiles and latencies; it measures nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` per cent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True)
class Latency:
    """How long one thing took that was done many times, in milliseconds; percentiles are nearest ranks."""

    p50_ms: float
    """Half of the times did not exceed it."""
    p95_ms: float
    """95% of the times did not exceed it."""
    p99_ms: float
    """99% of the times did not exceed it."""
    mean_ms: float
    """Sum over number."""

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Return the latency of times in seconds, of which there is at least one."""
        p50, p95, p99 = (1000 * percentile(seconds, percent) for percent in (50, 95, 99))
        return cls(p50, p95, p99, 1000 * sum(seconds) / len(seconds))
