"""One JSON line for each request and each message, with its request id and never with users' text.

Also the outermost middleware, which gives a request its id, measures it, and answers what nobody else answered.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict, Processor, WrappedLogger

from app.errors import error_response
from app.limits import ARRIVAL, REQUEST_ID
from app.metrics import Metrics

REQUEST_ID_HEADERS = ("X-Request-ID", "X-Trace-ID")
"""Headers of every reply; both carry the same id. The first is taken over from a request, if it is sane."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CLIENT_CLOSED_REQUEST = 499
_FOREIGN_LOGGERS = ("uvicorn", "model")

_logger = structlog.get_logger("app")


class _Stderr:
    """Today's sys.stderr, whatever it was when logging was set up."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logging(level: str) -> None:
    """Let our own messages, and those of uvicorn and the model, be JSON lines on stderr from ``level`` on.

    uvicorn's access log is switched off: it has query strings, and those may hold text.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact_exception,
    ]
    stream: Any = _Stderr()
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    for name in _FOREIGN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(number)
    logging.getLogger("uvicorn.access").disabled = True


def redact_exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and where it came from; its message may quote a text."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event["exception"] = [_outline(exception) for exception in _chain(info)]
    return event


def _chain(exception: BaseException) -> Iterator[BaseException]:
    """Yield the exception, what caused it, what caused that, and so on; at most ten."""
    following: BaseException | None = exception
    for _ in range(10):
        if following is None:
            return
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _outline(exception: BaseException) -> dict[str, Any]:
    """Return type and stack of one exception."""
    return {"type": type(exception).__qualname__, "stack": list(_stack(exception.__traceback__))}


def _stack(trace: TracebackType | None) -> Iterator[str]:
    """Yield the last calls of a traceback, innermost last."""
    for frame in traceback.extract_tb(trace)[-20:]:
        yield f"{frame.filename}:{frame.lineno} {frame.name}"


class RequestLogMiddleware:
    """Gives a request its id, answers exceptions that nobody else answered, measures and logs the reply."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = scope[ARRIVAL] = time.monotonic()
        request_id = scope[REQUEST_ID] = _request_id(Headers(scope=scope))
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name in REQUEST_ID_HEADERS:
                    headers[name] = request_id
            await send(message)

        self.metrics.request_started()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as exception:
                _logger.error("request failed", exc_info=exception)
                if status:  # too late for another reply; the server cuts the connection
                    raise
                await error_response(exception, scope)(scope, receive, send_with_id)
            finally:
                self._finish(scope, status or _CLIENT_CLOSED_REQUEST, time.monotonic() - started)

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        """Write the numbers down. The path itself is not logged, only its template."""
        route: str | None = getattr(scope.get("route"), "path", None)
        self.metrics.request_finished(scope["method"], route, status, seconds)
        _logger.info(
            "request", method=scope["method"], route=route, status=status, milliseconds=round(seconds * 1000, 1)
        )


def _request_id(headers: Headers) -> str:
    """Return the caller's id if it is a sane one, or a new one."""
    given = headers.get(REQUEST_ID_HEADERS[0], "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
