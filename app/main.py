"""Puts the application together: middleware, routes, and a lifespan that loads the models, warms up and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
import structlog
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.dependencies import Service
from app.errors import LIBRETRANSLATE_PATHS, install_error_handlers
from app.limits import BodyLimitMiddleware
from app.logging import REQUEST_ID_HEADERS, RequestLogMiddleware, configure_logging
from app.metrics import Metrics, package_version
from app.routes import libretranslate, native, operations
from app.settings import Settings
from app.translators import TextTranslator, TranslatorRegistry, load_translators

_logger = structlog.get_logger("app")


def create_app(settings: Settings | None = None, translators: Sequence[TextTranslator] | None = None) -> FastAPI:
    """Return the application; also the factory for ``uvicorn --factory app.main:create_app``.

    Args:
        settings: None reads them from the environment and the file that it names.
        translators: serve these; they are warmed up, and stay their owner's to close. None loads and closes those that
            the settings name.

    Raises:
        ConfigurationError: a setting breaks its rule.
    """
    settings = settings or Settings.load()
    configure_logging(settings.log_level)
    registry, metrics = TranslatorRegistry(), Metrics()
    metrics.watch(lambda: registry.translators, registry.healthy)
    app = FastAPI(
        title="Dragoman",
        summary="Self-hosted neural machine translation",
        version=package_version(),
        docs_url=None,  # FastAPI's own page loads its scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False},  # its spans would hold query strings, and those may hold text
        lifespan=_lifespan(settings, registry, metrics, translators),
    )
    app.state.service = Service(settings, registry, metrics)
    install_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    if settings.allow_origin:
        app.add_middleware(CorsMiddleware, allow_origin=settings.allow_origin)
    app.add_middleware(RequestLogMiddleware, metrics=metrics)  # added last, so outermost
    for routes in (native, libretranslate, operations):
        app.include_router(routes.router)
    app.openapi = partial(_openapi, app.openapi)  # type: ignore[method-assign]
    return app


def _lifespan(
    settings: Settings, registry: TranslatorRegistry, metrics: Metrics, given: Sequence[TextTranslator] | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: everything slow in it runs in threads."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        translators = given
        if translators is None:
            translators = await anyio.to_thread.run_sync(load_translators, settings, metrics)
        try:
            await anyio.to_thread.run_sync(registry.start, translators)
            _logger.info("ready", models=[translator.name for translator in translators])
            yield
        finally:
            registry.stop_accepting()
            if given is None:
                await anyio.to_thread.run_sync(registry.close)
            _logger.info("closed")

    return lifespan


class CorsMiddleware:
    """Lets web pages call the API, with the headers that LibreTranslate sends; the operator's endpoints stay out."""

    def __init__(self, app: ASGIApp, allow_origin: str) -> None:
        self.app = app
        self.headers = {
            "Access-Control-Allow-Origin": allow_origin,
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Expose-Headers": ", ".join(("Authorization", "Retry-After", *REQUEST_ID_HEADERS)),
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Max-Age": "1728000",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not (path in LIBRETRANSLATE_PATHS or path.startswith("/v1/")):
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=200, headers=self.headers)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _openapi(generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Generate the OpenAPI document, with the media type that problem details really have."""
    document = generate()
    for operations_of_path in document["paths"].values():
        for operation in operations_of_path.values():
            for reply in operation.get("responses", {}).values():
                content: Mapping[str, Any] = reply.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/ProblemReply"):
                    reply["content"] = {"application/problem+json": {"schema": schema}}
    return document
