"""The engine's time, and sleeping until a time; tests put a clock of their own in its place."""

from __future__ import annotations

import math
import threading
import time
from typing import Protocol

LONGEST_SLEEP_SECONDS = 3600.0
"""A sleep is cut to this, because a condition cannot wait for a deadline in thousands of years."""


class Clock(Protocol):
    """Seconds that only grow; see :class:`MonotonicClock`."""

    def now(self) -> float: ...

    def sleep(self, condition: threading.Condition, until: float) -> None: ...


class MonotonicClock:
    """The clock of the operating system that nobody sets."""

    def now(self) -> float:
        """Return the time in seconds."""
        return time.monotonic()

    def sleep(self, condition: threading.Condition, until: float) -> None:
        """Wait, with the condition's lock held, until it is notified or the time ``until`` has come; perhaps less."""
        seconds = until - self.now()
        condition.wait(None if until == math.inf else max(0.0, min(seconds, LONGEST_SLEEP_SECONDS)))
