"""The engine's face: it checks requests and hands them to its workers; no scheduling and no tensors here."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from model.config import EngineConfig, GenerationConfig
from model.engine.clock import Clock, MonotonicClock
from model.engine.decoders import batch_factory
from model.engine.device import count_workers, memory_releaser, select_device, token_budget
from model.engine.dispatcher import Dispatcher
from model.engine.request import Request
from model.engine.runner import Batch, Runner
from model.engine.scheduler import Scheduler
from model.engine.stats import EngineObserver, EngineStats, SilentObserver
from model.engine.worker import Threads
from model.errors import InvalidRequestError
from model.generation import GenerationInput
from model.generation.shortlist import Shortlist
from model.transformer import Transformer

CLOSE_TIMEOUT_SECONDS = 30.0
"""How long close() lets requests finish, unless told otherwise."""


class Engine:
    """Many callers' requests, decoded together on one device; its methods may be called from any thread.

    Several workers, each a thread with a batch of its own, share one copy of the weights and one queue. A request's
    hypotheses depend on its source and options alone, not on the requests beside it. If one worker dies, because the
    device or the process is in no state to go on, the engine is closed: everything in it fails, nothing is accepted.
    An engine that is garbage-collected, or alive when the process ends, is closed without draining.

    Args:
        model: the network, in float32; see :func:`~model.engine.decoders.batch_factory` for what becomes of it.
        config: device, number format, workers, threads, budget and queue.
        always_banned: token ids that are never generated.
        shortlist: likely target tokens, used where ``config`` says so.
        observer: is told of steps and requests, for metrics.
        new_batch: makes a running batch, called in the thread of each worker; the default is what suits device and
            number format. Weights that it needs must be on the device already.
        clock: deadlines are measured by it.
        release_memory: gives the device its unused memory back after it had too little; the default is CUDA's.

    Raises:
        ConfigurationError: the device does not exist, or the number format does not suit the default batch.
    """

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        always_banned: Sequence[int] = (),
        *,
        shortlist: Shortlist | None = None,
        observer: EngineObserver | None = None,
        new_batch: Callable[[], Batch] | None = None,
        clock: Clock | None = None,
        release_memory: Callable[[], None] | None = None,
    ) -> None:
        self.config = EngineConfig() if config is None else config
        self.model_config = model.config
        self._clock = MonotonicClock() if clock is None else clock
        device = select_device(self.config.device)

        if new_batch is None:
            new_batch = batch_factory(model, self.config, always_banned, shortlist)
        release_memory = release_memory or memory_releaser(device)
        num_workers = count_workers(self.config, device)
        self._dispatcher = Dispatcher(
            Scheduler(token_budget(self.config, device, model.config), num_workers),
            self.config.max_queued_requests,
            SilentObserver() if observer is None else observer,
            self._clock,
        )
        runners = [Runner(new_batch, self.config.num_threads, release_memory) for _ in range(num_workers)]
        threads = Threads(self._dispatcher, runners, self._clock)
        # The threads know nothing of the engine, so they do not keep it alive.
        self._close = threads.close
        self._finalizer = weakref.finalize(self, threads.close, drain=False, timeout_seconds=None)

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
            EngineClosedError: the engine was closed, or one of its workers died.
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
        now = self._clock.now()
        requests = [
            Request(
                tuple(item.source_ids),
                item.config,
                reserved_tokens=item.token_limit(self.model_config),
                caller=caller,
                submitted_at=now,
                deadline=None if deadline_seconds is None else now + deadline_seconds,
                on_cancel=self._dispatcher.drop,
            )
            for item in items
        ]
        self._dispatcher.submit(requests)
        return requests

    def stats(self) -> EngineStats:
        """Return counts since the start, and what waits and runs at this moment."""
        return self._dispatcher.stats()

    def close(self, drain: bool = True, timeout_seconds: float | None = CLOSE_TIMEOUT_SECONDS) -> None:
        """Stop accepting requests, and end the threads; may be called again, from any thread.

        Args:
            drain: first finish what waits and runs; otherwise it fails with EngineClosedError.
            timeout_seconds: longest time for that; what is not finished then fails with EngineClosedError. None means
                no limit. Steps that are under way then end with their next token, for which this waits in any case.
        """
        self._close(drain, timeout_seconds)
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)
