"""The service with the model that is shipped, over HTTP as its users call it; nothing is stubbed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

FRENCH = "J'aime l'apprentissage automatique."
ENGLISH = "I love machine learning."


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """Return a client of the whole service, with the embedded model loaded and warm."""
    with TestClient(create_app(Settings(num_threads=1))) as started:  # two would wait for each other on a busy machine
        yield started


def test_the_request_of_the_readme(client: TestClient) -> None:
    reply = client.post("/translate", json={"q": FRENCH, "source": "fr", "target": "en"})
    assert reply.status_code == 200
    assert reply.json()["translatedText"].lower() in {ENGLISH.lower(), "i like machine learning."}


def test_detected_and_back(client: TestClient) -> None:
    reply = client.post(
        "/translate", json={"q": "The children are playing in the garden.", "source": "auto", "target": "fr"}
    )
    body = reply.json()
    assert body["detectedLanguage"]["language"] == "en"
    assert "enfants" in body["translatedText"]
    assert "jardin" in body["translatedText"]


def test_native_reply_has_spans_scores_and_alternatives(client: TestClient) -> None:
    text = "Bonjour !\n\nLe chat dort. Il fait froid ?"
    options = {"num_hypotheses": 3, "return_token_scores": True}
    reply = client.post("/v1/translate", json={"texts": [text], "source": None, "target": "en", "options": options})
    assert reply.status_code == 200
    (translation,) = reply.json()["translations"]
    assert translation["source"] == "fr"
    assert [text[s["start"] : s["end"]] for s in translation["segments"]] == [
        "Bonjour !",
        "Le chat dort.",
        "Il fait froid ?",
    ]
    assert translation["text"].count("\n\n") == 1
    assert 1 <= len(translation["alternatives"]) <= 2
    for segment in translation["segments"]:
        assert len(segment["token_scores"]) == len(segment["token_ids"]) + 1
        assert all(score <= 0 for score in segment["token_scores"])


def test_same_text_alone_and_in_a_crowd(client: TestClient) -> None:
    def ask(text: str) -> str:
        reply = client.post("/translate", json={"q": text, "source": "fr", "target": "en"})
        assert reply.status_code == 200
        return str(reply.json()["translatedText"])

    texts = [FRENCH, "Où est la gare ?", "Je voudrais un café, s'il vous plaît.", "Il pleut depuis ce matin."]
    alone = [ask(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(ask, texts * 6))
    assert crowd == alone * 6


def test_long_text_is_whole(client: TestClient) -> None:
    paragraph = "Le chat dort sur la chaise. La fille lit un livre.\n"
    reply = client.post("/translate", json={"q": paragraph * 20, "source": "fr", "target": "en"})
    lines = reply.json()["translatedText"].split("\n")
    assert len(lines) == 21
    assert len(set(lines[:20])) == 1
    assert "cat" in lines[0]


def test_ready_live_and_metrics(client: TestClient) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "dragoman" in client.get("/metrics").text


def test_both_directions_are_listed(client: TestClient) -> None:
    languages = {entry["code"]: set(entry["targets"]) for entry in client.get("/languages").json()}
    assert languages == {"en": {"en", "fr"}, "fr": {"en", "fr"}}
