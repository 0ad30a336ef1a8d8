"""Spans of requests: one each, below the caller's, with what is measured and never with what was sent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from starlette.testclient import TestClient

import app.main
from app.tracing import create_provider, create_tracing
from model import ConfigurationError

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

SECRET = "Geheimnis"
NATIVE = {"texts": SECRET, "source": "fr", "target": "en"}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of an application with an endpoint go instead."""
    exporter = InMemorySpanExporter()

    def create(endpoint: str, version: str) -> Any:
        assert endpoint == "http://collector.example/v1/traces"
        return create_provider(SimpleSpanProcessor(exporter), version)

    monkeypatch.setattr(app.main, "create_tracing", create)
    return exporter


@pytest.fixture
def traced(make_app: Callable[..., FastAPI], exporter: InMemorySpanExporter) -> FastAPI:
    assert exporter.get_finished_spans() == ()
    return make_app(otlp_endpoint="http://collector.example/v1/traces")


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_one_span_for_a_request(traced: FastAPI, exporter: InMemorySpanExporter) -> None:
    with TestClient(traced) as client:
        client.post("/v1/translate", json=NATIVE)
    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("POST /v1/translate", SpanKind.SERVER, None)
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/v1/translate",
        "http.response.status_code": 200,
        "dragoman.characters": len(SECRET),
    }
    assert span.resource.attributes["service.name"] == "dragoman"
    assert span.status.status_code is StatusCode.UNSET


def test_the_callers_span_is_the_parent(traced: FastAPI, exporter: InMemorySpanExporter) -> None:
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # the example of W3C's recommendation
    with TestClient(traced) as client:
        client.get("/livez", headers={"traceparent": f"00-{trace_id}-{span_id}-01"})
    [span] = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == span_id
    assert f"{span.context.trace_id:032x}" == trace_id


def test_failures_are_marked(traced: FastAPI, exporter: InMemorySpanExporter, stub: StubTranslator) -> None:
    with TestClient(traced, raise_server_exceptions=False) as client:
        client.post("/v1/translate", json={**NATIVE, "target": "zz"})
        stub.refuses_after, stub.refusal = 0, ValueError(SECRET)
        client.post("/v1/translate", json=NATIVE)
    wrong, failed = exporter.get_finished_spans()
    assert (wrong.status.status_code, attributes(wrong)["http.response.status_code"]) == (StatusCode.UNSET, 422)
    assert (failed.status.status_code, attributes(failed)["http.response.status_code"]) == (StatusCode.ERROR, 500)


def test_no_span_holds_what_was_sent(traced: FastAPI, exporter: InMemorySpanExporter, stub: StubTranslator) -> None:
    with TestClient(traced, raise_server_exceptions=False) as client:
        client.post(f"/translate?q={SECRET}&source=fr&target=en&api_key={SECRET}")
        client.get(f"/{SECRET}?q={SECRET}", headers={"Authorization": f"Bearer {SECRET}", "User-Agent": SECRET})
        client.post("/v1/translate", json=NATIVE, headers={"tracestate": f"a={SECRET}", "baggage": f"a={SECRET}"})
        stub.refuses_after, stub.refusal = 0, ValueError(SECRET)
        client.post("/v1/translate", json=NATIVE)
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["POST /translate", "GET", "POST /v1/translate", "POST /v1/translate"]
    assert all(SECRET not in span.to_json() for span in spans)


def test_without_an_endpoint_nothing_is_traced(make_app: Callable[..., FastAPI]) -> None:
    names = [middleware.cls.__name__ for middleware in make_app().user_middleware]  # type: ignore[attr-defined]
    assert "RequestLogMiddleware" in names
    assert "TracingMiddleware" not in names


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(
        ConfigurationError, match=r"otlp_endpoint needs the extra tracing: pip install 'dragoman\[tracing\]'"
    ):
        create_tracing("http://localhost:4318/v1/traces", "1")
