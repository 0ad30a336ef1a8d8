"""What people send stays out of the logs, the metrics and the disk, whatever happens to the request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.database import DATABASE_NAME
from app.keys import ApiKey, generate_key
from model import DecodingError, InvalidTextError

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

SECRETS = ("Zebrastraße", "Quittengelée", "Fingerhut")
"""In a text, in a text that fails, and in other fields."""
ADDRESS = "203.0.113.77"


def send_everything(client: TestClient, stub: StubTranslator, key: str) -> int:
    """Send texts in all ways that succeed and fail, and return how many requests that were."""
    text, failing, other = SECRETS
    libre = {"q": text, "source": "fr", "target": "en"}
    native = {"texts": [text, f"Ein {text}."], "source": "fr", "target": "en"}
    deepl = {"text": [text], "source_lang": "FR", "target_lang": "EN-GB"}
    bearer = {"Authorization": f"Bearer {key}"}
    replies = [
        client.post("/v1/translate", json=native, headers=bearer),
        client.post("/v1/translate", json=native, headers=bearer),  # from the cache
        client.post("/v1/translate", json={**native, "stream": True}, headers=bearer),
        client.post("/v1/translate", json=native, headers={"X-API-Key": f"{key}{other}"}),
        client.post("/v1/detect", json={"texts": text}, headers=bearer),
        client.post("/translate", json={**libre, "api_key": key}),
        client.post("/translate", data={**libre, "api_key": key}),
        client.post(f"/translate?{urlencode({**libre, 'api_key': key})}"),
        client.post("/translate", json={**libre, "target": other, "api_key": key}),
        client.post("/translate", content=json.dumps(libre)[:-1], headers={"Content-Type": "application/json"}),
        client.post("/detect", data={"q": text}),
        client.post("/v2/translate", json=deepl, headers={"Authorization": f"DeepL-Auth-Key {key}"}),
        client.post("/v2/translate", json={**deepl, "context": other, "target_lang": other}, headers=bearer),
        client.get(
            f"/{other}?q={other}", headers={"User-Agent": other, "Referer": other, "X-Request-ID": f"{other} {other}"}
        ),
    ]
    stub.refuses_after = 0
    for refusal in (ValueError(failing), DecodingError(failing), InvalidTextError("text", "must be good", failing)):
        stub.refusal = refusal
        stub.refusal.__cause__ = KeyError(failing)
        for path, body in (("/v1/translate", native), ("/translate", libre), ("/v2/translate", deepl)):
            new = {
                name: failing if name == "q" else [failing] if "text" in name else value for name, value in body.items()
            }
            replies.append(client.post(path, json=new, headers=bearer))
    assert [reply.status_code for reply in replies[:3]] == [200, 200, 200]
    assert {reply.status_code for reply in replies[-9:]} <= {400, 422, 500, 503}
    return len(replies)


@pytest.mark.parametrize("log_level", ["debug", "info"])
def test_nothing_that_was_sent_is_written_down(
    make_app: Callable[..., FastAPI],
    stub: StubTranslator,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    log_level: str,
) -> None:
    data, temporary = tmp_path / "data", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"data_directory": data, "log_level": log_level, "characters_per_minute": 10_000}
    application = make_app(**settings)
    key = generate_key()
    with TestClient(application, client=(ADDRESS, 4321), raise_server_exceptions=False) as client:
        application.state.service.access.keys.create(ApiKey(id="k1", name="first", created=time.time()), key)
        number = send_everything(client, stub, key)
        metrics = client.get("/metrics").text
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    captured = capfd.readouterr()
    assert captured.err.count('"event": "request"') == number + 1
    assert data / DATABASE_NAME in files
    written = {"the log": captured.err, "the output": captured.out, "the metrics": metrics}
    written |= {str(path): content.decode("latin-1") for path, content in files.items()}
    for forbidden in (*SECRETS, key, key.removeprefix("dragoman_"), ADDRESS):
        spellings = {forbidden, json.dumps(forbidden)[1:-1], forbidden.encode().decode("latin-1")}
        for place, content in written.items():
            assert not any(spelling in content for spelling in spellings), (forbidden, place)
    assert "first" not in metrics
    assert "k1" not in metrics


def test_the_cache_is_in_memory_only(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    with TestClient(application) as client:
        before = {path.name for path in tmp_path.iterdir()}
        client.post("/v1/translate", json={"texts": SECRETS[0], "source": "fr", "target": "en"})
        assert {path.name for path in tmp_path.iterdir()} == before
