"""LibreTranslate's own client against a running service, and by plain HTTP what that client does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi import FastAPI
from libretranslatepy import LibreTranslateAPI  # type: ignore[import-untyped]
from starlette.testclient import TestClient

import app.suggestions
from app.keys import ApiKey
from model import ConfigurationError
from tests.service.line_document import use_lines
from tests.service.running_server import serve

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FILE = ("lettre.lines", "été\nhiver")
FIELDS = {"source": "fr", "target": "en"}


@pytest.fixture
def url(make_app: Callable[..., FastAPI]) -> Iterator[str]:
    application = make_app()
    use_lines(application)
    with serve(application) as address:
        yield address


@pytest.fixture
def lines(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    application = make_app()
    use_lines(application)
    with TestClient(application) as client:
        yield client


def refusal(reply: httpx2.Response) -> tuple[int, str]:
    assert set(reply.json()) == {"error"}
    return reply.status_code, reply.json()["error"]


# The client


def test_the_client_translates_detects_and_lists(url: str) -> None:
    client = LibreTranslateAPI(url)
    assert client.translate("été & hiver = 1+1", "fr", "en") == "<en>été & hiver = 1+1"
    assert client.translate("été", "auto", "en") == "<en>été"
    assert client.detect("été") == [{"confidence": 75.0, "language": "fr"}, {"confidence": 25.0, "language": "en"}]
    assert client.languages() == [
        {"code": "en", "name": "English", "targets": ["en", "fr"]},
        {"code": "fr", "name": "French", "targets": ["en", "fr"]},
    ]


def test_the_client_sends_its_key(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path, require_key=True)
    application.state.service.access.keys.create(ApiKey("k", "k", 0.0), "secret")
    with serve(application) as url:
        assert LibreTranslateAPI(url, "secret").translate("été", "fr", "en") == "<en>été"
        assert httpx2.get(f"{url}/frontend/settings").json()["keyRequired"] is True


# Files


def test_a_file_comes_back_by_its_address(url: str) -> None:
    reply = httpx2.post(f"{url}/translate_file", data=FIELDS, files={"file": FILE})
    assert reply.status_code == 200
    assert set(reply.json()) == {"translatedFileUrl"}
    address = reply.json()["translatedFileUrl"]
    assert address.startswith(f"{url}/download_file/")
    assert address.endswith(".lettre_en.lines")
    for _ in range(2):
        result = httpx2.get(address)
        assert result.content.decode() == "2\n<en>été\n<en>hiver"
        assert result.headers["content-disposition"] == 'attachment; filename="lettre_en.lines"'


def test_the_language_of_a_file_may_be_detected(lines: TestClient, stub: StubTranslator) -> None:
    reply = lines.post("/translate_file", data={"source": "auto", "target": "en"}, files={"file": FILE})
    assert reply.status_code == 200
    assert {work.source for work in stub.submitted} == {"fr"}


def test_parameters_may_stand_in_the_query_string(lines: TestClient) -> None:
    assert lines.post("/translate_file?source=fr&target=en", files={"file": FILE}).status_code == 200


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        (None, FIELDS, "Invalid request: missing file parameter"),
        (FILE, {"target": "en"}, "Invalid request: missing source parameter"),
        (FILE, {"source": "fr"}, "Invalid request: missing target parameter"),
        (("x.lines", ""), FIELDS, "Invalid request: empty file"),
        (("x.exe", "x"), FIELDS, "Invalid request: file format not supported"),
        (FILE, {**FIELDS, "source": "zz"}, "zz is not supported"),
        (FILE, {**FIELDS, "target": "yy"}, "yy is not supported"),
        (("x.lines", "BOMB"), FIELDS, "document must unpack to at most 1000 bytes, got 1000000000"),
    ],
)
def test_refusals(lines: TestClient, file: tuple[str, str] | None, fields: dict[str, str], said: str) -> None:
    files: dict[str, Any] = {"file": file} if file else {"other": (None, "x")}
    assert refusal(lines.post("/translate_file", data=fields, files=files)) == (400, said)


def test_a_failure_of_ours_is_500_and_leaves_nothing(lines: TestClient, stub: StubTranslator) -> None:
    stub.refusal, stub.refuses_after = RuntimeError("secret"), 0
    reply = lines.post("/translate_file", data=FIELDS, files={"file": FILE})
    assert refusal(reply) == (500, "The service failed to translate this document.")
    store = lines.app.state.service.documents._store  # type: ignore[attr-defined]
    assert list(store.directory.iterdir()) == []


def test_a_client_that_leaves_stops_the_translation(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.holds = True
    application = make_app()
    use_lines(application)
    with serve(application) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/translate_file", data=FIELDS, files={"file": FILE}, timeout=0.3)
        for _ in range(2):
            assert stub.arrivals.acquire(timeout=60)
        assert all(work.cancelled.wait(60) for work in stub.submitted)


@pytest.mark.parametrize("name", ["x", f"{'0' * 32}.x", "..%2F..%2Fetc%2Fpasswd", ".", "%00.txt"])
def test_there_is_nothing_at_other_addresses(lines: TestClient, name: str) -> None:
    assert lines.get(f"/download_file/{name}").status_code == 404


def test_files_may_be_switched_off(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(files=False)) as client:
        reply = client.post("/translate_file", data=FIELDS, files={"file": FILE})
        assert refusal(reply) == (403, "Files translation are disabled on this server.")
        settings = client.get("/frontend/settings").json()
        assert (settings["filesTranslation"], settings["supportedFilesFormat"]) == (False, [])


@pytest.mark.parametrize(
    ("trusted", "headers", "begin"),
    [
        ((), {}, "http://testserver/"),
        ((), {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}, "http://testserver/"),
        (("192.0.2.0/24",), {"X-Forwarded-Host": "evil.example"}, "http://testserver/"),
        (
            ("198.51.100.7",),
            {"X-Forwarded-Host": "a.example:8443", "X-Forwarded-Proto": "https"},
            "https://a.example:8443/",
        ),
        (("198.51.100.0/24",), {"X-Forwarded-Host": "a.example/../b"}, "http://testserver/"),
    ],
)
def test_addresses_lead_back_to_the_proxy_only_if_it_is_trusted(
    make_app: Callable[..., FastAPI], trusted: tuple[str, ...], headers: dict[str, str], begin: str
) -> None:
    application = make_app(trusted_proxies=trusted)
    use_lines(application)
    with TestClient(application, client=("198.51.100.7", 50000)) as client:
        reply = client.post("/translate_file", data=FIELDS, files={"file": FILE}, headers=headers)
    assert reply.json()["translatedFileUrl"].startswith(f"{begin}download_file/")


# The rest


def test_settings_are_true(lines: TestClient) -> None:
    settings = lines.get("/frontend/settings").json()
    assert settings["filesTranslation"] is True
    assert settings["supportedFilesFormat"] == [".lines", ".txt"]
    assert (settings["suggestions"], settings["apiKeys"], settings["keyRequired"]) == (False, False, False)


def test_html_and_alternatives_of_it(lines: TestClient, stub: StubTranslator) -> None:
    body = {"q": ["<b>été</b>", "hiver"], **FIELDS, "format": "html", "alternatives": 1}
    reply = lines.post("/translate", json=body).json()
    assert reply["translatedText"] == ["<en><b>été</b>", "<en>hiver"]
    assert reply["alternatives"] == [["<en1><b>été</b>"], ["<en1>hiver"]]
    assert [work.options.format for work in stub.submitted if work.options] == ["html", "html"]


def test_suggestions_are_off_unless_the_operator_wants_them(lines: TestClient) -> None:
    reply = lines.post("/suggest", data={"q": "été", "s": "summer", **FIELDS})
    assert refusal(reply) == (403, "Suggestions are disabled on this server.")


def test_suggestions_are_kept_for_the_operator(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(suggestions=True, data_directory=tmp_path)
    with TestClient(application) as client:
        suggestion = {"q": "été", "s": "summer", "source": "auto", "target": "EN"}
        for body in ({"json": suggestion}, {"data": suggestion}):
            reply = client.post("/suggest", **body)  # type: ignore[arg-type]
            assert (reply.status_code, reply.json()) == (200, {"success": True})
        for name in ("q", "s", "source", "target"):
            left = {key: value for key, value in suggestion.items() if key != name}
            assert refusal(client.post("/suggest", json=left)) == (400, f"Invalid request: missing {name} parameter")
        assert refusal(client.post("/suggest", json={**suggestion, "target": "zz"})) == (400, "zz is not supported")
        assert refusal(client.post("/suggest", json={**suggestion, "q": "x" * 100_001}))[0] == 400
        assert client.get("/frontend/settings").json()["suggestions"] is True
        kept = application.state.service.suggestions.all_suggestions()
    assert [(each.text, each.suggestion, each.source, each.target) for each in kept] == [
        ("été", "summer", "auto", "en")
    ]


def test_suggestions_are_bounded(
    make_app: Callable[..., FastAPI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.suggestions, "MAX_SUGGESTIONS", 1)
    with TestClient(make_app(suggestions=True, data_directory=tmp_path)) as client:
        assert client.post("/suggest", json={"q": "été", "s": "summer", **FIELDS}).status_code == 200
        reply = client.post("/suggest", json={"q": "hiver", "s": "winter", **FIELDS})
    assert refusal(reply) == (503, "there is no room for more suggestions")


def test_suggestions_need_a_place(make_app: Callable[..., FastAPI]) -> None:
    with pytest.raises(ConfigurationError, match="data_directory must be set when suggestions is"):
        make_app(suggestions=True)


def test_the_description_is_the_whole_one(lines: TestClient) -> None:
    spec = lines.get("/spec").json()
    assert spec == lines.get("/openapi.json").json()
    assert {"/translate", "/translate_file", "/download_file/{name}", "/suggest", "/spec"} <= set(spec["paths"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/suggest"), ("GET", "/translate_file"), ("POST", "/spec")])
def test_other_methods_are_refused_in_its_words(lines: TestClient, method: str, path: str) -> None:
    assert refusal(lines.request(method, path)) == (405, "Method Not Allowed")
