"""The engine's face: it checks requests and hands them to its worker; no scheduling and no tensors here."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from model.config import EngineConfig, GenerationConfig
from model.engine.request import Request
from model.engine.runner import Batch, Runner, place
from model.engine.scheduler import Scheduler
from model.engine.stats import EngineObserver, EngineStats, SilentObserver
from model.engine.worker import Worker
from model.errors import InvalidRequestError
from model.generation import DecodingBatch, GenerationInput
from model.transformer import Transformer

CLOSE_TIMEOUT_SECONDS = 30.0
"""How long close() lets requests finish, unless told otherwise."""


class Engine:
    """Many callers' requests, decoded together by one thread on one device; its methods may be called from any thread.

    A request's hypotheses depend on its source and options alone, not on the requests beside it. An engine that is
    garbage-collected, or alive when the process ends, is closed without draining.

    Args:
        model: the network; it is moved, in place, to the device and number format of ``config``.
        config: device, number format, threads, budget and queue.
        always_banned: token ids that are never generated.
        observer: is told of steps and requests, for metrics.
        new_batch: makes the running batch; the default is a ``DecodingBatch`` of the model.
        clock: seconds that only grow; deadlines are measured by it.

    Raises:
        ConfigurationError: the device does not exist.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        always_banned: Sequence[int] = (),
        *,
        observer: EngineObserver | None = None,
        new_batch: Callable[[], Batch] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = EngineConfig() if config is None else config
        self.model_config = model.config
        self._clock = clock
        placed = place(model, self.config)

        def new_decoding_batch() -> Batch:
            return DecodingBatch[Request](placed, always_banned)

        self._worker = Worker(
            Scheduler(self.config.max_batch_tokens),
            Runner(new_batch or new_decoding_batch, self.config.num_threads),
            self.config.max_queued_requests,
            SilentObserver() if observer is None else observer,
            clock,
        )
        # The worker knows nothing of the engine, so its thread does not keep the engine alive.
        self._finalizer = weakref.finalize(self, self._worker.close, drain=False, timeout_seconds=None)

    def submit(
        self,
        source_ids: Sequence[int],
        config: GenerationConfig,
        *,
        deadline_seconds: float | None = None,
        caller: str | None = None,
    ) -> Request:
        """Queue one request and return at once; its ``future`` gets the hypotheses, best first.

        Args:
            source_ids: token ids of the source, language and end tokens included.
            config: how to decode it.
            deadline_seconds: time from now after which the request is dropped; None means no limit, 0 or less that the
                time is up already.
            caller: whose request it is: waiting callers share the device evenly. None is one caller like any other.

        Raises:
            InvalidRequestError: the source or an option does not fit the model.
            OverloadedError: the queue is full.
            EngineClosedError: the engine was closed, or its worker died.
        """
        item = GenerationInput(source_ids, config)
        return self.submit_many([item], deadline_seconds=deadline_seconds, caller=caller)[0]

    def submit_many(
        self,
        items: Sequence[GenerationInput],
        *,
        deadline_seconds: float | None = None,
        caller: str | None = None,
    ) -> list[Request]:
        """Queue all of the requests, or none; otherwise like :meth:`submit`.

        Raises:
            InvalidRequestError: also where there are more requests than the whole queue can hold.
        """
        limit = self.config.max_queued_requests
        if len(items) > limit:
            raise InvalidRequestError("items", f"must be at most {limit} at once, the size of the queue", len(items))
        if deadline_seconds is not None and math.isnan(deadline_seconds):
            raise InvalidRequestError("deadline_seconds", "must be a number", deadline_seconds)
        for item in items:
            item.validate(self.model_config)
        now = self._clock()
        requests = [
            Request(
                tuple(item.source_ids),
                item.config,
                reserved_tokens=item.token_limit(self.model_config),
                caller=caller,
                submitted_at=now,
                deadline=None if deadline_seconds is None else now + deadline_seconds,
                on_cancel=self._worker.drop,
            )
            for item in items
        ]
        self._worker.submit(requests)
        return requests

    def stats(self) -> EngineStats:
        """Return counts since the start, and what waits and runs at this moment."""
        return self._worker.stats()

    def close(self, drain: bool = True, timeout_seconds: float | None = CLOSE_TIMEOUT_SECONDS) -> None:
        """Stop accepting requests, and end the thread; may be called again, from any thread.

        Args:
            drain: first finish what waits and runs; otherwise it fails with EngineClosedError.
            timeout_seconds: longest time for that; what is not finished then fails with EngineClosedError. None means
                no limit. A step that is under way is waited for in any case, as it cannot be interrupted.
        """
        self._worker.close(drain, timeout_seconds)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)
