"""The threads of an engine: workers that decode, each its own batch, and the watch of the deadlines; no decisions."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from model.engine.clock import Clock
from model.engine.device import is_fatal, is_out_of_memory
from model.engine.dispatcher import Dispatcher, Round
from model.engine.request import Request, RequestState
from model.engine.runner import Failure, Runner
from model.errors import DecodingError, DragomanError, UnavailableError

STEP_GRACE_SECONDS = 10.0
"""How long close() waits for the steps that are under way once it waits for nothing else."""
THREAD_NAME = "dragoman-engine"
"""What the names of all threads begin with."""

_logger = logging.getLogger(__name__)


class Worker:
    """The loop of one thread: take requests, do a step, hand over what is finished.

    Args:
        number: which of the dispatcher's workers it is, from 0.
        dispatcher: gives requests and takes results.
        runner: an empty batch, which is this worker's alone.
        clock: measures steps.
    """

    def __init__(self, number: int, dispatcher: Dispatcher, runner: Runner, clock: Clock) -> None:
        self._number = number
        self._dispatcher = dispatcher
        self._runner = runner
        self._clock = clock

    def run(self) -> None:
        """Work until told to end, or until something breaks that a new batch does not mend: that ends the engine."""
        try:
            with self._runner.own_device():
                while (work := self._dispatcher.next_round(self._number)) is not None:
                    self._do(work)
        except BaseException as error:
            _logger.exception("the engine's worker died")
            self._dispatcher.stop(error)

    def _do(self, work: Round) -> None:
        for request in work.leaving:
            self._runner.remove(request)
        # Whoever was cancelled in between is not even encoded.
        joining = [request for request in work.joining if request.state is not RequestState.FINISHED]
        in_batch = [*self._runner.requests, *joining]
        try:
            self._compute(joining)
            return
        except Exception as caught:
            error = caught
        # Not inside the except clause: there the frames of the failed step are alive, and so are its tensors.
        if is_out_of_memory(error):
            error.__traceback__ = None
            self._runner.reset()
            self._runner.release_memory()
            if len(in_batch) > 1:
                self._dispatcher.put_back(self._number)
            else:
                self._dispatcher.end([(each, _too_large(each.cost, error)) for each in in_batch], "failed")
        else:
            _logger.error("a step failed; the requests of its batch fail with it", exc_info=error)
            self._runner.reset()
            self._fail((request, error) for request in self._dispatcher.requests_in_batch(self._number))
            if is_fatal(error):
                raise error

    def _compute(self, joining: Sequence[Request]) -> None:
        """The part of a round that uses the device."""
        started = self._clock.now()
        self._fail(self._runner.admit(joining))
        if self._runner.num_requests == 0:
            return
        rows, max_rows, steps_before = self._runner.num_rows, self._runner.max_rows, self._runner.num_steps
        with self._dispatcher.stepping(self._number, self._runner.interrupt):
            finished, failures = self._runner.step()
        self._dispatcher.count_steps(
            self._number,
            self._runner.num_steps - steps_before,
            (rows, max_rows),
            self._clock.now() - started,
            sum(request.cost for request, _ in finished),
        )
        self._dispatcher.end(finished, "finished")
        self._fail(failures)

    def _fail(self, failures: Iterable[Failure]) -> None:
        self._dispatcher.end([(request, _computation_error(error)) for request, error in failures], "failed")


class Threads:
    """All threads of an engine, from their start to their end.

    Args:
        dispatcher: what they share.
        runners: one for each worker.
        clock: measures steps.
    """

    def __init__(self, dispatcher: Dispatcher, runners: Sequence[Runner], clock: Clock) -> None:
        self._dispatcher = dispatcher
        workers = [Worker(number, dispatcher, runner, clock) for number, runner in enumerate(runners)]
        bodies = {f"{THREAD_NAME}-{number}": worker.run for number, worker in enumerate(workers)}
        bodies[f"{THREAD_NAME}-deadlines"] = dispatcher.watch_deadlines
        # Daemons, so that a device that hangs cannot keep the process alive; close() joins them in every other case.
        self._threads = [threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()]
        for thread in self._threads:
            thread.start()

    def close(self, drain: bool, timeout_seconds: float | None) -> None:
        """Accept nothing more, finish what is there if ``drain``, fail the rest, and end the threads."""
        called_by_callback = threading.current_thread() in self._threads  # which cannot wait for itself
        if drain:
            self._dispatcher.drain()
            if called_by_callback:
                return
            self._join(timeout_seconds)
        self._dispatcher.stop()
        if not called_by_callback and not self._join(STEP_GRACE_SECONDS):
            _logger.error("the engine's threads did not end: a step takes longer than %s s", STEP_GRACE_SECONDS)

    def _join(self, timeout_seconds: float | None) -> bool:
        """Wait for all threads, so long together; return whether they have ended."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _computation_error(error: Exception) -> Exception:
    """The error for a request's future; a new one for each, because futures of several threads raise it."""
    if isinstance(error, DragomanError) and not isinstance(error, UnavailableError):
        return error
    failure = DecodingError(f"the request could not be decoded: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _too_large(cost: int, error: Exception) -> DecodingError:
    """The error for a request that lacks memory although nothing else was in its worker's batch."""
    failure = DecodingError(
        f"the request must fit into the device's memory; alone in its batch, its {cost} token positions do not: {error}"
    )
    failure.__cause__ = error
    return failure
