"""Glossaries of the native face: shapes, formats of entries, what is merged, refusals with their place in the body."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.keys import ApiKey, KeyStore

THERE: dict[str, Any] = {"source": "fr", "target": "en", "entries": [["chat", "cat"], ["chien, noir", 'black "dog"']]}
BACK: dict[str, Any] = {"source": "EN", "target": "French", "entries": "cat\tchat\ndog\tchien"}
NOBODY = "00000000-0000-4000-8000-000000000000"


def create(client: TestClient, *dictionaries: dict[str, Any]) -> dict[str, Any]:
    """Create a glossary and return what is said of it."""
    reply = client.post("/v1/glossaries", json={"name": "animals", "dictionaries": dictionaries or [THERE, BACK]})
    assert reply.status_code == 201, reply.text
    content: dict[str, Any] = reply.json()
    return content


def problem(reply: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the problem details of an error."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    content: dict[str, Any] = reply.json()
    return content


def test_the_life_of_a_glossary(client: TestClient) -> None:
    glossary = create(client)
    assert set(glossary) == {"id", "name", "created", "dictionaries"}
    assert datetime.fromisoformat(glossary["created"]).utcoffset() is not None
    assert glossary["dictionaries"] == [
        {"source": "fr", "target": "en", "entry_count": 2},
        {"source": "en", "target": "fr", "entry_count": 2},
    ]
    path = f"/v1/glossaries/{glossary['id']}"
    assert client.get("/v1/glossaries").json() == {"glossaries": [glossary]}
    assert client.get(path).json() == glossary
    assert client.patch(path, json={"name": "beasts"}).json() == {**glossary, "name": "beasts"}
    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert problem(client.request(method, path), 404)["type"] == "urn:dragoman:problem:glossary-not-found"
    assert client.get("/v1/glossaries").json() == {"glossaries": []}


def test_entries_as_json(client: TestClient) -> None:
    path = f"/v1/glossaries/{create(client)['id']}/entries"
    there = {"source": "fr", "target": "en", "entries": THERE["entries"]}
    back = {"source": "en", "target": "fr", "entries": [["cat", "chat"], ["dog", "chien"]]}
    assert client.get(path).json() == {"dictionaries": [there, back]}
    assert client.get(f"{path}?source=FR").json() == {"dictionaries": [there]}
    assert client.get(f"{path}?target=fr&format=json", headers={"Accept": "text/csv"}).json() == {
        "dictionaries": [back]
    }


def test_entries_as_text(client: TestClient) -> None:
    path = f"/v1/glossaries/{create(client)['id']}/entries"
    tsv = 'chat\tcat\nchien, noir\tblack "dog"'
    csv = 'chat,cat\r\n"chien, noir","black ""dog"""\r\n'
    by_format = client.get(f"{path}?source=fr&format=tsv")
    by_header = client.get(f"{path}?source=fr", headers={"Accept": "text/tab-separated-values"})
    assert by_format.text == by_header.text == tsv
    assert by_format.headers["content-type"] == "text/tab-separated-values; charset=utf-8"
    by_format = client.get(f"{path}?source=fr&target=en&format=csv")
    by_header = client.get(f"{path}?source=fr", headers={"Accept": "text/html, text/csv;q=0.9"})
    assert by_format.text == by_header.text == csv
    assert by_format.headers["content-type"] == "text/csv; charset=utf-8"
    assert "one dictionary" in problem(client.get(f"{path}?format=tsv"), 422)["detail"]
    assert problem(client.get(path, headers={"Accept": "image/png"}), 415)["title"]
    assert problem(client.get(f"{path}?format=xlsx"), 422)["errors"][0]["parameter"] == "format"
    assert problem(client.get(f"{path}?source=fr&target=fr"), 404)["type"].endswith("dictionary-not-found")
    assert problem(client.get(f"{path}?source=xx"), 422)["detail"].startswith("source must be one of en, fr")


@pytest.mark.parametrize("format", ["tsv", "csv"])
def test_what_is_read_can_be_sent_again(client: TestClient, format: str) -> None:
    path = f"/v1/glossaries/{create(client)['id']}/entries?source=fr&format="
    again = create(client, {**THERE, "entries": client.get(path + format).text, "format": format})
    [dictionary] = client.get(f"/v1/glossaries/{again['id']}/entries").json()["dictionaries"]
    assert dictionary["entries"] == THERE["entries"]


def test_updates_merge_or_replace(client: TestClient) -> None:
    path = f"/v1/glossaries/{create(client, THERE)['id']}"
    more = {"source": "fr", "target": "en", "entries": [["ours", "bear"], ["chat", "tomcat"]]}
    assert client.patch(path, json={"dictionaries": [more, BACK]}).json()["dictionaries"] == [
        {"source": "fr", "target": "en", "entry_count": 3},
        {"source": "en", "target": "fr", "entry_count": 2},
    ]
    [merged] = client.get(f"{path}/entries?source=fr").json()["dictionaries"]
    assert merged["entries"] == [["chat", "tomcat"], THERE["entries"][1], ["ours", "bear"]]
    client.patch(path, json={"dictionaries": [more], "merge": False})
    [replaced] = client.get(f"{path}/entries?source=fr").json()["dictionaries"]
    assert replaced["entries"] == more["entries"]
    assert problem(client.patch(f"/v1/glossaries/{NOBODY}", json={"name": "x"}), 404)["status"] == 404


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "#/name"),
    ({"name": 5}, "#/name"),
    ({"colour": "red"}, "#/colour"),
    ({"dictionaries": []}, "#/dictionaries"),
    ({"dictionaries": [THERE, THERE]}, "#/dictionaries"),
    ({"dictionaries": [THERE, {**BACK, "source": "xx"}]}, "#/dictionaries/1/source"),
    ({"dictionaries": [{**THERE, "target": "fr"}]}, "#/target"),
    ({"dictionaries": [{**BACK, "entries": "cat chat"}]}, "#/dictionaries/0/entries line 1"),
    ({"dictionaries": [{**BACK, "format": "xlsx"}]}, "#/dictionaries/0/format"),
]


def test_refusals(client: TestClient) -> None:
    for changes, pointer in REFUSALS:
        reply = client.post("/v1/glossaries", json={"name": "animals", "dictionaries": [THERE], **changes})
        assert problem(reply, 422)["errors"][0]["pointer"] == pointer, changes
    for entries in ([["chat"]], [["chat", "cat", "x"]], [["chat", ""]], [["a\tb", "c"]], [["a", "b"], ["a", "c"]], []):
        reply = client.post("/v1/glossaries", json={"name": "x", "dictionaries": [{**THERE, "entries": entries}]})
        assert problem(reply, 422)["errors"], entries
    assert problem(client.post("/v1/glossaries", content="{"), 415)
    assert client.get("/v1/glossaries").json() == {"glossaries": []}


def test_one_glossary_for_all_faces(client: TestClient) -> None:
    glossary = create(client, THERE)
    assert client.get(f"/v2/glossaries/{glossary['id']}").json()["entry_count"] == 2
    assert client.get(f"/v3/glossaries/{glossary['id']}").json()["name"] == "animals"


def test_keys_have_glossaries_of_their_own(make_app: Callable[..., FastAPI], tmp_path: Path) -> None:
    keys = KeyStore(tmp_path)
    for name in ("ann", "bob"):
        keys.create(ApiKey(name, name, created=0.0), f"key of {name}")
    keys.close()
    ann, bob = ({"Authorization": f"Bearer key of {name}"} for name in ("ann", "bob"))
    body = {"name": "animals", "dictionaries": [THERE]}
    with TestClient(make_app(data_directory=tmp_path)) as client:
        glossary = client.post("/v1/glossaries", json=body, headers=ann).json()
        for headers in (bob, {}):
            assert client.get("/v1/glossaries", headers=headers).json() == {"glossaries": []}
            path = f"/v1/glossaries/{glossary['id']}"
            assert client.get(path, headers=headers).status_code == 404
            assert client.patch(path, json={"name": "mine"}, headers=headers).status_code == 404
            assert client.delete(path, headers=headers).status_code == 404
    with TestClient(make_app(data_directory=tmp_path, require_key=True)) as client:  # after a restart
        assert client.get("/v1/glossaries", headers=ann).json() == {"glossaries": [glossary]}
        assert problem(client.get("/v1/glossaries"), 401)
