"""What every reply carries for browsers and balancers, and the time in which it must be over; it looks at no body.

Security headers for all replies, CORS for the API, ``Connection: close`` while the service stops, and the limit of
time that also holds where no translation is waited for, such as uploads and downloads.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import error_response, is_libretranslate
from app.logging import REQUEST_ID_HEADERS
from model import DeadlineExceededError

_STATIC = Path(__file__).parent / "static"
_API_PREFIXES = ("/v1/", "/v2/", "/v3/")
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
"""Inline code of our own pages; a tag with attributes, such as ``src``, is not inline."""
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
"""Policy for replies that are no pages: a browser that shows one runs and loads nothing."""
_KEY_HEADERS = ("X-API-Key", "Ocp-Apim-Subscription-Key")
_LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Metered-Usage")


def page_policy(pages: Iterable[Path]) -> str:
    """Return the Content-Security-Policy of our pages: files and inline code of this service, and nothing else.

    Inline code is allowed by its hash, so that none can be smuggled in.
    """
    hashes: dict[str, set[str]] = {"script": set(), "style": set()}
    for page in pages:
        for kind, code in _INLINE.findall(page.read_text(encoding="utf-8")):
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            hashes[kind].add(f"'sha256-{digest}'")
    sources = {kind: " ".join(["'self'", *sorted(found)]) for kind, found in hashes.items()}
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {sources['script']}",
            f"style-src {sources['style']}",
            "img-src 'self' data:",
            "font-src 'self'",
            "connect-src 'self'",
            "manifest-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


class SecurityHeadersMiddleware:
    """Tells browsers to take a reply for what it is, to show it in no frame, and what its page may load and run."""

    def __init__(self, app: ASGIApp, stopping: Callable[[], bool]) -> None:
        """Wrap ``app``; while ``stopping`` says so, replies also ask the client to close its connection."""
        self.app = app
        self.stopping = stopping
        self.page_policy = page_policy(sorted(_STATIC.rglob("*.html")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                # A translated document is somebody else's page, and comes as an attachment.
                is_page = is_page and "content-disposition" not in headers
                if message["status"] != 304:  # a browser would put it in the place of the policy that it has kept
                    headers["Content-Security-Policy"] = self.page_policy if is_page else _NOTHING
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "no-referrer"
                if self.stopping():
                    headers["Connection"] = "close"
            await send(message)

        await self.app(scope, receive, send_with_headers)


class CorsMiddleware:
    """Lets web pages call the API, with the headers that LibreTranslate sends; the operator's endpoints stay out."""

    def __init__(self, app: ASGIApp, allow_origin: str) -> None:
        self.app = app
        exposed = ("Authorization", "Retry-After", *REQUEST_ID_HEADERS, *_LIMIT_HEADERS)
        self.libretranslate = {
            "Access-Control-Allow-Origin": allow_origin,
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Expose-Headers": ", ".join(exposed),
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Max-Age": "1728000",
        }
        self.others = self.libretranslate | {
            "Access-Control-Allow-Headers": ", ".join(
                ("Authorization", "Content-Type", *_KEY_HEADERS, REQUEST_ID_HEADERS[0])
            ),
            "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        added = self._headers(scope)
        if added is None:
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=200, headers=added)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(added)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _headers(self, scope: Scope) -> dict[str, str] | None:
        """Return what a reply on this path gets."""
        path: str = scope.get("path", "")
        if scope["type"] != "http":
            return None
        if is_libretranslate(path):
            return self.libretranslate
        return self.others if path.startswith(_API_PREFIXES) else None


class TimeLimitMiddleware:
    """Ends a request that takes too long, whatever it does: with 504, or by cutting a reply that has begun."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noted_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds) as limit:
                await self.app(scope, receive, noted_send)
        except TimeoutError:
            if not limit.expired():
                raise  # somebody else's
            if not started:  # otherwise the server sees that the reply is not complete, and cuts the connection
                error = DeadlineExceededError(f"the request took over {self.seconds:g} s")
                await error_response(error, scope)(scope, receive, send)
