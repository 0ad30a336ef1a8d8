"""The one thread that owns the device, and the loop in it; whether a request is valid was decided before."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec

from model.engine.request import Request, RequestState
from model.engine.runner import Failure, Runner, is_fatal
from model.engine.scheduler import Scheduler
from model.engine.stats import EngineObserver, EngineStats, Outcome, Throughput, Totals
from model.errors import (
    DeadlineExceededError,
    DecodingError,
    DragomanError,
    EngineClosedError,
    OverloadedError,
    UnavailableError,
)
from model.generation import Hypothesis

STEP_GRACE_SECONDS = 10.0
"""How long close() waits for the step that is under way once it waits for nothing else."""

_logger = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")


class _Phase(enum.Enum):
    OPEN = "open"
    DRAINING = "draining"
    STOPPING = "stopping"
    ENDED = "ended"


class Worker:
    """The queue, the batch, and the thread that moves requests from one to the other and on to their futures.

    One condition guards all fields except the runner, which is the thread's alone. Futures are resolved, and the
    observer is called, with no lock held. The thread sleeps on the condition whenever there is nothing to do.

    Args:
        scheduler: an empty scheduler.
        runner: an empty batch.
        max_queued_requests: most requests that may wait.
        observer: is told of steps and requests.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        max_queued_requests: int,
        observer: EngineObserver,
        clock: Callable[[], float],
    ) -> None:
        self._changed = threading.Condition()
        self._scheduler = scheduler
        self._runner = runner
        self._max_queued_requests = max_queued_requests
        self._observer = observer
        self._clock = clock
        self._totals = Totals()
        self._throughput = Throughput()
        self._leaving: list[Request] = []  # cancelled, but perhaps still in the runner's batch
        self._phase = _Phase.OPEN
        self._death: BaseException | None = None
        # A daemon, so that a device that hangs cannot keep the process alive; close() joins it in every other case.
        self._thread = threading.Thread(target=self._run, name="dragoman-engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Let all of the requests wait, or none.

        Raises:
            OverloadedError: they do not all fit into the queue.
            EngineClosedError: nothing is accepted any more.
        """
        with self._changed:
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
            for request in requests:
                self._scheduler.add(request)
            self._changed.notify()

    def drop(self, request: Request) -> None:
        """Take out a request that its caller cancelled: from the queue at once, from the batch before the next step."""
        with self._changed:
            self._totals.ended["cancelled"] += 1
            if self._scheduler.remove(request):
                self._leaving.append(request)
                self._changed.notify()
        self._observe_end("cancelled", request, 0)

    def stats(self) -> EngineStats:
        """Return a consistent snapshot."""
        with self._changed:
            return self._totals.snapshot(
                self._scheduler.num_waiting, self._scheduler.num_running, accepting=self._phase is _Phase.OPEN
            )

    def close(self, drain: bool, timeout_seconds: float | None) -> None:
        """Accept nothing more, finish what is there if ``drain``, fail the rest, and end the thread."""
        with self._changed:
            if self._phase is _Phase.OPEN or (self._phase is _Phase.DRAINING and not drain):
                self._phase = _Phase.DRAINING if drain else _Phase.STOPPING
            self._changed.notify_all()
        if threading.current_thread() is self._thread:
            return  # called by a future's callback: the loop ends by itself
        if drain:
            self._thread.join(timeout_seconds)
        with self._changed:
            if self._phase is _Phase.DRAINING:
                self._phase = _Phase.STOPPING
            self._changed.notify_all()
            remaining = self._scheduler.requests()
        # Now, and not only when the step that is under way has ended.
        self._end([(request, self._closed_error()) for request in remaining], "failed")
        self._thread.join(STEP_GRACE_SECONDS)
        if self._thread.is_alive():
            _logger.error("the engine's thread did not end: its step takes longer than %s s", STEP_GRACE_SECONDS)

    def _run(self) -> None:
        """The thread: rounds until it is told to end, or until something breaks that a new batch does not mend."""
        death: BaseException | None = None
        try:
            with self._runner.own_device():
                while self._round():
                    pass
        except BaseException as error:
            _logger.exception("the engine's worker died")
            death = error
        with self._changed:
            self._phase = _Phase.ENDED
            self._death = death
            self._leaving.clear()
            remaining = self._scheduler.requests()
        self._end([(request, self._closed_error()) for request in remaining], "failed")

    def _round(self) -> bool:
        """Wait for work; drop what is no longer wanted, admit what fits, do one step. False when it is time to end."""
        with self._changed:
            self._changed.wait_for(self._must_act)
            if self._phase is _Phase.STOPPING or not (self._scheduler or self._leaving):
                return False
            leaving, self._leaving = self._leaving, []
            now = self._clock()
            expired = self._scheduler.expire(now)
            admitted = self._scheduler.select()
            self._totals.source_tokens += sum(request.source_length for request in admitted)
            for request in admitted:
                request.start()
        self._end([(request, _deadline_error(request, now)) for request in expired], "expired")
        for request in admitted:
            self._observe(self._observer.on_admitted, now - request.submitted_at)
        try:
            self._compute([*leaving, *expired], admitted)
        except Exception as error:
            self._fail_batch(error)
            if is_fatal(error):
                raise
        return True

    def _must_act(self) -> bool:
        return bool(self._phase is not _Phase.OPEN or self._scheduler or self._leaving)

    def _compute(self, leaving: Iterable[Request], admitted: Sequence[Request]) -> None:
        """The part of a round that uses the device."""
        started = self._clock()
        for request in leaving:
            self._runner.remove(request)
        # Whoever was cancelled since the selection is not even encoded.
        self._fail(self._runner.admit([each for each in admitted if each.state is not RequestState.FINISHED]))
        rows = self._runner.num_rows
        if self._runner.num_requests == 0:
            return
        finished, failures = self._runner.step()
        seconds = self._clock() - started
        with self._changed:
            self._totals.add_step(rows, seconds)
            self._throughput.record(sum(request.cost for request, _ in finished), seconds)
        self._observe(self._observer.on_step, rows, seconds)
        self._end(finished, "finished")
        self._fail(failures)

    def _fail_batch(self, error: Exception) -> None:
        """Give up the batch after an error that no single request is known to be guilty of, and start an empty one."""
        _logger.error("a step failed; the requests of its batch fail with it", exc_info=error)
        with self._changed:
            running = self._scheduler.running_requests()
        self._runner.reset()
        self._fail([(request, error) for request in running])

    def _fail(self, failures: Iterable[Failure]) -> None:
        self._end([(request, _computation_error(error)) for request, error in failures], "failed")

    def _end(self, endings: Sequence[tuple[Request, list[Hypothesis] | Exception]], outcome: Outcome) -> None:
        """Take requests out of the scheduler, count them, and resolve the futures of those that had not ended."""
        if not endings:
            return
        claimed = [(request, result) for request, result in endings if request.claim()]
        tokens = [0 if isinstance(result, Exception) else len(result[0].token_ids) for _, result in claimed]
        with self._changed:
            for request, _ in endings:
                self._scheduler.remove(request)
            self._totals.ended[outcome] += len(claimed)
            self._totals.generated_tokens += sum(tokens)
        for (request, result), generated_tokens in zip(claimed, tokens, strict=True):
            self._observe_end(outcome, request, generated_tokens)
            request.resolve(result)

    def _observe_end(self, outcome: Outcome, request: Request, generated_tokens: int) -> None:
        seconds = self._clock() - request.submitted_at
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


def _computation_error(error: Exception) -> Exception:
    """The error for a request's future; a new one for each, because futures of several threads raise it."""
    if isinstance(error, DragomanError) and not isinstance(error, UnavailableError):
        return error
    failure = DecodingError(f"the request could not be decoded: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
