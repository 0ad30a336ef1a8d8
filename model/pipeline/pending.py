"""A text on its way through the engine: drives its segments until the last one is done; what they ask is theirs.

A segment is a *flow*: a generator that yields what is to be decoded, is sent the hypotheses, may yield again (decode
with other settings), and returns its result. Flows run in the finishing threads, never in the engine's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from threading import Lock
from typing import Protocol

from model.errors import EngineClosedError, OverloadedError, RequestCancelledError
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.translation import SegmentTranslation, Translation

Flow = Generator[list[GenerationInput], list[list[Hypothesis]], SegmentTranslation]
"""One segment's way."""
SegmentObserver = Callable[[int, SegmentTranslation], None]
"""Is told of every finished segment, by its number; called in a finishing thread, in no fixed order."""


class SubmittedRequest(Protocol):
    """What the pipeline needs of an engine's request."""

    @property
    def future(self) -> Future[list[Hypothesis]]:
        """The hypotheses, best first."""

    def cancel(self) -> object:
        """Drop the work."""


Submit = Callable[[Sequence[GenerationInput], float | None], Sequence[SubmittedRequest]]
"""Queues all inputs or none, with the seconds that are left."""


class PendingTranslation:
    """A translation whose segments are in the engine.

    Attributes:
        future: the translation, once the last segment is done, or the first segment's error. Cancelling it, as asyncio
            does with an awaited one, cancels the engine's work too.
    """

    def __init__(
        self,
        flows: Sequence[Flow],
        submit: Submit,
        assemble: Callable[[list[SegmentTranslation]], Translation],
        executor: Executor,
        *,
        window: int,
        deadline_seconds: float | None = None,
        on_segment: SegmentObserver | None = None,
    ) -> None:
        """Submit the first segments; the others follow as these finish.

        Args:
            flows: one a segment.
            submit: hands inputs to the engine.
            assemble: makes the whole of the segments' results, in a finishing thread.
            executor: the finishing threads.
            window: most segments in the engine at once.
            deadline_seconds: time from now after which the work is dropped.
            on_segment: is told of finished segments.

        Raises:
            InvalidRequestError, UnavailableError: what ``submit`` raises for the first segments.
        """
        self.future: Future[Translation] = Future()
        self._flows = flows
        self._submit = submit
        self._assemble = assemble
        self._executor = executor
        self._on_segment = on_segment
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self._lock = Lock()
        self._results: list[SegmentTranslation | None] = [None] * len(flows)
        self._num_left = len(flows)
        self._not_started = deque(range(len(flows)))
        self._refused: deque[tuple[int, list[GenerationInput]]] = deque()
        self._requests: dict[int, Sequence[SubmittedRequest]] = {}
        self._claimed = False
        self.future.add_done_callback(self._follow_future)
        self._start(window)

    def cancel(self) -> None:
        """Give the translation up; the engine drops its segments before the next step."""
        self._fail(RequestCancelledError("the request was cancelled by its caller"))

    def _start(self, window: int) -> None:
        """Submit the first segments, all of them or none."""
        wanted: list[tuple[int, list[GenerationInput]]] = []
        while self._not_started and len(wanted) < window:
            index = self._not_started.popleft()
            inputs = self._advance(index)
            if inputs:
                wanted.append((index, inputs))
        if wanted:
            requests = list(self._submit([item for _, inputs in wanted for item in inputs], self._seconds_left()))
            groups = {}
            for index, inputs in wanted:
                groups[index], requests = requests[: len(inputs)], requests[len(inputs) :]
            self._requests.update(groups)
            for index, group in groups.items():
                self._follow(index, group)
        elif self._num_left == 0:
            self._complete()

    def _advance(self, index: int) -> list[GenerationInput]:
        """Start a flow, and return what it asks; a flow that asks nothing is done."""
        try:
            return next(self._flows[index])
        except StopIteration as stop:
            self._note(index, stop.value)
            return []

    def _follow(self, index: int, requests: Sequence[SubmittedRequest]) -> None:
        """Resume the flow when all its requests are done."""
        left = len(requests)

        def done(part: Future[list[Hypothesis]]) -> None:
            nonlocal left
            error = RequestCancelledError("a segment was cancelled") if part.cancelled() else part.exception()
            if error is not None:
                self._fail(error)
                return
            with self._lock:
                left -= 1
                last = left == 0 and not self._claimed
            if last:
                self._executor.submit(self._resume, index, [request.future.result() for request in requests])

        for request in requests:
            request.future.add_done_callback(done)

    def _resume(self, index: int, hypotheses: list[list[Hypothesis]]) -> None:
        """Send a flow its hypotheses, and do what it asks next; then see to the segments that wait."""
        try:
            if self._claimed or self._ask_again(index, hypotheses):
                return
            with self._lock:
                complete = self._num_left == 0
            if complete:
                self._complete()
            else:
                self._start_next()
        except Exception as error:  # whoever waits must hear of it, whatever it is
            self._fail(error)

    def _ask_again(self, index: int, hypotheses: list[list[Hypothesis]]) -> bool:
        """Send a flow its hypotheses; whether it asked for more, and the engine took that."""
        flow = self._flows[index]
        try:
            inputs = flow.send(hypotheses)
            while not self._submit_for(index, inputs):
                inputs = flow.throw(OverloadedError("the queue is full", 1.0))  # it goes on with what it has
        except StopIteration as stop:
            self._note(index, stop.value)
            return False
        return True

    def _start_next(self) -> None:
        """Start one more segment; one that a full queue refuses waits until another one of this text is done."""
        while True:
            with self._lock:
                if self._refused:
                    index, inputs = self._refused.popleft()
                elif self._not_started:
                    index, inputs = self._not_started.popleft(), []
                else:
                    return
            inputs = inputs or self._advance(index)
            if not inputs:
                continue
            if not self._submit_for(index, inputs):
                with self._lock:
                    self._refused.append((index, inputs))
                    alone = not self._requests
                if alone:
                    raise OverloadedError("the queue is full", 1.0)
            return

    def _submit_for(self, index: int, inputs: Sequence[GenerationInput]) -> bool:
        """Hand a flow's inputs to the engine; False where it has no room or takes nothing any more."""
        try:
            requests = self._submit(inputs, self._seconds_left())
        except (OverloadedError, EngineClosedError):
            return False
        with self._lock:
            self._requests[index] = requests
            gone = self._claimed
        if gone:
            for request in requests:
                request.cancel()
        self._follow(index, requests)
        return True

    def _note(self, index: int, result: SegmentTranslation) -> None:
        with self._lock:
            self._requests.pop(index, None)
            self._results[index] = result
            self._num_left -= 1
        if self._on_segment is not None and not self._claimed:
            self._on_segment(index, result)

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _complete(self) -> None:
        if not self._claim():
            return
        try:
            outcome: Translation | BaseException = self._assemble([part for part in self._results if part is not None])
        except Exception as error:  # as above
            outcome = error
        self._resolve(outcome)

    def _fail(self, error: BaseException) -> None:
        if self._claim():
            self._cancel_requests()
            self._resolve(error)

    def _claim(self) -> bool:
        with self._lock:
            claimed, self._claimed = self._claimed, True
            return not claimed

    def _cancel_requests(self) -> None:
        with self._lock:
            groups = list(self._requests.values())
        for requests in groups:
            for request in requests:
                request.cancel()

    def _resolve(self, outcome: Translation | BaseException) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def _follow_future(self, future: Future[Translation]) -> None:
        if future.cancelled() and self._claim():
            self._cancel_requests()
