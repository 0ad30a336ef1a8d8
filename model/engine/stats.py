"""What the engine tells about itself: counts, calls of an observer, throughput; it does not publish them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Outcome = Literal["finished", "cancelled", "expired", "failed"]
"""How a request ended: with hypotheses, by its caller, by its deadline, or by an error or the engine's end."""


class EngineObserver(Protocol):
    """What wants to know how the engine does, such as metrics; see :class:`SilentObserver` for when each is called.

    Calls come from all workers, from the thread that watches deadlines, and from threads that cancel or close, also at
    once, with no lock held. They must be short. What they raise is logged, and otherwise ignored.
    """

    def on_step(self, batch_rows: int, seconds: float) -> None: ...

    def on_admitted(self, queue_seconds: float) -> None: ...

    def on_finished(self, outcome: Outcome, seconds: float, source_tokens: int, generated_tokens: int) -> None: ...


class SilentObserver:
    """An :class:`EngineObserver` that does nothing."""

    def on_step(self, batch_rows: int, seconds: float) -> None:
        """A decoding step of ``batch_rows`` rows of one worker took ``seconds``.

        The encoding of requests that joined for it is included. Several steps that the batch did in one go are told
        one by one, each with their mean time.
        """

    def on_admitted(self, queue_seconds: float) -> None:
        """A request joins the batch after ``queue_seconds`` of waiting."""

    def on_finished(self, outcome: Outcome, seconds: float, source_tokens: int, generated_tokens: int) -> None:
        """A request ended ``seconds`` after it was submitted; its future is resolved right after this.

        ``generated_tokens`` are those of its best hypothesis, 0 without one.
        """


@dataclass(frozen=True)
class EngineStats:
    """Counts since the start of an engine, and what it has at hand at one moment."""

    queued_requests: int = 0
    """Requests that wait."""
    running_requests: int = 0
    """Requests in the batches of all workers."""
    running_rows: int = 0
    """Rows of the latest step, summed over the workers; of workers where nothing runs, 0."""
    steps: int = 0
    """Decoding steps of all workers: one step is one token for each row of one worker's batch."""
    decoded_rows: int = 0
    """Rows of all steps together; divided by ``steps``, the mean batch size."""
    source_tokens: int = 0
    """Tokens of all sources that joined a batch; once more where a lack of memory made them join again."""
    generated_tokens: int = 0
    """Tokens of the best hypotheses of all finished requests, end tokens not counted."""
    finished_requests: int = 0
    """Requests that got their hypotheses."""
    cancelled_requests: int = 0
    """Requests that their callers gave up."""
    expired_requests: int = 0
    """Requests whose deadline passed first."""
    failed_requests: int = 0
    """Requests that ended with an error, or with the engine."""
    rejected_requests: int = 0
    """Requests that were refused because the queue was full; they are in no other count."""
    busy_seconds: float = 0.0
    """Time spent on encoding and decoding, summed over the workers."""
    num_workers: int = 1
    """Threads that decode."""
    max_batch_tokens: int = 0
    """Budget of each worker's batch at this moment; a lack of memory halves it."""
    accepting: bool = True
    """Whether new requests are taken: neither closed nor dead."""


@dataclass
class Totals:
    """The engine's running sums; the fields mean what they mean in :class:`EngineStats`."""

    steps: int = 0
    decoded_rows: int = 0
    source_tokens: int = 0
    generated_tokens: int = 0
    rejected_requests: int = 0
    busy_seconds: float = 0.0
    ended: Counter[Outcome] = field(default_factory=Counter)

    def add_steps(self, rows: Sequence[int], seconds: float) -> None:
        """Count steps, each with its number of rows, that took ``seconds`` together."""
        self.steps += len(rows)
        self.decoded_rows += sum(rows)
        self.busy_seconds += seconds


class Throughput:
    """Token cost completed in a second of work, of late: old work counts less, by half every ``half_life_seconds``.

    Args:
        num_workers: how many work at the same time; each records its own work.
        half_life_seconds: of work.
    """

    def __init__(self, num_workers: int = 1, half_life_seconds: float = 10.0) -> None:
        self._num_workers = num_workers
        self._half_life_seconds = half_life_seconds
        self._cost = 0.0
        self._seconds = 0.0

    def record(self, cost: float, seconds: float) -> None:
        """Requests of this cost were completed during ``seconds`` of work."""
        decay = 0.5 ** (seconds / self._half_life_seconds)
        self._cost = self._cost * decay + cost
        self._seconds = self._seconds * decay + seconds

    def seconds_for(self, cost: float) -> float:
        """Return how long the workers take for this cost, between 0.1 and 60; 1 as long as nothing was measured."""
        if self._cost <= 0:
            return 1.0
        return min(60.0, max(0.1, cost * self._seconds / self._cost / self._num_workers))
