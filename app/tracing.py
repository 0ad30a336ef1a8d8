"""OpenTelemetry spans of requests, where an operator wants them; no text, no query string and no key is in a span.

The libraries are the extra ``tracing``; without the setting ``otlp_endpoint`` none of them is imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

_SERVICE = "dragoman"
_INSTALL = "needs the extra tracing: pip install 'dragoman[tracing]'"


def create_tracing(endpoint: str, version: str) -> TracerProvider:
    """Return a provider that sends spans to an OTLP collector over HTTP, such as http://localhost:4318/v1/traces.

    Raises:
        ConfigurationError: the libraries are not installed.
    """
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporters = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as exception:
        raise ConfigurationError("otlp_endpoint", _INSTALL, endpoint) from exception
    return create_provider(BatchSpanProcessor(exporters.OTLPSpanExporter(endpoint=endpoint)), version)


def create_provider(processor: SpanProcessor, version: str) -> TracerProvider:
    """Return a provider of this service whose spans go to ``processor``."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create({"service.name": _SERVICE, "service.version": version})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


class TracingMiddleware:
    """Makes one span of each request, below the caller's span if the request names it (W3C trace context)."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.app = app
        self.tracer = provider.get_tracer(_SERVICE)
        self.propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode

        method: str = scope["method"]
        parent = self.propagator.extract(dict(Headers(scope=scope)))
        with self.tracer.start_as_current_span(
            method,
            context=parent,
            kind=SpanKind.SERVER,
            record_exception=False,  # its message may quote a text
            set_status_on_exception=False,
        ) as span:
            status = 0

            async def send_and_note(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    for name, value in message["headers"]:
                        if name.lower() == b"x-metered-usage":
                            span.set_attribute("dragoman.characters", int(value))
                await send(message)

            try:
                await self.app(scope, receive, send_and_note)
            finally:
                # Names are those of OpenTelemetry's semantic conventions for HTTP. The path itself stays out.
                route: str | None = getattr(scope.get("route"), "path", None)
                span.set_attribute("http.request.method", method)
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                if status:
                    span.set_attribute("http.response.status_code", status)
                if not status or status >= 500:
                    span.set_status(StatusCode.ERROR)
