"""/v1/score, /v1/complete, /v1/alternatives and /v1/explain around the stub, and once around the shipped model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

PAIR = {"source": "fr", "target": "en"}


@pytest.fixture(scope="module")
def shipped() -> Iterator[TestClient]:
    """A client of the whole service with the embedded model."""
    with TestClient(create_app(Settings(num_threads=1))) as started:
        yield started


def ask(client: TestClient, path: str, **body: Any) -> Any:
    """Return a good reply."""
    reply = client.post(f"/v1/{path}", json={**PAIR, **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client: TestClient, path: str, **body: Any) -> dict[str, str]:
    """Return the only error of a request that breaks a rule."""
    reply = client.post(f"/v1/{path}", json={**PAIR, **body})
    assert reply.status_code == 422, reply.text
    [error] = reply.json()["errors"]
    return dict(error)


def test_scores_are_those_of_the_tokens(client: TestClient) -> None:
    pairs = [{"text": "abc", "translation": "abx"}, {"text": "d", "translation": ""}]
    reply = ask(client, "score", pairs=pairs)
    first, second = reply["scores"]
    assert [token["log_prob"] for token in first["tokens"]] == [-0.5, -0.5, -2.0, -1.0]
    assert first["log_prob"] == -4.0
    assert first["score"] == -1.0
    assert first["alignment"] is first["quality"] is first["words"] is None
    assert (second["index"], second["log_prob"]) == (1, -1.0)
    assert reply["usage"] == {"characters": 4, "source_tokens": 4, "target_tokens": 5}


def test_scores_with_words(client: TestClient) -> None:
    pair = {"text": "abc", "translation": "ab"}
    body = {"pairs": [pair], "return_alignment": True, "return_quality": True, "source": "auto"}
    [score] = ask(client, "score", **body)["scores"]
    assert score["alignment"] == [{"source_start": 0, "source_end": 3, "target_start": 0, "target_end": 2}]
    assert score["words"] == [{"start": 0, "end": 2, "quality": 0.5}]
    assert score["detected"] == {"language": "fr", "confidence": 0.75}


def test_a_completion_begins_as_wanted(client: TestClient, stub: StubTranslator) -> None:
    reply = ask(client, "complete", text="chat", prefix="The ", options={"num_hypotheses": 2})
    assert reply["text"] == "The <en>chat"
    assert reply["alternatives"] == ["<en1>chat"]
    [work] = stub.submitted
    assert work.target_prefix == "The "
    assert work.options is not None
    assert work.options.splitting == "none"
    assert work.config.num_hypotheses == 2


def test_words_that_could_come_next(client: TestClient) -> None:
    reply = ask(client, "alternatives", text="un deux trois", prefix="one", num_alternatives=2)
    assert reply["alternatives"] == [
        {"word": "un", "probability": 0.5, "prefix": "one un"},
        {"word": "deux", "probability": 0.25, "prefix": "one deux"},
    ]


def test_errors_name_the_field_of_the_body(client: TestClient) -> None:
    assert refused(client, "alternatives", text="un", num_alternatives=33)["pointer"] == "#/num_alternatives"
    assert refused(client, "explain", text="x" * 63)["pointer"] == "#/text"
    assert refused(client, "explain", text="x", temperature=0)["pointer"] == "#/temperature"
    assert refused(client, "explain", text="x", options={"top_p": 2})["pointer"] == "#/options/top_p"
    assert refused(client, "complete", text="x", target="xx")["pointer"] == "#/target"
    pair = {"text": "x", "translation": "y", "more": 1}
    assert refused(client, "score", pairs=[pair])["pointer"].startswith("#/pairs")


@pytest.mark.parametrize("path", ["score", "complete", "alternatives", "explain"])
def test_each_has_the_limits_of_the_service(make_app: Callable[..., FastAPI], path: str) -> None:
    body: dict[str, Any] = {"text": "too long"} if path != "score" else {}
    if path == "score":
        body["pairs"] = [{"text": "x", "translation": "too long"}]
    with TestClient(make_app(max_characters=5)) as client:
        assert "at most 5 characters" in refused(client, path, **body)["detail"]


@pytest.mark.parametrize("path", ["score", "alternatives", "explain"])
def test_what_nobody_waits_for_is_dropped(make_app: Callable[..., FastAPI], stub: StubTranslator, path: str) -> None:
    stub.holds = True
    body: dict[str, Any] = {"pairs": [{"text": "x", "translation": "y"}]} if path == "score" else {"text": "x"}
    with TestClient(make_app()) as client:
        reply = client.post(f"/v1/{path}", json={**PAIR, **body, "deadline_ms": 50})
    assert reply.status_code == 504
    assert all(future.cancelled() for future in stub.open_analyses)
    assert len(stub.open_analyses) == 1


def test_equal_texts_are_translated_once(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    body = {**PAIR, "texts": ["chat", "chien"]}
    with TestClient(make_app(cache_megabytes=1)) as client:
        first = client.post("/v1/translate", json=body).json()
        again = client.post("/v1/translate", json=body).json()
        assert again == first
        assert [work.text for work in stub.submitted] == ["chat", "chien"]
        for change in (
            {"guard": False},
            {"options": {"beam_size": 2}},
            {"target_prefix": "a"},
            {"protect": {"literals": ["c"]}},
        ):
            before = len(stub.submitted)
            client.post("/v1/translate", json={**body, **change})
            assert len(stub.submitted) == before + 2, change


def test_equal_texts_on_their_way_share_the_work(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.holds = True
    replies: list[Any] = []
    with TestClient(make_app(cache_megabytes=1)) as client:

        def translate() -> None:
            replies.append(client.post("/v1/translate", json={**PAIR, "texts": ["chat", "chat"]}).json())

        thread = threading.Thread(target=translate)
        thread.start()
        assert stub.arrivals.acquire(timeout=10)
        stub.submitted[0].finish()
        thread.join(timeout=10)
    assert len(stub.submitted) == 1
    assert [item["text"] for item in replies[0]["translations"]] == ["<en>chat", "<en>chat"]


def test_another_model_with_the_same_name_shares_nothing(
    make_app: Callable[..., FastAPI], stub: StubTranslator
) -> None:
    with TestClient(make_app(cache_megabytes=1)) as client:
        ask(client, "complete", text="chat")
        stub.fingerprint = "other weights"
        ask(client, "complete", text="chat")
    assert len(stub.submitted) == 2


def test_shipped_scores_add_up(shipped: TestClient) -> None:
    text, good, bad = "Le chat dort.", "The cat is sleeping.", "The house is yellow."
    pairs = [{"text": text, "translation": good}, {"text": text, "translation": bad}]
    reply = ask(shipped, "score", pairs=pairs, return_alignment=True, return_quality=True)
    first, second = reply["scores"]
    assert first["log_prob"] > second["log_prob"]
    assert first["quality"] > second["quality"]
    assert math.isclose(first["log_prob"], sum(token["log_prob"] for token in first["tokens"]))
    words = {(link["source_start"], link["target_start"]) for link in first["alignment"]}
    assert (text.index("chat"), good.index("cat")) in words


def test_shipped_words_lead_to_completions(shipped: TestClient) -> None:
    text = "J'aime beaucoup les chats."
    found = ask(shipped, "alternatives", text=text, prefix="I", num_alternatives=4)["alternatives"]
    probabilities = [each["probability"] for each in found]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1
    for each in found:
        assert each["prefix"].startswith("I")
        completed = ask(shipped, "complete", text=text, prefix=each["prefix"])
        assert completed["text"].startswith(each["prefix"])


def test_shipped_explanation_is_of_its_own_translation(shipped: TestClient) -> None:
    text = "Le chat dort."
    reply = ask(shipped, "explain", text=text, source="auto", options={"beam_size": 1}, top_k=3)
    explanation = reply["explanation"]
    assert reply["detected"]["language"] == "fr"
    assert explanation["source"] == text
    [complete] = [ask(shipped, "explain", text=text, translation=explanation["target"])["explanation"]]
    assert complete["target"] == explanation["target"]
    assert len(explanation["steps"]) == len(explanation["target_tokens"]) + 1
    assert all(step["num_survivors"] == 3 for step in explanation["steps"])
    layers, heads = reply["shape"]["num_encoder_layers"], reply["shape"]["num_heads"]
    attention = explanation["encoder_attention"]
    assert (len(attention), len(attention[0])) == (layers, heads)
    for row in attention[-1][0]:
        assert sum(row) == pytest.approx(1, abs=len(row) * 0.5e-4)  # each weight is rounded to four digits
