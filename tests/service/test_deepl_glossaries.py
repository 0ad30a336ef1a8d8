"""The DeepL face's glossaries, of one dictionary and of several: their life, refusals, and use in translation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FRENCH: dict[str, Any] = {"text": ["été"], "source_lang": "FR", "target_lang": "EN-GB"}
TERMS: dict[str, Any] = {
    "name": "animals",
    "source_lang": "fr",
    "target_lang": "en",
    "entries": "chat\tcat\nchien\tdog",
    "entries_format": "tsv",
}
NOBODY = "00000000-0000-4000-8000-000000000000"


def glossary_refusal(reply: httpx2.Response, status: int = 400) -> str:
    """Return the detail of an error about glossaries."""
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"message", "detail"}
    assert reply.json()["message"]
    return str(reply.json()["detail"])


def create(client: TestClient, **changes: Any) -> str:
    """Create a glossary and return its id."""
    reply = client.post("/v2/glossaries", json={**TERMS, **changes})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["glossary_id"])


# Glossaries of one dictionary


def test_pairs_of_glossaries(client: TestClient) -> None:
    assert client.get("/v2/glossary-language-pairs").json() == {
        "supported_languages": [
            {"source_lang": "en", "target_lang": "fr"},
            {"source_lang": "fr", "target_lang": "en"},
        ]
    }


@pytest.mark.parametrize("encoding", ["json", "form"])
def test_the_life_of_a_glossary(client: TestClient, encoding: str) -> None:
    body = {**TERMS, "source_lang": "FR", "target_lang": "EN-GB"}
    created = (
        client.post("/v2/glossaries", json=body) if encoding == "json" else client.post("/v2/glossaries", data=body)
    )
    assert created.status_code == 201
    glossary = created.json()
    assert set(glossary) == {
        "glossary_id",
        "name",
        "ready",
        "source_lang",
        "target_lang",
        "creation_time",
        "entry_count",
    }
    assert {name: glossary[name] for name in ("name", "ready", "source_lang", "target_lang", "entry_count")} == {
        "name": "animals",
        "ready": True,
        "source_lang": "fr",
        "target_lang": "en",
        "entry_count": 2,
    }
    assert len(glossary["creation_time"]) == len("2021-08-03T14:16:18.329Z")
    path = f"/v2/glossaries/{glossary['glossary_id']}"
    assert client.get("/v2/glossaries").json() == {"glossaries": [glossary]}
    assert client.get(path).json() == glossary
    assert client.get(path.upper().replace("/V2/GLOSSARIES", "/v2/glossaries")).json() == glossary
    deleted = client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    glossary_refusal(client.get(path), 404)
    glossary_refusal(client.delete(path), 404)
    assert client.get("/v2/glossaries").json() == {"glossaries": []}


ACCEPT_HEADERS: list[tuple[str, int]] = [
    ("text/tab-separated-values", 200),
    ("*/*", 200),
    ("text/*;q=0.5", 200),
    ("application/json, Text/Tab-Separated-Values; q=0.1", 200),
    ("application/json", 415),
    ("text/csv", 415),
    ("text/tab-separated-values;q=0", 415),
]


def test_entries_are_tsv_or_nothing(client: TestClient) -> None:
    path = f"/v2/glossaries/{create(client)}/entries"
    for accept, status in ACCEPT_HEADERS:
        reply = client.get(path, headers={"Accept": accept})
        if status == 200:
            assert reply.status_code == 200, accept
            assert reply.headers["content-type"] == "text/tab-separated-values; charset=utf-8"
            assert reply.text == "chat\tcat\nchien\tdog"
        else:
            assert "Accept" in glossary_refusal(reply, status), accept


def test_entries_of_csv(client: TestClient) -> None:
    entries = '"chat, noir","black cat",fr,en\nchien,"dog ""Rex""",fr,en\n'
    glossary_id = create(client, entries=entries, entries_format="csv")
    reply = client.get(f"/v2/glossaries/{glossary_id}/entries")
    assert reply.text == 'chat, noir\tblack cat\nchien\tdog "Rex"'


REFUSED_GLOSSARIES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "Parameter 'name' not specified."),
    ({"name": "a\nb"}, "name must not have control characters"),
    ({"entries": ""}, "Parameter 'entries' not specified."),
    ({"entries": "chat cat"}, "line 1"),
    ({"entries": "chat\tcat\nchat\tkitten"}, "line 2"),
    ({"entries": "chat\t"}, "line 1"),
    ({"entries": "ch\x01at\tcat"}, "line 1"),
    ({"entries_format": None}, "Parameter 'entries_format' not specified."),
    ({"entries_format": "xlsx"}, "Value for 'entries_format' not supported."),
    ({"source_lang": None}, "Parameter 'source_lang' not specified."),
    ({"source_lang": "xx"}, "Unsupported glossary source and target language pair"),
    ({"target_lang": "FR"}, "Unsupported glossary source and target language pair"),
]


def test_refused_glossaries(client: TestClient) -> None:
    for changes, detail in REFUSED_GLOSSARIES:
        assert detail in glossary_refusal(client.post("/v2/glossaries", json={**TERMS, **changes})), changes
    assert client.get("/v2/glossaries").json() == {"glossaries": []}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_ids_that_are_malformed_or_unknown(client: TestClient, version: str) -> None:
    pair = "?source_lang=fr&target_lang=en"
    for method, tail in (("GET", ""), ("DELETE", ""), ("GET", f"/entries{pair}")):
        glossary_refusal(client.request(method, f"/{version}/glossaries/{NOBODY}{tail}"), 404)
        for wrong in ("x", NOBODY[:-1], NOBODY + "0", "%F0%9F%98%80"):
            glossary_refusal(client.request(method, f"/{version}/glossaries/{wrong}{tail}"), 400)


# Glossaries of several dictionaries


def test_the_life_of_a_multilingual_glossary(client: TestClient) -> None:
    there = {"source_lang": "FR", "target_lang": "EN", "entries": "chat\tcat", "entries_format": "tsv"}
    back = {"source_lang": "EN", "target_lang": "FR", "entries": "cat,chat", "entries_format": "csv"}
    created = client.post("/v3/glossaries", json={"name": "animals", "dictionaries": [there, back]})
    assert created.status_code == 201
    glossary = created.json()
    assert set(glossary) == {"glossary_id", "name", "creation_time", "dictionaries"}
    assert glossary["dictionaries"] == [
        {"source_lang": "fr", "target_lang": "en", "entry_count": 1},
        {"source_lang": "en", "target_lang": "fr", "entry_count": 1},
    ]
    path = f"/v3/glossaries/{glossary['glossary_id']}"
    assert client.get("/v3/glossaries").json() == {"glossaries": [glossary]}
    assert client.get("/v2/glossaries").json() == {"glossaries": []}
    glossary_refusal(client.get(path.replace("v3", "v2")), 404)

    renamed = client.patch(path, json={"name": "beasts"}).json()
    assert renamed == {**glossary, "name": "beasts"}
    merged = client.patch(path, json={"dictionaries": [{**there, "entries": "chat\ttomcat\nchien\tdog"}]}).json()
    assert merged["dictionaries"][0] == {"source_lang": "fr", "target_lang": "en", "entry_count": 2}
    assert client.get(f"{path}/entries?source_lang=FR&target_lang=en-US").json() == {
        "dictionaries": [
            {"source_lang": "fr", "target_lang": "en", "entries": "chat\ttomcat\nchien\tdog", "entries_format": "tsv"}
        ]
    }
    replaced = client.put(f"{path}/dictionaries", json=there)
    assert (replaced.status_code, replaced.json()) == (
        200,
        {"source_lang": "fr", "target_lang": "en", "entry_count": 1},
    )

    deleted = client.delete(f"{path}/dictionaries?source_lang=EN&target_lang=FR")
    assert (deleted.status_code, deleted.content) == (204, b"")
    glossary_refusal(client.get(f"{path}/entries?source_lang=EN&target_lang=FR"), 404)
    assert [each["entry_count"] for each in client.get("/v2/glossaries").json()["glossaries"]] == [1]
    assert client.delete(path).status_code == 204
    glossary_refusal(client.patch(path, json={"name": "x"}), 404)


REFUSED_MULTILINGUAL: list[tuple[dict[str, Any], str]] = [
    ({"name": "x"}, "Parameter 'dictionaries' not specified."),
    ({"name": "x", "dictionaries": "x"}, "Value for 'dictionaries' not supported."),
    ({"name": "x", "dictionaries": [{}]}, "Parameter 'source_lang' not specified."),
    ({"dictionaries": [TERMS]}, "Parameter 'name' not specified."),
    ({"name": "x", "dictionaries": [TERMS, TERMS]}, "each pair of languages once"),
]


def test_refused_multilingual_glossaries(client: TestClient) -> None:
    for body, detail in REFUSED_MULTILINGUAL:
        assert detail in glossary_refusal(client.post("/v3/glossaries", json=body)), body
    assert client.get("/v3/glossaries").json() == {"glossaries": []}


# Glossaries in translation


def test_glossaries_reach_the_translator_in_order(client: TestClient, stub: StubTranslator) -> None:
    first, second = create(client), create(client, name="more", entries="ours\tbear")
    client.post("/v2/translate", json={**FRENCH, "glossary_id": first})
    client.post("/v2/translate", json={**FRENCH, "glossary_ids": [second, first]})
    client.post("/v2/translate", data={**FRENCH, "glossary_ids": f"{second},{first}"})
    used = [work.options.glossaries if work.options else () for work in stub.submitted]
    assert [[glossary.id for glossary in each] for each in used] == [[first], [second, first], [second, first]]
    assert used[0][0].entries == (("chat", "cat"), ("chien", "dog"))


def test_a_glossary_that_does_not_exist_or_fit(client: TestClient, stub: StubTranslator) -> None:
    unknown = client.post("/v2/translate", json={**FRENCH, "glossary_id": NOBODY})
    assert unknown.status_code == 404
    assert "no glossary" in unknown.json()["message"]
    back = create(client, source_lang="en", target_lang="fr")
    other_way = client.post("/v2/translate", json={**FRENCH, "glossary_id": back})
    assert other_way.status_code == 400
    assert "no dictionary from fr to en" in other_way.json()["message"]
    assert stub.submitted == []


def test_other_methods_are_answered_in_the_same_way(client: TestClient) -> None:
    assert glossary_refusal(client.put("/v3/glossaries"), 405) == "Method Not Allowed"
