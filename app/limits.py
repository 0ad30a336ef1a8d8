"""What bounds a request: size and time of its body, number and length of its texts, its deadline, a client that leaves.

The engine's queue has its own bound; this file only lets go of the engine's work when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BODY_TIMEOUT, BODY_TOO_LARGE, RequestError, error_response
from app.settings import Settings
from model import DeadlineExceededError, InvalidOptionError, InvalidTextError, RequestCancelledError

ARRIVAL = "dragoman.arrival"
"""Key of the ASGI scope with the time.monotonic() at which the request arrived."""
REQUEST_ID = "dragoman.request_id"
"""Key of the ASGI scope with the request's id."""

DOCUMENT_PATHS = frozenset({"/v1/documents", "/v2/document", "/translate_file"})
"""Paths that take files, and so larger bodies."""
_FORM_BYTES = 64 * 1024
"""What a form may have around its file."""
_INLINE_CHARACTERS = 2000
"""Texts up to this length together take about a millisecond to tokenise; handing them to a thread would cost more."""

Result = TypeVar("Result")


class Work(Protocol):
    """Something that an engine does for a request."""

    @property
    def future(self) -> Future[Any]:
        """The result, once it is there."""

    def cancel(self) -> None:
        """Let the engine drop the work before its next step."""


@dataclass(frozen=True)
class Deadline:
    """A point in time.monotonic() seconds."""

    at: float

    @classmethod
    def of(cls, scope: Scope, settings: Settings, wanted_ms: int | None = None) -> Deadline:
        """Return the deadline of a request: the service's, or an earlier one that the caller wants.

        Raises:
            InvalidOptionError: the caller wants no time, or more than the service gives.
        """
        longest_ms = round(settings.deadline_seconds * 1000)
        if wanted_ms is not None and not 1 <= wanted_ms <= longest_ms:
            raise InvalidOptionError("deadline_ms", f"must be between 1 and {longest_ms}", wanted_ms)
        arrival: float = scope.get(ARRIVAL, time.monotonic())
        return cls(arrival + (longest_ms if wanted_ms is None else wanted_ms) / 1000)

    def remaining_seconds(self) -> float:
        """Return the time left, 0 when it has passed."""
        return max(0.0, self.at - time.monotonic())


def check_texts(texts: Sequence[str], settings: Settings, name: str = "texts") -> None:
    """Raise InvalidTextError if there are too many texts, or one is too long."""
    if len(texts) > settings.max_texts:
        raise InvalidTextError(name, f"must have at most {settings.max_texts} texts", len(texts))
    for index, text in enumerate(texts):
        if len(text) > settings.max_characters:
            rule = f"must have at most {settings.max_characters} characters"
            raise InvalidTextError(f"{name}[{index}]", rule, len(text))


async def off_loop(characters: int, work: Callable[[], Result]) -> Result:
    """Run ``work`` on ``characters`` of text: here if that is quick, otherwise in a thread."""
    if characters <= _INLINE_CHARACTERS:
        return work()
    return await anyio.to_thread.run_sync(work)


class Patience:
    """Waits for the engine's work as long as the client and the deadline allow; use it as an async context.

    It listens on the request's ASGI channel, so the body must have been read: what comes next is that the client went
    away.
    """

    def __init__(self, receive: Receive, deadline: Deadline) -> None:
        self._receive = receive
        self._deadline = deadline
        self._mirrors: dict[Future[Any], asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Self:
        self._gone = asyncio.ensure_future(wait_for_disconnect(self._receive))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.cancel()
        await asyncio.gather(self._gone, return_exceptions=True)

    async def wait_for_all(self, pending: Sequence[Work]) -> None:
        """Wait until every future is done.

        Raises:
            DeadlineExceededError: the deadline passed first.
            RequestCancelledError: the client went away first, or the engine dropped something.
            Exception: that of the first future that failed.
        """
        await self._wait(pending, asyncio.FIRST_EXCEPTION)

    async def wait_for_any(self, pending: Sequence[Work]) -> None:
        """Wait until one future is done; raises as :meth:`wait_for_all` does."""
        await self._wait(pending, asyncio.FIRST_COMPLETED)

    async def _wait(self, pending: Sequence[Work], until: str) -> None:
        if not pending:
            return
        finished = asyncio.ensure_future(_finish([self._watch(item.future) for item in pending], until))
        seconds = self._deadline.remaining_seconds()
        try:
            await asyncio.wait({finished, self._gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if finished.done():
                finished.result()
            elif self._gone.done():
                self._gone.result()
                raise RequestCancelledError("the client closed the connection")
            else:
                raise DeadlineExceededError("the deadline passed before the translation was complete")
        finally:
            finished.cancel()
            await asyncio.gather(finished, return_exceptions=True)

    def _watch(self, future: Future[Any]) -> asyncio.Future[Any]:
        """Mirror an engine's future in the event loop."""
        if future not in self._mirrors:
            mirror = self._mirrors[future] = asyncio.wrap_future(future)
            # Nobody may look at it later, and asyncio would log that with the exception's message.
            mirror.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._mirrors[future]


def cancel_unfinished(pending: Sequence[Work]) -> None:
    """Let the engine drop what nobody waits for."""
    for item in pending:
        if not item.future.done():
            item.cancel()


async def _finish(results: Sequence[asyncio.Future[Any]], until: str) -> None:
    """Wait for all or any, and raise what failed. (gather would cancel the engine's futures together with us.)"""
    done, _ = await asyncio.wait(results, return_when=until)
    for result in done:
        if result.cancelled():
            raise RequestCancelledError("the engine dropped the request")
        result.result()


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class BodyLimitMiddleware:
    """Refuses bodies that are too large, by their header or while they stream, and those that take too long."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes, timeout_seconds = self._limits(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            await error_response(_too_large(max_bytes), scope)(scope, receive, send)
            return
        received, complete = 0, False
        until = asyncio.get_running_loop().time() + timeout_seconds

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # only the disconnect can follow, and that may take as long as it likes
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise RequestError(BODY_TIMEOUT, f"the body took over {timeout_seconds:g} s") from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self.app(scope, limited_receive, send)

    def _limits(self, scope: Scope) -> tuple[int, float]:
        """Return the bytes that a body may have and the seconds that it may take; a file gets time by its size."""
        settings = self.settings
        if scope["method"] != "POST" or scope["path"] not in DOCUMENT_PATHS:
            return settings.max_body_bytes, settings.body_timeout_seconds
        max_bytes = settings.max_document_bytes + _FORM_BYTES
        return max_bytes, settings.body_timeout_seconds * max(1.0, max_bytes / settings.max_body_bytes)


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(BODY_TOO_LARGE, f"the body must have at most {max_bytes} bytes")
