"""Health, metrics, documentation, version, and the life of an application from loading to closing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import app.main
from app.settings import Settings
from model import CheckpointError, EngineClosedError, EngineStats

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FRENCH = {"q": "été", "source": "fr", "target": "en"}


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    """Return each sample of /metrics by its name and label values."""
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


# Life


def test_the_models_are_loaded_warmed_up_and_closed(monkeypatch: pytest.MonkeyPatch, stub: StubTranslator) -> None:
    asked: list[Settings] = []

    def load(settings: Settings, observer: object, path: object) -> StubTranslator:
        assert path is None
        assert hasattr(observer, "on_step")
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()  # off the event loop
        asked.append(settings)
        return stub

    monkeypatch.setattr(app.main, "load_translator", load)
    settings = Settings(max_texts=7)
    application = app.main.create_app(settings)
    outside = TestClient(application)  # no lifespan
    assert outside.get("/readyz").status_code == 503
    assert outside.get("/livez").status_code == 200
    assert asked == []
    with TestClient(application) as client:
        assert asked == [settings]
        assert stub.calls == ["warm_up"]
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.post("/translate", json=FRENCH).status_code == 200
    assert stub.calls == ["warm_up", "close"]
    assert outside.get("/readyz").status_code == 503
    assert outside.get("/livez").status_code == 200


def test_translators_that_were_given_stay_open(client: TestClient, stub: StubTranslator) -> None:
    client.post("/translate", json=FRENCH)
    client.__exit__()
    assert stub.calls == ["warm_up"]


def test_not_ready_before_it_is_warm(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    application = make_app()
    seen: list[int] = []
    stub.warm_up = lambda: seen.append(TestClient(application).get("/readyz").status_code)  # type: ignore[method-assign]
    with TestClient(application) as client:
        assert seen == [503]
        assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/translate"),
        ("POST", "/detect"),
        ("GET", "/languages"),
        ("GET", "/health"),
        ("GET", "/frontend/settings"),
        ("POST", "/v1/translate"),
        ("POST", "/v1/detect"),
        ("GET", "/v1/languages"),
        ("GET", "/v1/models"),
    ],
)
def test_what_is_not_ready_asks_to_come_back(make_app: Callable[..., FastAPI], method: str, path: str) -> None:
    body = {"texts": "x", **FRENCH} if not path.startswith("/v1") else {"texts": "x"}
    if path == "/v1/translate":
        body["target"] = "en"
    reply = TestClient(make_app()).request(method, path, json=body if method == "POST" else None)
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "5"
    assert "the service is starting or shutting down" in reply.text


def test_a_dead_engine_is_not_ready(client: TestClient, stub: StubTranslator) -> None:
    stub.engine = replace(stub.engine, accepting=False)
    assert client.get("/readyz").status_code == 503
    assert samples(client)[("dragoman_ready",)] == 0


def test_a_model_that_does_not_load_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> StubTranslator:
        raise CheckpointError("no such folder")

    monkeypatch.setattr(app.main, "load_translator", load)
    with pytest.raises(CheckpointError, match="no such folder"), TestClient(app.main.create_app(Settings())):
        raise AssertionError("it started")


# Metrics


def test_metrics_count_requests_by_route_and_never_by_path(client: TestClient) -> None:
    client.post("/translate", json=FRENCH)
    client.post("/translate", json={})
    client.get("/translate")
    client.get("/wp-login.php")
    client.request("BREW", "/translate?q=coffee")
    found = samples(client)
    requests = {key[1:]: value for key, value in found.items() if key[0] == "dragoman_http_requests_total"}
    assert requests == {
        ("POST", "/translate", "200"): 1,
        ("POST", "/translate", "400"): 1,
        ("GET", "/translate", "405"): 1,
        ("GET", "unmatched", "404"): 1,
        ("other", "/translate", "405"): 1,
    }
    assert found[("dragoman_http_request_seconds_count", "/translate")] == 4
    assert found[("dragoman_http_requests_in_progress",)] == 1  # the scrape itself


def test_metrics_count_texts(client: TestClient) -> None:
    client.post("/v1/translate", json={"texts": ["été", "hiver", "😀"], "source": "fr", "target": "en"})
    found = samples(client)
    assert found[("dragoman_texts_total", "stub", "end")] == 2
    assert found[("dragoman_texts_total", "stub", "unchanged")] == 1
    assert found[("dragoman_characters_total", "stub")] == 9


def test_metrics_show_the_engine(client: TestClient, stub: StubTranslator) -> None:
    stub.engine = EngineStats(queued_requests=3, running_rows=8, steps=5, generated_tokens=40, finished_requests=2)
    found = samples(client)
    assert found[("dragoman_engine_queued_requests", "stub")] == 3
    assert found[("dragoman_engine_running_rows", "stub")] == 8
    assert found[("dragoman_engine_steps_total", "stub")] == 5
    assert found[("dragoman_engine_generated_tokens_total", "stub")] == 40
    assert found[("dragoman_engine_requests_total", "stub", "finished")] == 2
    assert found[("dragoman_engine_accepting", "stub")] == 1
    assert found[("dragoman_ready",)] == 1


def test_metrics_watch_every_step_of_the_engine(make_app: Callable[..., FastAPI]) -> None:
    application = make_app()
    metrics = application.state.service.metrics
    metrics.on_step(3, 0.002)
    metrics.on_step(100, 0.002)
    metrics.on_admitted(0.5)
    metrics.on_finished("finished", 1.5, 10, 12)
    with TestClient(application) as client:
        found = samples(client)
    assert found[("dragoman_engine_batch_rows_bucket", "2.0")] == 0
    assert found[("dragoman_engine_batch_rows_bucket", "4.0")] == 1
    assert found[("dragoman_engine_batch_rows_sum",)] == 103
    assert found[("dragoman_engine_step_seconds_count",)] == 2
    assert found[("dragoman_engine_queue_seconds_sum",)] == 0.5
    assert found[("dragoman_engine_segment_seconds_sum", "finished")] == 1.5
    assert found[("dragoman_engine_segment_tokens_sum", "target")] == 12


def test_applications_do_not_share_their_numbers(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app()) as first, TestClient(make_app()) as second:
        first.post("/translate", json=FRENCH)
        assert ("dragoman_texts_total", "stub", "end") in samples(first)
        assert ("dragoman_texts_total", "stub", "end") not in samples(second)


# Identity of requests


@pytest.mark.parametrize("path", ["/livez", "/nothing", "/translate", "/v1/translate", "/metrics"])
def test_every_reply_has_an_id(client: TestClient, path: str) -> None:
    first, second = client.get(path).headers, client.get(path).headers
    assert re.fullmatch(r"[0-9a-f]{32}", first["x-request-id"])
    assert first["x-trace-id"] == first["x-request-id"]
    assert second["x-request-id"] != first["x-request-id"]


def test_a_sane_id_is_taken_over(client: TestClient) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "a1-B2_c3.d4:e5"}).headers["x-request-id"] == "a1-B2_c3.d4:e5"


@pytest.mark.parametrize("given", ["", "a b", 'x"y', "a" * 129, "{}", "é"])
def test_an_odd_id_is_replaced(client: TestClient, given: str) -> None:
    reply = client.get("/livez", headers=[(b"X-Request-ID", given.encode("latin-1"))])
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


# Documentation


def test_the_documentation_needs_no_other_host(client: TestClient) -> None:
    reply = client.get("/docs")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert re.findall(r"https?:|//[a-z]+\.|@import|url\(", reply.text) == []
    assert 'fetch("openapi.json")' in reply.text


def test_the_openapi_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {
        "/v1/translate", "/v1/detect", "/v1/languages", "/v1/models",
        "/translate", "/detect", "/languages", "/health", "/frontend/settings",
        "/livez", "/readyz", "/metrics", "/version",
    } <= set(document["paths"])  # fmt: skip
    assert "HTTPValidationError" not in json.dumps(document)
    replies = document["paths"]["/v1/translate"]["post"]["responses"]
    assert {status: list(reply["content"]) for status, reply in replies.items()} == {
        "200": ["application/json", "text/event-stream"],
        **{
            status: ["application/problem+json"]
            for status in ("400", "401", "403", "404", "413", "415", "422", "429", "503", "504")
        },
    }
    libre = document["paths"]["/translate"]["post"]["requestBody"]["content"]
    assert set(libre) == {"application/json", "application/x-www-form-urlencoded", "multipart/form-data"}
    assert libre["application/json"]["schema"]["properties"]["format"]["enum"] == ["text", "html"]
    names = set(document["components"]["schemas"])
    used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert used == names


def test_the_version(client: TestClient) -> None:
    reply = client.get("/version").json()
    assert reply["name"] == "dragoman"
    assert re.match(r"\d+\.\d+", reply["version"])


def test_closing_says_so_to_those_who_come_later(client: TestClient) -> None:
    client.__exit__()
    assert client.post("/translate", json=FRENCH).json() == {"error": "the service is starting or shutting down"}
    assert EngineClosedError.__name__ not in client.post("/v1/translate", json={"texts": "x", "target": "en"}).text
