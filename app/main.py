"""Puts the application together: middleware, routes, and a lifespan that loads the models, warms up and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import structlog
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.access import Access, AccessMiddleware
from app.cache import TranslationCache
from app.dependencies import Service
from app.documents import DocumentService
from app.errors import install_error_handlers
from app.glossaries import GlossaryStore
from app.headers import CorsMiddleware, SecurityHeadersMiddleware, TimeLimitMiddleware
from app.limits import BodyLimitMiddleware
from app.logging import RequestLogMiddleware, configure_logging
from app.metrics import Metrics, package_version
from app.model_store import ModelStore
from app.proxies import ForwardedHostMiddleware
from app.registry import TranslatorRegistry
from app.routes import (
    analysis,
    deepl,
    deepl_documents,
    deepl_glossaries,
    deepl_languages,
    documents,
    glossaries,
    libretranslate,
    libretranslate_files,
    models,
    native,
    operations,
    page,
)
from app.settings import Settings
from app.suggestions import SuggestionStore
from app.tracing import TracingMiddleware, create_tracing
from app.translators import TextTranslator, estimate_memory, load_translator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ROUTES = (
    native,
    models,
    analysis,
    documents,
    glossaries,
    libretranslate,
    libretranslate_files,
    deepl,
    deepl_documents,
    deepl_languages,
    deepl_glossaries,
    operations,
    page,
)

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
    metrics = Metrics()
    store = ModelStore(
        partial(load_translator, settings, metrics),
        partial(estimate_memory, settings),
        budget_bytes=int(settings.model_memory_megabytes * 1e6),
        metrics=metrics,
    )
    registry = TranslatorRegistry(store, pivot=settings.pivot)
    metrics.watch(lambda: store.loaded, registry.healthy)
    metrics.watch_models(lambda: len(store.loaded), lambda: store.memory_bytes)
    access = Access(settings, metrics)
    document_service = DocumentService(settings, registry, metrics, access)
    cache = TranslationCache(settings.cache_megabytes, metrics)
    metrics.watch_cache(cache.__len__, lambda: cache.num_bytes)
    service = Service(
        settings,
        registry,
        metrics,
        access,
        GlossaryStore(settings.data_directory),
        document_service,
        cache,
        SuggestionStore(settings.data_directory) if settings.suggestions else None,
    )
    tracing = create_tracing(settings.otlp_endpoint, package_version()) if settings.otlp_endpoint else None
    app = FastAPI(
        title="Dragoman",
        summary="Self-hosted neural machine translation",
        version=package_version(),
        docs_url=None,  # FastAPI's own page loads its scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False},  # its spans would hold query strings, and those may hold text
        lifespan=_lifespan(service, translators, tracing),
    )
    app.state.service = service
    install_error_handlers(app)
    _add_middleware(app, service, tracing)
    for routes in _ROUTES:
        app.include_router(routes.router)
    app.openapi = partial(_openapi, app.openapi)  # type: ignore[method-assign]
    return app


def _add_middleware(app: FastAPI, service: Service, tracing: TracerProvider | None) -> None:
    """Wrap ``app`` in what every request passes; what is added later is further outside."""
    settings = service.settings
    app.add_middleware(AccessMiddleware, access=service.access)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(TimeLimitMiddleware, seconds=settings.request_timeout_seconds)
    if settings.allow_origin:
        app.add_middleware(CorsMiddleware, allow_origin=settings.allow_origin)
    app.add_middleware(RequestLogMiddleware, metrics=service.metrics)
    app.add_middleware(SecurityHeadersMiddleware, stopping=lambda: not service.registry.ready)
    if tracing is not None:
        app.add_middleware(TracingMiddleware, provider=tracing)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
        app.add_middleware(ForwardedHostMiddleware, trusted=settings.trusted_proxies)


def _lifespan(
    service: Service, given: Sequence[TextTranslator] | None, tracing: TracerProvider | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: everything slow in it runs in threads."""
    registry = service.registry

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            if given is None:
                await anyio.to_thread.run_sync(registry.store.start, service.settings.models or (None,))
            await anyio.to_thread.run_sync(registry.start, given or ())
            await service.documents.start()
            _logger.info("ready", models=[entry.name for entry in registry.store.entries])
            yield
        finally:
            registry.stop_accepting()
            await service.documents.close()
            await anyio.to_thread.run_sync(registry.close)
            await anyio.to_thread.run_sync(service.access.close)
            if tracing is not None:
                await anyio.to_thread.run_sync(tracing.shutdown)
            await anyio.to_thread.run_sync(service.glossaries.close)
            if service.suggestions is not None:
                await anyio.to_thread.run_sync(service.suggestions.close)
            _logger.info("closed")

    return lifespan


def _openapi(generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Generate the OpenAPI document, with the media type that problem details really have.

    What FastAPI adds of itself for a path with an id, its own 422, is taken out: any string may be an id.
    """
    document = generate()
    for operations_of_path in document["paths"].values():
        for operation in operations_of_path.values():
            replies: dict[str, Any] = operation.get("responses", {})
            for status, reply in list(replies.items()):
                content: Mapping[str, Any] = reply.get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/ProblemReply"):
                    reply["content"] = {"application/problem+json": {"schema": schema}}
                elif schema.get("$ref", "").endswith("/HTTPValidationError"):
                    del replies[status]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document
