"""What the threads of an engine share: the queue, what is left for each worker, how requests end; it computes nothing.

Requests go to workers the moment that they fit, also in the middle of a worker's step, which is then interrupted. So a
request joins, and one that its caller or its deadline ended leaves, before the next token.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec

from model.engine.clock import Clock
from model.engine.request import Request
from model.engine.scheduler import Scheduler
from model.engine.stats import EngineObserver, EngineStats, Outcome, Throughput, Totals
from model.errors import DeadlineExceededError, EngineClosedError, OverloadedError
from model.generation import Hypothesis

Ending = tuple[Request, list[Hypothesis] | Exception]
"""A request and what its future gets."""

_logger = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")


class _Phase(enum.Enum):
    OPEN = "open"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(eq=False)
class _Desk:
    """What the other threads leave for one worker."""

    changed: threading.Condition
    arrived: dict[Request, None] = field(default_factory=dict)
    """Requests that the worker has not taken into its batch yet."""
    leaving: list[Request] = field(default_factory=list)
    """Requests that have ended, but perhaps are in its batch."""
    interrupt: Callable[[], None] | None = None
    """Interrupts the step that is under way; None outside a step, and once it was called."""
    latest_rows: int = 0
    """Rows of its latest step."""


@dataclass(frozen=True)
class Round:
    """What a worker does before its next step."""

    leaving: list[Request]
    """Requests to take out of the batch, where they are there."""
    joining: list[Request]
    """Requests to let into the batch."""


class Dispatcher:
    """The state that submitting threads, workers and the watch of the deadlines share; all methods are thread-safe.

    One lock guards all fields. Futures are resolved, and the observer is called, with no lock held.

    Args:
        scheduler: an empty scheduler.
        max_queued_requests: most requests that may wait.
        observer: is told of steps and requests.
        clock: deadlines are measured by it.
    """

    def __init__(self, scheduler: Scheduler, max_queued_requests: int, observer: EngineObserver, clock: Clock) -> None:
        self._lock = threading.RLock()
        self._desks = [_Desk(threading.Condition(self._lock)) for _ in range(scheduler.num_workers)]
        self._deadlines_changed = threading.Condition(self._lock)
        self._scheduler = scheduler
        self._max_queued_requests = max_queued_requests
        self._observer = observer
        self._clock = clock
        self._totals = Totals()
        self._throughput = Throughput(scheduler.num_workers)
        self._phase = _Phase.OPEN
        self._death: BaseException | None = None

    # For callers

    def submit(self, requests: Sequence[Request]) -> None:
        """Let all of the requests wait or run, or none.

        Raises:
            OverloadedError: they do not all fit into the queue.
            EngineClosedError: nothing is accepted any more.
        """
        with self._lock:
            if self._phase is not _Phase.OPEN:
                raise self._closed_error()
            waiting = self._scheduler.num_waiting
            excess = waiting + len(requests) - self._max_queued_requests
            if excess > 0:
                self._totals.rejected_requests += len(requests)
                mean_cost = self._scheduler.waiting_cost / max(1, waiting)
                raise OverloadedError(
                    f"the queue has no room for {len(requests)} more requests: {waiting} wait already, "
                    f"of at most {self._max_queued_requests}",
                    self._throughput.seconds_for(excess * mean_cost),
                )
            deadline = self._scheduler.next_deadline
            for request in requests:
                self._scheduler.add(request)
            if self._scheduler.next_deadline < deadline:
                self._deadlines_changed.notify()
            self._hand_out()

    def drop(self, request: Request) -> None:
        """Take out a request that its caller cancelled: from the queue at once, from a batch before its next token."""
        with self._lock:
            self._totals.ended["cancelled"] += 1
            worker = self._scheduler.worker_of(request)
            if self._scheduler.remove(request):
                self._withdraw(request, worker)
                self._hand_out()
        self._observe_end("cancelled", request, 0)

    def stats(self) -> EngineStats:
        """Return a consistent snapshot."""
        with self._lock:
            scheduler, totals = self._scheduler, self._totals
            busy_desks = [desk for worker, desk in enumerate(self._desks) if scheduler.is_busy(worker)]
            return EngineStats(
                queued_requests=scheduler.num_waiting,
                running_requests=scheduler.num_running,
                running_rows=sum(desk.latest_rows for desk in busy_desks),
                steps=totals.steps,
                decoded_rows=totals.decoded_rows,
                source_tokens=totals.source_tokens,
                generated_tokens=totals.generated_tokens,
                finished_requests=totals.ended["finished"],
                cancelled_requests=totals.ended["cancelled"],
                expired_requests=totals.ended["expired"],
                failed_requests=totals.ended["failed"],
                rejected_requests=totals.rejected_requests,
                busy_seconds=totals.busy_seconds,
                num_workers=scheduler.num_workers,
                max_batch_tokens=scheduler.max_batch_tokens,
                accepting=self._phase is _Phase.OPEN,
            )

    def drain(self) -> None:
        """Accept nothing more, and let the threads end when everything is done."""
        with self._lock:
            if self._phase is _Phase.OPEN:
                self._phase = _Phase.DRAINING
            self._hand_out()

    def stop(self, death: BaseException | None = None) -> None:
        """Accept nothing more, fail everything that is here, and let the threads end.

        Args:
            death: the error of the worker that died, if that is the reason.
        """
        with self._lock:
            self._phase = _Phase.STOPPING
            if self._death is None:
                self._death = death
            self._alert_all()
            remaining = self._scheduler.requests()
        # Now, and not only when the steps that are under way have ended.
        self.end([(request, self._closed_error()) for request in remaining], "failed")

    # For workers

    def next_round(self, worker: int) -> Round | None:
        """Wait until there is something to do for a worker; None when it is time for it to end."""
        desk = self._desks[worker]

        def must_act() -> bool:
            return bool(self._is_over() or desk.leaving or self._scheduler.is_busy(worker))

        with self._lock:
            desk.changed.wait_for(must_act)
            if self._is_over():
                return None
            now = self._clock.now()
            expired = self._expire(now)
            leaving, joining = desk.leaving, list(desk.arrived)
            desk.leaving = []
            desk.arrived.clear()
            self._totals.source_tokens += sum(request.source_length for request in joining)
        self._end_expired(expired, now)
        for request in joining:
            self._observe(self._observer.on_admitted, now - request.submitted_at)
        return Round(leaving, joining)

    @contextmanager
    def stepping(self, worker: int, interrupt: Callable[[], None]) -> Iterator[None]:
        """While this is entered, ``interrupt`` is called, once, as soon as there is something else for the worker."""
        desk = self._desks[worker]
        with self._lock:
            desk.interrupt = interrupt
            if desk.arrived or desk.leaving or self._phase is _Phase.STOPPING:
                self._alert(desk)  # it came after the round had begun
        try:
            yield
        finally:
            with self._lock:
                desk.interrupt = None

    def count_steps(self, worker: int, steps: int, rows: tuple[int, int], seconds: float, finished_cost: int) -> None:
        """Count what a worker did in one go.

        Args:
            worker: its number.
            steps: decoding steps.
            rows: of the first step, and of each step after it.
            seconds: that they took together.
            finished_cost: token cost of the requests that they completed.
        """
        rows_of_steps = [rows[number > 0] for number in range(steps)]
        with self._lock:
            self._desks[worker].latest_rows = rows_of_steps[-1] if steps else rows[0]
            self._totals.add_steps(rows_of_steps, seconds)
            self._throughput.record(finished_cost, seconds)
        for rows_of_step in rows_of_steps:
            self._observe(self._observer.on_step, rows_of_step, seconds / steps)

    def end(self, endings: Sequence[Ending], outcome: Outcome) -> None:
        """Take requests out of the scheduler, count them, and resolve the futures of those that had not ended."""
        if not endings:
            return
        claimed = [(request, result) for request, result in endings if request.claim()]
        tokens = [0 if isinstance(result, Exception) else len(result[0].token_ids) for _, result in claimed]
        with self._lock:
            for request, _ in endings:
                self._scheduler.remove(request)
            self._totals.ended[outcome] += len(claimed)
            self._totals.generated_tokens += sum(tokens)
            self._hand_out()
        for (request, result), generated_tokens in zip(claimed, tokens, strict=True):
            self._observe_end(outcome, request, generated_tokens)
            request.resolve(result)

    def requests_in_batch(self, worker: int) -> list[Request]:
        """Return the requests that a worker has taken and that have not ended."""
        with self._lock:
            arrived = self._desks[worker].arrived
            return [request for request in self._scheduler.running_requests(worker) if request not in arrived]

    def put_back(self, worker: int) -> None:
        """Let all requests of a worker wait again, first in their rows, because its batch was too much for the memory.

        The budget of all workers is halved.
        """
        with self._lock:
            before = self._scheduler.max_batch_tokens
            halved = self._scheduler.halve_budget(worker)
            self._desks[worker].arrived.clear()
            requests = self._scheduler.requeue(worker)
            for request in requests:
                request.wait_again()
            after = self._scheduler.max_batch_tokens
            self._hand_out()
        if halved:
            _logger.warning(
                "the device has too little memory for a batch of %s requests: max_batch_tokens was %s, is %s now",
                len(requests), before, after,
            )  # fmt: skip

    # For the watch of the deadlines

    def watch_deadlines(self) -> None:
        """End each request whose deadline passes, and return when the engine ends: the body of a thread."""
        while True:
            with self._lock:
                while not self._is_over() and self._clock.now() < self._scheduler.next_deadline:
                    self._clock.sleep(self._deadlines_changed, self._scheduler.next_deadline)
                if self._is_over():
                    return
                now = self._clock.now()
                expired = self._expire(now)
            self._end_expired(expired, now)

    # With the lock held

    def _is_over(self) -> bool:
        return self._phase is _Phase.STOPPING or (self._phase is _Phase.DRAINING and not self._scheduler)

    def _hand_out(self) -> None:
        """Give workers the requests that run next; to be called whenever something was added or taken out."""
        for request, worker in self._scheduler.select():
            request.start()
            self._desks[worker].arrived[request] = None
            self._alert(self._desks[worker])
        if self._is_over():
            self._alert_all()

    def _alert(self, desk: _Desk) -> None:
        """Let a worker look at its desk: it is woken, or its step interrupted."""
        desk.changed.notify()
        if desk.interrupt is not None:
            desk.interrupt()
            desk.interrupt = None

    def _alert_all(self) -> None:
        for desk in self._desks:
            self._alert(desk)
        self._deadlines_changed.notify()

    def _withdraw(self, request: Request, worker: int | None) -> None:
        """Take a request that has left the scheduler from the desk of the worker that has it."""
        if worker is None:
            return
        desk = self._desks[worker]
        if request in desk.arrived:
            del desk.arrived[request]
        else:
            desk.leaving.append(request)
            self._alert(desk)

    def _expire(self, now: float) -> list[Request]:
        """Take out what nobody wants any more; the requests returned are to be ended without the lock."""
        expired = self._scheduler.expire(now)
        for request, worker in expired:
            self._withdraw(request, worker)
        if expired:
            self._hand_out()
        return [request for request, _ in expired]

    # Without the lock

    def _end_expired(self, expired: Iterable[Request], now: float) -> None:
        self.end([(request, _deadline_error(request, now)) for request in expired], "expired")

    def _observe_end(self, outcome: Outcome, request: Request, generated_tokens: int) -> None:
        seconds = self._clock.now() - request.submitted_at
        self._observe(self._observer.on_finished, outcome, seconds, request.source_length, generated_tokens)

    def _observe(
        self, call: Callable[_Arguments, None], *arguments: _Arguments.args, **options: _Arguments.kwargs
    ) -> None:
        try:
            call(*arguments, **options)
        except Exception:
            _logger.exception("an observer of the engine raised an error")

    def _closed_error(self) -> EngineClosedError:
        if self._death is None:
            return EngineClosedError("the engine is closed")
        error = EngineClosedError(f"the engine's worker died: {self._death!r}")
        error.__cause__ = self._death
        return error


def _deadline_error(request: Request, now: float) -> DeadlineExceededError:
    deadline = now if request.deadline is None else request.deadline
    return DeadlineExceededError(
        f"the deadline of {deadline - request.submitted_at:.3g} s passed before the request was complete; "
        f"it is {now - request.submitted_at:.3g} s old"
    )
