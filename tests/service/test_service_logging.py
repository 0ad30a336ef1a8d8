"""The logs are JSON lines with request ids, and no text of a request or of its translation is ever in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.logging import configure_logging

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

SECRET = "Geheimnis Zebrastreifen"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged since the last look, and check that nothing else was printed."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_one_line_for_a_request(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    reply = client.post("/translate", json={"q": SECRET, "source": "fr", "target": "en"})
    [line] = lines(capsys)
    assert line.pop("milliseconds") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": reply.headers["x-request-id"],
        "method": "POST",
        "route": "/translate",
        "status": 200,
    }


def test_no_text_in_the_logs(
    make_app: Callable[..., FastAPI], stub: StubTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"q": SECRET, "source": "fr", "target": "en"}
    native = {"texts": SECRET, "source": "fr", "target": "en"}
    with TestClient(make_app(log_level="debug", max_characters=1000)) as client:
        client.post("/translate", json=fields)
        client.post("/translate", data=fields)
        client.post("/translate?" + urlencode(fields))
        client.post("/translate", json={**fields, "q": SECRET * 100})
        client.post("/translate", json={**fields, "source": SECRET, "format": SECRET, "api_key": SECRET})
        client.post("/translate", content=json.dumps(fields)[:-1], headers={"Content-Type": "application/json"})
        client.post("/detect", json={"q": SECRET})
        client.post("/v1/translate", json=native)
        client.post("/v1/translate", json={**native, SECRET: SECRET, "target_prefix": SECRET})
        client.post("/v1/translate", json={**native, "texts": [SECRET, 5]})
        client.get(f"/{SECRET}?q={SECRET}")
        client.get("/livez", headers={"X-Request-ID": SECRET, "Authorization": SECRET})
        stub.refuses_after, stub.refusal = 0, ValueError(f"cannot encode {SECRET}")
        stub.refusal.__cause__ = KeyError(SECRET)
        client.post("/v1/translate", json=native)
    written = capsys.readouterr().err
    assert written.count('"event": "request"') == 13
    for word in SECRET.split():
        assert word not in written


def test_a_failure_is_logged_with_its_place_and_without_its_message(
    make_app: Callable[..., FastAPI], stub: StubTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.refuses_after, stub.refusal = 0, ValueError(SECRET)
    stub.refusal.__cause__ = KeyError(SECRET)
    with TestClient(make_app()) as client:
        capsys.readouterr()
        reply = client.post("/v1/translate", json={"texts": "x", "source": "fr", "target": "en"})
        failure, request = lines(capsys)
    assert (failure["event"], failure["level"], request["status"]) == ("request failed", "error", 500)
    assert failure["request_id"] == request["request_id"] == reply.headers["x-request-id"]
    assert [exception["type"] for exception in failure["exception"]] == ["ValueError", "KeyError"]
    assert failure["exception"][0]["stack"][-1].endswith(" submit")


def test_quieter_levels(make_app: Callable[..., FastAPI], capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(make_app(log_level="warning")) as client:
        client.get("/livez")
    assert lines(capsys) == []


def test_messages_of_the_server_and_the_model_are_json_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("model.engine.worker").exception("a step failed")
    started, failed = lines(capsys)
    assert (started["event"], started["logger"]) == ("Started server process [7]", "uvicorn.error")
    assert (failed["event"], failed["level"], failed["logger"]) == ("a step failed", "error", "model.engine.worker")
    assert failed["exception"][0]["type"] == "ValueError"
    assert SECRET not in json.dumps(failed)


def test_the_access_log_of_the_server_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug")
    logging.getLogger("uvicorn.access").info('"POST /translate?q=%s HTTP/1.1" 200', SECRET)
    assert lines(capsys) == []
