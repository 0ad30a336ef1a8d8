"""Documents on the native face: the way from upload to result, and every answer to what is wrong."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docx
import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.keys import ApiKey
from app.limits import DOCUMENT_PATHS
from model import InvalidDocumentError
from tests.service.line_document import LineReader, use_lines, wait_until_over

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FILE = ("lettre.lines", "été\nhiver")


@pytest.fixture
def application(make_app: Callable[..., FastAPI]) -> FastAPI:
    return make_app()


@pytest.fixture
def reader(application: FastAPI) -> LineReader:
    return use_lines(application)


@pytest.fixture
def lines(application: FastAPI, reader: LineReader) -> Iterator[TestClient]:
    """A client of an application that reads lines."""
    assert reader.opened == []
    with TestClient(application) as client:
        yield client


def send(client: TestClient, file: tuple[str, str | bytes] = FILE, **fields: Any) -> httpx2.Response:
    headers = fields.pop("headers", {})
    return client.post("/v1/documents", data={"target": "en", **fields}, files={"file": file}, headers=headers)


def problem(reply: httpx2.Response) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.status_code, reply.json()["detail"]


def test_from_upload_to_result(lines: TestClient, stub: StubTranslator) -> None:
    stub.holds = True
    reply = send(lines)
    assert reply.status_code == 202
    sent = reply.json()
    path = reply.headers["location"]
    assert path == f"/v1/documents/{sent['id']}"
    assert {name: sent[name] for name in ("name", "source", "target", "model", "characters", "error", "result")} == {
        "name": "lettre.lines", "source": "fr", "target": "en", "model": "stub", "characters": 8, "error": None,
        "result": None,
    }  # fmt: skip
    for _ in range(2):
        assert stub.arrivals.acquire(timeout=60)
    assert lines.get(path).json()["state"] == "translating"
    early = lines.get(f"{path}/result")
    assert problem(early) == (409, "the document is translating")
    assert early.headers["retry-after"] == "1"
    for work in stub.submitted:
        work.finish()
    wait_until_over(lines, sent["id"])
    done = lines.get(path).json()
    assert (done["state"], done["translated_characters"], done["result"]) == ("done", 8, f"{path}/result")
    assert done["expires_at"] > done["created_at"]
    for _ in range(2):  # it stays until its time is over
        result = lines.get(done["result"])
        assert result.content.decode() == "2\n<en>été\n<en>hiver"
        assert result.headers["content-disposition"] == 'attachment; filename="lettre_en.lines"'
        assert result.headers["content-type"] == "text/x-lines"  # of unknown encoding
        assert result.headers["x-content-type-options"] == "nosniff"


def test_a_document_can_be_deleted_before_it_is_done(lines: TestClient, stub: StubTranslator) -> None:
    stub.holds = True
    path = send(lines).headers["location"]
    assert stub.arrived.wait(60)
    assert lines.delete(path).status_code == 204
    assert all(work.cancelled.is_set() for work in stub.submitted)
    for method, below in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
        assert problem(lines.request(method, path + below)) == (404, "there is no such document")


def test_what_cannot_be_read_is_an_error_of_the_document(lines: TestClient) -> None:
    reply = send(lines, ("bomb.lines", "BOMB"))
    assert reply.status_code == 202
    document = lines.get(reply.headers["location"]).json()
    assert document["state"] == "error"
    assert document["error"] == "document must unpack to at most 1000 bytes, got 1000000000"
    status, detail = problem(lines.get(f"{reply.headers['location']}/result"))
    assert (status, detail) == (409, f"the document could not be translated: {document['error']}")


def test_our_own_failure_gives_nothing_away(lines: TestClient) -> None:
    reply = send(lines, ("crash.lines", "CRASH"))
    assert reply.status_code == 500
    assert "secret" not in reply.text


@pytest.mark.parametrize("name", ["../../../etc/x.lines", "..\\..\\x.lines", "/etc/x.lines"])
def test_folders_in_a_name_lead_nowhere(lines: TestClient, name: str) -> None:
    document = send(lines, (name, "été")).json()
    assert document["name"] == "x.lines"
    wait_until_over(lines, document["id"])
    assert 'filename="x_en.lines"' in lines.get(f"/v1/documents/{document['id']}/result").headers["content-disposition"]


def test_a_name_beyond_ascii_comes_back(lines: TestClient) -> None:
    document = send(lines, ('é"té.lines', "été")).json()
    wait_until_over(lines, document["id"])
    disposition = lines.get(f"/v1/documents/{document['id']}/result").headers["content-disposition"]
    assert disposition.startswith('attachment; filename="_')
    assert disposition.endswith("t%C3%A9_en.lines")


@pytest.mark.parametrize("path", ["..%2F..%2Fetc", "%2e%2e", "0" * 31, "g" * 32, "0" * 32, "A" * 32, "%00"])
def test_ids_that_are_none(lines: TestClient, path: str) -> None:
    reply = lines.get(f"/v1/documents/{path}")
    assert reply.status_code == 404


@pytest.mark.parametrize(
    ("file", "fields", "detail"),
    [
        (("x.exe", "a"), {}, "file must have a name that ends in one of .lines, .txt, got '.exe'"),
        (("x", "a"), {}, "file must have a name that ends in one of .lines, .txt, got ''"),
        (("x.lines", ""), {}, "file must not be empty, got 'x.lines'"),
        (FILE, {"target": "xx"}, "target must be one of en, fr, got 'xx'"),
        (FILE, {"source": "xx"}, "source must be one of en, fr, got 'xx'"),
        (FILE, {"model": "no"}, "model must be one of stub, got 'no'"),
        (FILE, {"glossaries": "g"}, "glossaries need a source language that is not detected, got 'g'"),
        (FILE, {"patterns": "("}, None),
    ],
)
def test_what_is_refused_at_once(
    lines: TestClient, reader: LineReader, file: tuple[str, str], fields: dict[str, str], detail: str | None
) -> None:
    status, said = problem(send(lines, file, **fields))
    assert status == 422
    assert detail in (said, None)
    assert reader.opened == []


def test_options_of_the_form_reach_the_translator(lines: TestClient, stub: StubTranslator) -> None:
    fields: dict[str, Any] = {"source": "fr", "ignore_tags": "x, y", "literals": ["Lyon", "Nice"], "patterns": r"\d+"}
    wait_until_over(lines, send(lines, **fields).json()["id"])
    options = stub.submitted[0].options
    assert options is not None
    assert options.markup.ignore_tags == ("x", "y")
    assert (options.protection.literals, options.protection.patterns) == (("Lyon", "Nice"), (r"\d+",))


def test_glossaries_are_those_of_the_moment_of_the_upload(lines: TestClient, stub: StubTranslator) -> None:
    made = lines.post(
        "/v1/glossaries",
        json={"name": "g", "dictionaries": [{"source": "fr", "target": "en", "entries": [["hiver", "winter"]]}]},
    )
    assert made.status_code == 201, made.text
    glossary_id = made.json()["id"]
    stub.holds = True
    document = send(lines, source="fr", glossaries=glossary_id).json()
    assert lines.delete(f"/v1/glossaries/{glossary_id}").status_code == 204
    for _ in range(2):
        assert stub.arrivals.acquire(timeout=60)
    options = stub.submitted[0].options
    assert options is not None
    assert [glossary.entries for glossary in options.glossaries] == [(("hiver", "winter"),)]
    assert lines.delete(f"/v1/documents/{document['id']}").status_code == 204
    assert problem(send(lines, source="fr", glossaries=glossary_id))[0] == 404


def test_files_may_be_switched_off(make_app: Callable[..., FastAPI]) -> None:
    application = make_app(files=False)
    use_lines(application)
    with TestClient(application) as client:
        assert problem(send(client)) == (403, "Files translation are disabled on this server.")


def test_too_many_documents_ask_to_come_back(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.holds = True
    application = make_app(max_queued_documents=1)
    use_lines(application)
    with TestClient(application) as client:
        assert send(client).status_code == 202
        reply = send(client)
    assert problem(reply) == (503, "too many documents are waiting")
    assert int(reply.headers["retry-after"]) >= 1


@pytest.mark.parametrize("path", sorted(DOCUMENT_PATHS))
def test_files_may_be_larger_than_other_bodies_and_have_their_own_limit(
    make_app: Callable[..., FastAPI], path: str
) -> None:
    application = make_app(max_body_bytes=1000, max_document_bytes=100_000)
    use_lines(application)
    with TestClient(application) as client:
        allowed = client.post(path, files={"file": ("a.lines", "x" * 99_000)})
        refused = client.post(path, files={"file": ("a.lines", "x" * 200_000)})
        ordinary = client.post("/translate", json={"q": "x" * 2000})
    assert allowed.status_code in (400, 422)  # for want of a target
    assert (refused.status_code, ordinary.status_code) == (413, 413)


def test_nobody_sees_the_documents_of_others(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    use_lines(application)
    keys = application.state.service.access.keys
    for name in ("anne", "bob"):
        keys.create(ApiKey(f"id-{name}", name, 0.0), f"secret-{name}")
    anne, bob = ({"X-API-Key": f"secret-{name}"} for name in ("anne", "bob"))
    with TestClient(application) as client:
        document = send(client, headers=anne).json()
        path = f"/v1/documents/{document['id']}"
        wait_until_over(client, document["id"])
        for headers in (bob, {}):
            assert problem(client.get(path, headers=headers))[0] == 404
            assert problem(client.get(f"{path}/result", headers=headers))[0] == 404
            assert problem(client.delete(path, headers=headers))[0] == 404
            assert client.get("/v1/documents", headers=headers).json() == {"documents": []}
        listed = client.get("/v1/documents", headers=anne).json()["documents"]
        assert [entry["id"] for entry in listed] == [document["id"]]
        assert client.get(f"/download_file/{document['id']}.x", headers=anne).status_code == 404  # another face's
        assert client.get(f"{path}/result", headers=anne).status_code == 200


def test_the_list_of_those_without_a_key_is_empty(lines: TestClient) -> None:
    send(lines)
    assert lines.get("/v1/documents").json() == {"documents": []}


def test_a_quota_that_does_not_suffice_is_told_at_once(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    application = make_app(data_directory=tmp_path)
    use_lines(application)
    key = ApiKey("k", "k", 0.0, characters_per_month=10)
    application.state.service.access.keys.create(key, "secret")
    with TestClient(application) as client:
        headers = {"X-API-Key": "secret"}
        assert send(client, headers=headers).status_code == 202
        assert problem(send(client, headers=headers))[0] == 429
        assert len(client.get("/v1/documents", headers=headers).json()["documents"]) == 1


def test_interactive_requests_go_on_beside_a_document(lines: TestClient, stub: StubTranslator) -> None:
    stub.holds = True
    send(lines, ("book.lines", "\n".join(f"page {number}" for number in range(500))), source="fr")
    for _ in range(32):
        assert stub.arrivals.acquire(timeout=60)
    stub.holds = False
    reply = lines.post("/v1/translate", json={"texts": "été", "source": "fr", "target": "en"})
    assert reply.json()["translations"][0]["text"] == "<en>été"
    assert [work.text for work in stub.submitted[32:]] == ["été"]


def test_documents_are_counted(lines: TestClient, stub: StubTranslator) -> None:
    wait_until_over(lines, send(lines).json()["id"])
    stub.refusal, stub.refuses_after = RuntimeError("out of order"), 0
    wait_until_over(lines, send(lines).json()["id"])
    metrics = lines.get("/metrics").text
    assert 'dragoman_documents_total{outcome="done"} 1.0' in metrics
    assert 'dragoman_documents_total{outcome="failed"} 1.0' in metrics


def test_before_the_start_there_are_no_documents(make_app: Callable[..., FastAPI]) -> None:
    outside = TestClient(make_app())  # no lifespan
    for reply in (outside.get(f"/v1/documents/{'0' * 32}"), outside.post("/v1/documents", files={"file": FILE})):
        assert reply.status_code in (422, 503)


def word_file(text: str) -> bytes:
    document, data = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(data)
    return data.getvalue()


def test_a_word_document_comes_back_as_one(client: TestClient, stub: StubTranslator) -> None:
    stub.holds = True
    sent = send(client, ("lettre.docx", word_file("Le chat dort.")), source="fr").json()
    assert sent["characters"] == len("Le chat dort.")
    assert stub.arrived.wait(60)
    [work] = stub.submitted
    assert work.options is not None
    assert (work.text, work.options.format) == ("Le chat dort.", "xml")
    answered: Any = replace(work, future=Future())  # the stub's own mark would be a tag in this format
    answered.finish()
    work.future.set_result(replace(answered.future.result(), text="The cat sleeps."))
    wait_until_over(client, sent["id"])
    result = client.get(f"/v1/documents/{sent['id']}/result")
    assert result.headers["content-disposition"] == 'attachment; filename="lettre_en.docx"'
    read = docx.Document(io.BytesIO(result.content))
    assert [paragraph.text for paragraph in read.paragraphs] == ["The cat sleeps."]


def test_a_translation_with_other_tags_is_an_error_of_the_document(client: TestClient) -> None:
    sent = send(client, ("lettre.docx", word_file("Le chat dort.")), source="fr").json()
    wait_until_over(client, sent["id"])
    document = client.get(f"/v1/documents/{sent['id']}").json()
    assert document["state"] == "error"
    assert "must get back the tags of its texts" in document["error"]


def test_real_formats_are_known_and_kept_to_the_size_of_the_settings(make_app: Callable[..., FastAPI]) -> None:
    documents = make_app(max_document_bytes=100).state.service.documents
    assert documents.open_document(b"x" * 100, "a.txt").texts
    with pytest.raises(InvalidDocumentError, match="at most 100 bytes"):
        documents.open_document(b"x" * 101, "a.txt")
