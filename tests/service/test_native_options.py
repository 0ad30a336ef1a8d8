"""What /v1/translate offers beyond one plain text: streams, several targets, languages of single texts, terms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from model import DecodingError

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator


def events(client: TestClient, **body: Any) -> list[tuple[str, Any]]:
    """Return the server-sent events of a request as (name, data)."""
    reply = client.post("/v1/translate", json={"stream": True, **body})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    found = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_stream_tells_segments_then_translations_then_the_end(client: TestClient) -> None:
    found = events(client, texts=["un", "deux"], source="fr", target="en")
    assert [name for name, _ in found if name != "segment"] == ["translation", "translation", "done"]
    segments = [data for name, data in found if name == "segment"]
    assert sorted((data["index"], data["target"], data["text"]) for data in segments) == [
        (0, "en", "<en>un"),
        (1, "en", "<en>deux"),
    ]
    assert found[-1][1]["usage"]["characters"] == 6
    whole = client.post("/v1/translate", json={"texts": ["un", "deux"], "source": "fr", "target": "en"}).json()
    assert [data for name, data in found if name == "translation"] == whole["translations"]


def test_an_error_is_the_last_event_of_a_stream(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.refuses_after, stub.refusal = 1, DecodingError("broken")
    with TestClient(make_app(), raise_server_exceptions=False) as client:
        reply = client.post(
            "/v1/translate", json={"stream": True, "texts": ["un", "deux"], "source": "fr", "target": "en"}
        )
    last = reply.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    assert json.loads(last.split("data: ")[1])["status"] == 500


def test_several_targets_and_a_language_for_one_text(client: TestClient) -> None:
    body = {"texts": ["un", {"text": "two", "source": "en"}], "source": "fr", "targets": ["en", "fr"]}
    found = client.post("/v1/translate", json=body).json()["translations"]
    assert [(item["index"], item["source"], item["target"], item["text"]) for item in found] == [
        (0, "fr", "en", "<en>un"),
        (1, "en", "en", "two"),
        (0, "fr", "fr", "un"),
        (1, "en", "fr", "<fr>two"),
    ]


def test_options_of_the_text_reach_the_translator(client: TestClient, stub: StubTranslator) -> None:
    body = {
        "texts": "un",
        "source": "fr",
        "target": "en",
        "format": "html",
        "ignore_tags": ["x"],
        "splitting": "lines",
        "guard": False,
        "return_quality": True,
        "protect": {"presets": ["urls"], "literals": ["Dragoman"]},
        "terms": [{"source": "un", "target": "one"}],
    }
    assert client.post("/v1/translate", json=body).status_code == 200
    options = stub.submitted[0].options
    assert options is not None
    assert (options.format, options.markup.ignore_tags, options.splitting) == ("html", ("x",), "lines")
    assert (options.guard, options.quality, options.alignment) == (False, True, False)
    assert (options.protection.presets, options.protection.literals) == (("urls",), ("Dragoman",))
    assert {(each.source_language, each.target_language, each.entries) for each in options.glossaries} == {
        ("fr", "en", (("un", "one"),))
    }
