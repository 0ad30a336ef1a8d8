"""Models over HTTP: who may load them and from where, what is listed, and that swapping one loses no request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import app.main
from app.keys import ApiKey, KeyStore
from app.main import create_app
from app.settings import Settings
from tests.service.conftest import StubTranslator
from tests.service.stub_models import MEGABYTE, StubShelf

ADMIN, OTHER = "dragoman_admin", "dragoman_other"
HEADERS = {"X-API-Key": ADMIN}
DIRECTIONS = {"default": ("fr", "en"), "german": ("en", "de"), "newer": ("en", "de"), "huge": ("en", "ja")}


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubShelf]:
    made = StubShelf(DIRECTIONS, {"huge": 50 * MEGABYTE})
    monkeypatch.setattr(app.main, "load_translator", lambda _settings, _observer, path: made.load(path))
    monkeypatch.setattr(app.main, "estimate_memory", lambda _settings, path: made.estimate(path))
    yield made
    for gate in made.gates.values():
        gate.set()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with models, beside one that is nobody's business."""
    models = tmp_path / "models"
    for name in ("german", "newer", "huge", "empty"):
        (models / name).mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (models / "leading-out").symlink_to(tmp_path / "secret")
    (models / "alias").symlink_to(models / "german")
    (models / "with-a-link").mkdir()
    (models / "with-a-link" / "weights.safetensors").symlink_to(tmp_path / "secret" / "x")
    (models / "file").write_text("x")
    return models


@pytest.fixture
def start(shelf: StubShelf, folders: Path, tmp_path: Path) -> Callable[..., FastAPI]:
    """Make an application with an admin key, another key, and a folder of models; the shelf has what is loaded."""
    assert shelf.loaded == []

    def make(**settings: Any) -> FastAPI:
        keys = KeyStore(tmp_path / "data")
        now = time.time()
        keys.create(ApiKey("1", "admin", now, is_admin=True), ADMIN)
        keys.create(ApiKey("2", "other", now), OTHER)
        keys.close()
        values = {"cache_megabytes": 0, "data_directory": tmp_path / "data", "models_directory": folders, **settings}
        return create_app(Settings(**values))

    return make


def load(client: TestClient, path: str, status: int = 201, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/models", json={"path": path, **body}, headers=HEADERS)
    assert reply.status_code == status, reply.text
    found: dict[str, Any] = reply.json()
    return found


def states(client: TestClient) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get("/v1/models").json()["models"]}


def translate(client: TestClient, target: str = "de", source: str = "en", text: str = "x") -> dict[str, Any]:
    reply = client.post("/v1/translate", json={"texts": text, "source": source, "target": target})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


# Life of a model


def test_a_model_is_loaded_used_swapped_and_unloaded(start: Callable[..., FastAPI], shelf: StubShelf) -> None:
    with TestClient(start()) as client:
        assert client.post("/v1/translate", json={"texts": "x", "source": "en", "target": "de"}).status_code == 422
        made = load(client, "german")
        assert made == {
            "name": "german",
            "languages": ["en", "de"],
            "source_languages": ["en"],
            "target_languages": ["de"],
            "default": False,
            "state": "loaded",
            "memory_bytes": MEGABYTE,
            "last_used_at": None,
            "info": {"device": "none"},
        }
        assert translate(client)["model"] == "german"
        assert translate(client, source="fr")["translations"][0]["via"] == "en"
        used = client.get("/v1/models").json()["models"][1]["last_used_at"]
        assert used.endswith("Z")
        assert load(client, "newer", 200, name="german")["name"] == "german"
        assert states(client) == {"default": "loaded", "german": "loaded"}
        assert translate(client)["model"] == "german"
        assert len(shelf.loaded[2].submitted) == 1
        assert client.delete("/v1/models/german", headers=HEADERS).status_code == 204
        assert states(client) == {"default": "loaded"}
        assert client.post("/v1/translate", json={"texts": "x", "source": "en", "target": "de"}).status_code == 422
        assert client.delete("/v1/models/german", headers=HEADERS).status_code == 404
        assert client.delete("/v1/models/default", headers=HEADERS).status_code == 409
        found = samples(client)
        assert found[("dragoman_model_events_total", "loaded")] == 3
        assert found[("dragoman_models_loaded",)] == 1
        assert found[("dragoman_model_bytes",)] == MEGABYTE
    assert [each.calls for each in shelf.loaded] == [["warm_up", "close"]] * 3


def test_running_requests_are_finished_before_a_model_is_closed(
    start: Callable[..., FastAPI], shelf: StubShelf
) -> None:
    with TestClient(start()) as client, ThreadPoolExecutor(1) as pool:
        load(client, "german")
        german = shelf.loaded[1]
        german.holds = True
        running = pool.submit(translate, client)
        assert german.arrived.wait(10)
        assert client.delete("/v1/models/german", headers=HEADERS).status_code == 204
        assert states(client) == {"default": "loaded"}
        assert german.calls == ["warm_up"]
        german.submitted[0].finish()
        assert running.result(10)["translations"][0]["text"] == "<de>x"
    assert german.calls == ["warm_up", "close"]


def test_swapping_under_many_requests_loses_none(start: Callable[..., FastAPI], shelf: StubShelf) -> None:
    done = threading.Event()

    def ask(client: TestClient, source: str) -> int:
        count = 0
        while not done.is_set():
            translate(client, source=source)
            count += 1
        return count

    with TestClient(start()) as client, ThreadPoolExecutor(4) as pool:
        load(client, "german")
        running = [pool.submit(ask, client, source) for source in ("en", "fr", "en", "fr")]
        for number in range(8):
            load(client, ("newer", "german")[number % 2], 200, name="german")
        done.set()
        assert all(each.result(20) for each in running)
    assert {tuple(each.calls) for each in shelf.loaded} == {("warm_up", "close")}
    assert len(shelf.loaded) == 10


def test_a_document_goes_on_with_the_new_model(start: Callable[..., FastAPI], shelf: StubShelf) -> None:
    lines = [f"{number} " + "word " * 380 for number in range(12)]  # each a piece, and four of them at once
    with TestClient(start()) as client:
        load(client, "german")
        old = shelf.loaded[1]
        old.holds = True
        form = {"source": "en", "target": "de"}
        sent = client.post("/v1/documents", data=form, files={"file": ("a.txt", "\n".join(lines))})
        assert sent.status_code == 202, sent.text
        for _ in range(4):
            assert old.arrivals.acquire(timeout=10)
        load(client, "newer", 200, name="german")
        assert old.calls == ["warm_up"]
        for work in old.submitted:
            work.finish()
        new = shelf.loaded[2]
        for _ in range(8):
            assert new.arrivals.acquire(timeout=10)
        assert len(old.submitted) == 4
    assert old.calls == ["warm_up", "close"]


def test_a_request_waits_for_its_model_within_its_deadline(start: Callable[..., FastAPI], shelf: StubShelf) -> None:
    with TestClient(start(model_memory_megabytes=2)) as client, ThreadPoolExecutor(1) as pool:
        load(client, "german")
        load(client, "newer")
        assert states(client) == {"default": "loaded", "german": "unloaded", "newer": "loaded"}
        shelf.gates["german"] = threading.Event()
        body = {"texts": "x", "source": "en", "target": "de", "model": "german"}
        assert client.post("/v1/translate", json={**body, "deadline_ms": 1}).status_code == 504
        running = pool.submit(client.post, "/v1/translate", json=body)
        while shelf.counts["german"] != 2:
            assert shelf.begun.acquire(timeout=10)
        assert states(client)["german"] == "loading"
        assert client.get("/readyz").status_code == 200
        shelf.gates["german"].set()
        assert running.result(10).json()["model"] == "german"
        assert states(client) == {"default": "loaded", "german": "loaded", "newer": "unloaded"}
        assert load(client, "huge", 422)["type"] == "urn:dragoman:problem:model-too-large"


# Who may, and from where


def test_only_an_admin_key_may(start: Callable[..., FastAPI]) -> None:
    with TestClient(start()) as client:
        for headers, status, slug in (
            ({}, 401, "missing-key"),
            ({"X-API-Key": OTHER}, 403, "not-admin"),
            ({"X-API-Key": "nobody's"}, 403, "invalid-key"),
        ):
            for reply in (
                client.post("/v1/models", json={"path": "german"}, headers=headers),
                client.delete("/v1/models/german", headers=headers),
            ):
                assert reply.status_code == status, reply.text
                assert reply.json()["type"] == f"urn:dragoman:problem:{slug}"
        assert client.get("/v1/models").status_code == 200


def test_without_an_admin_key_nobody_may(
    make_app: Callable[..., FastAPI], stub: StubTranslator, tmp_path: Path
) -> None:
    for settings in ({}, {"data_directory": tmp_path}):
        with TestClient(make_app([stub], models_directory=tmp_path, **settings)) as client:
            reply = client.post("/v1/models", json={"path": "x"}, headers=HEADERS)
            assert reply.status_code == 403
            assert "no admin key is set up here" in reply.json()["detail"]


def test_a_disabled_or_expired_admin_key_is_none(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path)
    assert not keys.has_admin()
    keys.create(ApiKey("1", "old", 0.0, expires=1.0, is_admin=True), "a")
    keys.create(ApiKey("2", "off", 0.0, disabled=True, is_admin=True), "b")
    keys.create(ApiKey("3", "usual", 0.0), "c")
    assert not keys.has_admin()
    keys.set_disabled("2", False)
    assert keys.has_admin()
    keys.close()


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../secret", "../models", "nothing", "file", "leading-out", "with-a-link", "german/../..", "a\0b",
     "/etc", "german/../../secret", "x" * 5000],
)  # fmt: skip
def test_only_folders_below_the_models_directory(start: Callable[..., FastAPI], shelf: StubShelf, path: str) -> None:
    with TestClient(start()) as client:
        reply = load(client, path, 422)
        assert reply["errors"][0]["pointer"] == "#/path"
        assert "must be a folder below the models' directory" in reply["detail"]
    assert shelf.counts == {"default": 1}


def test_links_within_it_and_whole_paths_are_fine(start: Callable[..., FastAPI], folders: Path) -> None:
    with TestClient(start()) as client:
        assert load(client, "alias")["name"] == "german"
        assert load(client, str(folders / "newer"))["name"] == "newer"


def test_what_is_refused_with_a_reason(start: Callable[..., FastAPI], shelf: StubShelf) -> None:
    with TestClient(start()) as client:
        assert load(client, "empty", 422)["detail"] == "empty is no model"
        shelf.broken.add("german")
        assert load(client, "german", 422)["type"] == "urn:dragoman:problem:unusable-model"
        assert load(client, "newer", 422, name=" ")["errors"][0]["pointer"] == "#/name"
        assert load(client, "newer", 422, name="a\nb")["errors"][0]["pointer"] == "#/name"
        assert states(client) == {"default": "loaded"}
        assert samples(client)[("dragoman_model_events_total", "failed")] == 1


def test_without_a_directory_nothing_is_loaded(start: Callable[..., FastAPI]) -> None:
    with TestClient(start(models_directory=None)) as client:
        assert load(client, "german", 403)["type"] == "urn:dragoman:problem:models-disabled"
