"""DeepL's documents, driven by DeepL's own client where it can, and in its words where it cannot."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepl
import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.keys import ApiKey
from tests.service.line_document import use_lines, wait_until_over
from tests.service.running_server import serve

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FILE = ("lettre.lines", "été\nhiver")
TRANSLATED = "2\n<en>été\n<en>hiver"


class OpenFile(io.BytesIO):
    """A file with a name, as open() returns it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text.encode())
        self.name = name


@pytest.fixture
def application(make_app: Callable[..., FastAPI]) -> FastAPI:
    application = make_app()
    use_lines(application)
    return application


@pytest.fixture
def sdk(application: FastAPI) -> Iterator[deepl.DeepLClient]:
    """DeepL's client of a running service; what it sends is sent once, so that no test waits for a retry."""
    deepl.http_client.max_network_retries = 0
    with serve(application) as url:
        client = deepl.DeepLClient("some-key", server_url=url)
        try:
            yield client
        finally:
            client.close()  # type: ignore[no-untyped-call]
            deepl.http_client.max_network_retries = 5


@pytest.fixture
def lines(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application) as client:
        yield client


def send(client: TestClient, file: tuple[str, str] = FILE, **fields: Any) -> httpx2.Response:
    return client.post("/v2/document", data={"target_lang": "EN-GB", **fields}, files={"file": file})


def message(reply: httpx2.Response) -> tuple[int, str]:
    content = reply.json()
    assert set(content) == {"message"}
    return reply.status_code, content["message"]


# The client


def test_a_document_from_begin_to_end(
    sdk: deepl.DeepLClient, stub: StubTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.holds = True
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        """Let the translator finish instead of waiting: each look finds one more text done."""
        looks.append(seconds)
        assert len(looks) < 1000
        if stub.arrivals.acquire(timeout=60 if len(looks) <= 2 else 0):
            stub.submitted[len(looks) - 1].finish()

    monkeypatch.setattr("deepl.translator.time.sleep", sleep)
    output = io.BytesIO()
    status = sdk.translate_document(OpenFile(*FILE), output, source_lang="FR", target_lang="EN-US")
    assert output.getvalue().decode() == TRANSLATED
    assert status.done
    assert status.billed_characters == 8
    assert len(looks) >= 2


def test_upload_status_and_one_download(sdk: deepl.DeepLClient, stub: StubTranslator) -> None:
    stub.holds = True
    handle = sdk.translate_document_upload(FILE[1], target_lang="EN-GB", filename=FILE[0])
    assert (len(handle.document_id), len(handle.document_key)) == (32, 64)
    assert handle.document_id == handle.document_id.upper()
    for _ in range(2):
        assert stub.arrivals.acquire(timeout=60)
    status = sdk.translate_document_get_status(handle)
    assert status.status == deepl.DocumentStatus.Status.TRANSLATING
    with pytest.raises(deepl.exceptions.DocumentNotReadyException):
        sdk.translate_document_download(handle)
    for work in stub.submitted:
        work.finish()
    while not (status := sdk.translate_document_get_status(handle)).done:
        assert status.ok
    response = sdk.translate_document_download(handle)
    assert response is not None
    assert response.content.decode() == TRANSLATED
    response.close()
    with pytest.raises(deepl.DeepLException, match="Not found"):
        sdk.translate_document_download(handle)


def test_an_unreadable_document_is_an_error_with_its_handle(sdk: deepl.DeepLClient) -> None:
    output = io.BytesIO()
    with pytest.raises(deepl.exceptions.DocumentTranslationException, match="must unpack to at most") as refusal:
        sdk.translate_document(OpenFile("x.lines", "BOMB"), output, target_lang="EN-GB")
    assert refusal.value.document_handle.document_id
    assert output.getvalue() == b""


def test_what_is_refused_reaches_the_client_as_its_exceptions(sdk: deepl.DeepLClient) -> None:
    with pytest.raises(deepl.DeepLException, match="Invalid file data"):
        sdk.translate_document_upload(b"x", target_lang="EN-GB", filename="x.exe")
    with pytest.raises(deepl.DeepLException, match="Source and target language are equal"):
        sdk.translate_document_upload(FILE[1], source_lang="EN", target_lang="EN-GB", filename=FILE[0])
    with pytest.raises(deepl.DeepLException, match="Value for 'target_lang' not supported"):
        sdk.translate_document_upload(FILE[1], target_lang="XX", filename=FILE[0])
    with pytest.raises(deepl.DeepLException, match="formality"):
        sdk.translate_document_upload(FILE[1], target_lang="EN-GB", formality="more", filename=FILE[0])


def test_a_used_up_quota_is_the_clients_own_exception(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    use_lines(application)
    application.state.service.access.keys.create(ApiKey("k", "k", 0.0, characters_per_month=7), "secret")
    with serve(application) as url:
        client = deepl.DeepLClient("secret", server_url=url)
        with pytest.raises(deepl.exceptions.QuotaExceededException):
            client.translate_document_upload(FILE[1], target_lang="EN-GB", filename=FILE[0])
        client.close()  # type: ignore[no-untyped-call]


# The protocol


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("encoding", ["json", "form"])
def test_the_key_may_come_in_any_encoding(lines: TestClient, method: str, encoding: str) -> None:
    handle = send(lines).json()
    wait_until_over(lines, handle["document_id"])
    key = {"document_key": handle["document_key"]}
    body: dict[str, Any] = {"json": key} if encoding == "json" else {"data": key}
    path = f"/v2/document/{handle['document_id']}"
    assert lines.request(method, path, **body).json() == {
        "document_id": handle["document_id"], "status": "done", "billed_characters": 8,
    }  # fmt: skip
    result = lines.request(method, f"{path}/result", **body)
    assert result.content.decode() == TRANSLATED
    assert result.headers["content-disposition"] == 'attachment; filename="lettre_en.lines"'
    assert message(lines.request(method, path, **body)) == (404, "Document not found")


@pytest.mark.parametrize("suffix", ["", "/result"])
def test_only_the_right_key_opens_a_document(lines: TestClient, suffix: str) -> None:
    handle = send(lines).json()
    other = send(lines).json()
    wait_until_over(lines, handle["document_id"])
    native = lines.post("/v1/documents", data={"target": "en"}, files={"file": FILE}).json()
    for document_id, key in (
        (handle["document_id"], other["document_key"]),
        (handle["document_id"], handle["document_key"].lower()),
        (native["id"].upper(), handle["document_key"]),
        ("0" * 32, handle["document_key"]),
        ("..%2f", handle["document_key"]),
    ):
        reply = lines.post(f"/v2/document/{document_id}{suffix}", json={"document_key": key})
        assert reply.status_code == 404
    missing = lines.post(f"/v2/document/{handle['document_id']}{suffix}", json={})
    assert message(missing) == (400, "Parameter 'document_key' not specified.")


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        (("x.lines", ""), {}, "Invalid file data."),
        (("x.exe", "x"), {}, "Invalid file data."),
        (FILE, {"filename": "x.exe"}, "Invalid file data."),
        (FILE, {"output_format": "pdf"}, "Value for 'output_format' not supported."),
        (FILE, {"source_lang": "zz"}, "Value for 'source_lang' not supported."),
        (FILE, {"target_lang": ""}, "Parameter 'target_lang' not specified."),
        (FILE, {"glossary_id": "x"}, "Value for 'glossary_id' not supported."),
        (
            FILE,
            {"glossary_id": "0" * 8 + "-0000" * 3 + "-" + "0" * 12},
            "Use of a glossary requires the source_lang parameter to be specified",
        ),
    ],
)
def test_refusals(lines: TestClient, file: tuple[str, str], fields: dict[str, str], said: str) -> None:
    assert message(send(lines, file, **fields)) == (400, said)


def test_no_file_at_all(lines: TestClient) -> None:
    for body in ({"data": {"target_lang": "EN"}}, {"json": {"target_lang": "EN"}}, {}):
        assert message(lines.post("/v2/document", **body)) == (400, "Invalid file data.")  # type: ignore[arg-type]


def test_the_name_may_be_given_beside_the_file(lines: TestClient) -> None:
    handle = send(lines, ("blob", "été"), filename="carte.lines", output_format="lines").json()
    wait_until_over(lines, handle["document_id"])
    result = lines.post(f"/v2/document/{handle['document_id']}/result", json={"document_key": handle["document_key"]})
    assert result.headers["content-disposition"] == 'attachment; filename="carte_en.lines"'


def test_a_broken_document_says_so_at_its_result_too(lines: TestClient) -> None:
    handle = send(lines, ("x.lines", "BOMB")).json()
    key = {"document_key": handle["document_key"]}
    status = lines.post(f"/v2/document/{handle['document_id']}", json=key).json()
    assert status["status"] == "error"
    assert status["error_message"] == status["message"] == "document must unpack to at most 1000 bytes, got 1000000000"
    reply = lines.post(f"/v2/document/{handle['document_id']}/result", json=key)
    assert message(reply) == (503, f"Document could not be translated: {status['message']}")


def test_files_may_be_switched_off(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(files=False)) as client:
        assert message(send(client)) == (403, "Files translation are disabled on this server.")
