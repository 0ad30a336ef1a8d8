"""Server-sent events: a request's progress written as it happens; which events there are is the route's to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.responses import StreamingResponse

Emit = Callable[[str, Any], None]
"""Writes one event: its name and its data; may be called from any thread."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""A proxy that collects the answer would undo the stream."""


class EventStream(StreamingResponse):
    """An answer whose events come from ``work``, in the WHATWG's format (HTML standard, section 9.2).

    Args:
        work: runs beside the answer, and is given what writes an event. It must turn its own errors into events, since
            the status line is long gone. It is cancelled when the client leaves.
    """

    def __init__(self, work: Callable[[Emit], Awaitable[None]]) -> None:
        super().__init__(_events(work), media_type="text/event-stream", headers=_HEADERS)


async def _events(work: Callable[[Emit], Awaitable[None]]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def emit(name: str, data: Any) -> None:
        line = b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
        loop.call_soon_threadsafe(queue.put_nowait, line)

    async def run() -> None:
        try:
            await work(emit)
        finally:
            loop.call_soon(queue.put_nowait, None)

    task = asyncio.create_task(run())
    try:
        while (event := await queue.get()) is not None:
            yield event
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
