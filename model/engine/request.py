"""One request: what is to be decoded, until when, and the future of its result; it knows neither queue nor network."""

from __future__ import annotations

import enum
import functools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from model.errors import RequestCancelledError

if TYPE_CHECKING:
    from model.config import GenerationConfig
    from model.generation.hypothesis import Hypothesis


class RequestState(enum.Enum):
    """Where a request is; only a lack of memory moves it back, from RUNNING to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """A source on its way through the engine; compared by identity.

    Whoever ends a request (the engine with hypotheses or an error, the caller by cancelling) calls :meth:`claim` first;
    the one that wins then calls :meth:`resolve`. So a result is set exactly once, whatever races.

    Attributes:
        source_ids: token ids of the source, language and end tokens included.
        config: how to decode it.
        reserved_tokens: target positions set aside for each of its rows.
        caller: whose request it is, for the fair share; None is one caller like any other.
        submitted_at: seconds of the engine's clock.
        deadline: seconds of the engine's clock after which nobody wants the result, or None.
        future: the hypotheses, best first, or one of the errors below :class:`~model.errors.UnavailableError`. Its
            callbacks run in one of the engine's threads and must be short. Cancelling the future itself, as asyncio
            does for an awaited one, cancels the request too.
    """

    def __init__(
        self,
        source_ids: tuple[int, ...],
        config: GenerationConfig,
        *,
        reserved_tokens: int,
        caller: str | None = None,
        submitted_at: float = 0.0,
        deadline: float | None = None,
        on_cancel: Callable[[Request], None] | None = None,
    ) -> None:
        self.source_ids = source_ids
        self.config = config
        self.reserved_tokens = reserved_tokens
        self.caller = caller
        self.submitted_at = submitted_at
        self.deadline = deadline
        self.future: Future[list[Hypothesis]] = Future()
        self._on_cancel = on_cancel
        self._state = RequestState.WAITING
        self._lock = threading.Lock()
        # Weak, because request -> future -> callback -> request would be a cycle that only the garbage collector ends.
        self.future.add_done_callback(functools.partial(_follow_future, weakref.ref(self)))

    @property
    def state(self) -> RequestState:
        """WAITING, RUNNING or FINISHED, at this moment."""
        return self._state

    @property
    def source_length(self) -> int:
        """Tokens of the source."""
        return len(self.source_ids)

    @property
    def num_rows(self) -> int:
        """Most rows that it takes in the batch."""
        return self.config.max_rows

    @property
    def cost(self) -> int:
        """Its share of the token budget when it runs alone: rows times (source plus reserved target positions)."""
        return self.num_rows * (self.source_length + self.reserved_tokens)

    def start(self) -> None:
        """WAITING becomes RUNNING; a request that was finished in between stays so."""
        with self._lock:
            if self._state is RequestState.WAITING:
                self._state = RequestState.RUNNING

    def wait_again(self) -> None:
        """RUNNING becomes WAITING; a request that was finished in between stays so."""
        with self._lock:
            if self._state is RequestState.RUNNING:
                self._state = RequestState.WAITING

    def claim(self) -> bool:
        """Make it FINISHED; True for the one call that did, which must then call :meth:`resolve`."""
        with self._lock:
            if self._state is RequestState.FINISHED:
                return False
            self._state = RequestState.FINISHED
            return True

    def resolve(self, outcome: list[Hypothesis] | Exception) -> None:
        """Complete the future; for the winner of :meth:`claim` only, with no lock held, as callbacks run in here."""
        if not self.future.set_running_or_notify_cancel():
            return  # its owner cancelled the future and gets CancelledError
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def cancel(self) -> bool:
        """Give the request up, from any thread; the engine takes it out of the batch before its next token.

        Returns:
            True if this call ended it: the future then has :class:`~model.errors.RequestCancelledError`. False if it
            had ended before.
        """
        if not self.claim():
            return False
        if self._on_cancel is not None:
            self._on_cancel(self)
        self.resolve(RequestCancelledError("the request was cancelled by its caller"))
        return True


def _follow_future(reference: weakref.ref[Request], future: Future[list[Hypothesis]]) -> None:
    """Cancel the request whose future was cancelled."""
    request = reference()
    if request is not None and future.cancelled():
        request.cancel()
