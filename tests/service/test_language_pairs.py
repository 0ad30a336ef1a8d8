"""Which language pairs there are with several models: direct ones, by way of another language, and over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.model_store import ModelEntry, ModelStore
from app.registry import TranslatorRegistry
from model import UnsupportedLanguageError
from tests.service.conftest import StubTranslator
from tests.service.stub_models import leg

# The choice of models


def registry(*legs: StubTranslator, **values: Any) -> TranslatorRegistry:
    made = TranslatorRegistry(**values)
    made.start(legs)
    return made


def chosen(found: TranslatorRegistry, source: str, target: str) -> tuple[str, str | None]:
    choice, *_ = found.select(source, target)
    return choice.name, choice.via


def test_one_model_is_preferred_to_two_and_english_to_other_languages() -> None:
    legs = [leg("fr", "es"), leg("es", "de"), leg("fr", "en"), leg("en", "de")]
    assert chosen(registry(*legs), "fr", "de") == ("fr-en + en-de", "en")
    assert chosen(registry(*legs[:3]), "fr", "de") == ("fr-es + es-de", "es")
    assert chosen(registry(*legs, leg("fr", "de")), "fr", "de") == ("fr-de", None)
    with pytest.raises(UnsupportedLanguageError, match="target must be a language that fr can be translated to"):
        registry(*legs, pivot=False).select("fr", "de")
    with pytest.raises(UnsupportedLanguageError, match="target must be a language that fr can be"):
        registry(*legs).select("fr", "de", direct=True)
    with pytest.raises(UnsupportedLanguageError):  # a model by its name is one model
        registry(*legs).select("fr", "de", "fr-en")


def test_only_pairs_that_are_possible_are_offered() -> None:
    found = registry(leg("fr", "en"), leg("en", "de"), leg("de", "ja"))
    assert found.targets("fr") == ["fr", "en", "de"]  # no three in a row
    assert found.targets("en") == ["en", "de", "ja"]
    assert found.targets("ja") == []
    with pytest.raises(UnsupportedLanguageError, match="source must be one of fr, en, de, got 'ja'"):
        found.select("ja", "en")
    with pytest.raises(UnsupportedLanguageError, match="target must be one of en, de, ja, got 'fr'"):
        found.select("en", "fr")
    assert found.select("en", "en")[0].name == "fr-en"  # such a text stays as it is
    round_trip = registry(leg("en", "fr"), leg("fr", "en"))
    assert round_trip.targets("en") == ["en", "fr"]
    assert chosen(round_trip, "fr", "en") == ("fr-en", None)


def test_what_is_offered_is_what_can_be_had() -> None:
    legs = [leg("fr", "en"), leg("en", "de"), leg("de", "ja"), leg("ja", "fr"), StubTranslator("both", ("es", "de"))]
    found = registry(*legs)
    codes = [each.code for each in found.languages()]
    for source in codes:
        for target in codes:
            if source == target:
                continue
            try:
                choice, *_ = found.select(source, target)
            except UnsupportedLanguageError:
                assert target not in found.targets(source), (source, target)
                continue
            assert target in found.targets(source)
            first, last = choice.entries[0], choice.entries[-1]
            assert source in first.source_languages
            assert target in last.target_languages
            if choice.via is not None:
                assert choice.via in first.target_languages
                assert choice.via in last.source_languages


def test_two_models_that_memory_cannot_hold_at_once_are_no_pair() -> None:
    store = ModelStore(budget_bytes=100)
    legs = [leg("fr", "en"), leg("en", "de")]
    store.entries = tuple(
        ModelEntry(each.name, None, each.source_languages, each.target_languages, each.languages, {}, 60)
        for each in legs
    )
    found = TranslatorRegistry(store)
    found.ready = True
    with pytest.raises(UnsupportedLanguageError):
        found.select("fr", "de")
    store.budget_bytes = 120
    ready = TranslatorRegistry(store)
    ready.ready = True
    assert chosen(ready, "fr", "de") == ("fr-en + en-de", "en")


# Over HTTP


@pytest.fixture
def legs() -> list[StubTranslator]:
    return [leg("fr", "en"), leg("en", "de")]


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/translate", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_the_answer_says_by_way_of_what(make_app: Callable[..., FastAPI], legs: Sequence[StubTranslator]) -> None:
    with TestClient(make_app(legs, cache_megabytes=1)) as client:
        reply = post(client, texts=["un chat", "—"], source="fr", target="de")
        assert [item["text"] for item in reply["translations"]] == ["<de><en>un chat", "—"]
        assert [item["via"] for item in reply["translations"]] == ["en", None]
        assert reply["model"] == "fr-en + en-de"
        assert reply["usage"] == {"characters": 8, "source_tokens": 6, "target_tokens": 4}
        assert post(client, texts="un chat", source="fr", target="en")["translations"][0]["via"] is None
        count = len(legs[1].submitted)
        assert post(client, texts="un chat", source="fr", target="de")["translations"][0]["via"] == "en"
        assert len(legs[1].submitted) == count  # from the cache
        listed = client.get("/v1/languages").json()["languages"]
        assert {entry["code"]: entry["targets"] for entry in listed} == {"fr": ["en", "de"], "en": ["de"], "de": []}
        libre = {entry["code"]: entry["targets"] for entry in client.get("/languages").json()}
        assert libre == {"fr": ["fr", "en", "de"], "en": ["en", "de"], "de": []}
        assert [each["language"] for each in client.get("/v2/languages?type=source").json()] == ["EN", "FR"]
        assert [each["language"] for each in client.get("/v2/languages?type=target").json()] == ["DE", "EN-GB", "EN-US"]
        usable = {
            each["lang"]: (each["usable_as_source"], each["usable_as_target"])
            for each in client.get("/v3/languages?resource=translate_text").json()
        }
        assert usable == {
            "de": (False, True), "en": (True, True), "en-GB": (False, True), "en-US": (False, True), "fr": (True, False)
        }  # fmt: skip
        score = {"pairs": [{"text": "x", "translation": "y"}], "source": "fr", "target": "de"}
        assert client.post("/v1/score", json=score).json()["errors"][0]["pointer"] == "#/target"


def test_a_glossary_that_cannot_be_applied_is_refused_where_no_reply_could_say_so(
    make_app: Callable[..., FastAPI], legs: Sequence[StubTranslator]
) -> None:
    with TestClient(make_app(legs)) as client:
        dictionaries = [{"source": "fr", "target": "de", "entries": [["chat", "Katze"]]}]
        made = client.post("/v1/glossaries", json={"name": "cats", "dictionaries": dictionaries})
        assert made.status_code == 201, made.text
        body = {"texts": "un chat", "source": "fr", "target": "de", "glossaries": [made.json()["id"]]}
        [hit] = post(client, **body)["translations"][0]["glossary_hits"]
        assert (hit["status"], hit["glossary"]) == ("skipped", made.json()["id"])
        body = {"text": ["un chat"], "source_lang": "FR", "target_lang": "DE", "glossary_id": made.json()["id"]}
        refused = client.post("/v2/translate", json=body)
        assert refused.status_code == 400
        assert "by way of another language" in refused.json()["message"]
        form = {"source": "fr", "target": "de", "glossaries": made.json()["id"]}
        refused = client.post("/v1/documents", data=form, files={"file": ("a.txt", "un chat")})
        assert refused.status_code == 422
        assert "by way of en" in refused.json()["detail"]


def test_terms_of_a_request_may_be_for_many_languages(make_app: Callable[..., FastAPI]) -> None:
    many = StubTranslator("many", languages=("en", "fr", "de", "es", "it", "pt", "nl", "sv"))
    with TestClient(make_app([many])) as client:
        terms = [{"source": "chat", "target": "Katze"}]
        post(client, texts="chat", source="fr", target="de", terms=terms)
        post(client, texts="chat", target="de", terms=terms)
    given, detected = (work.options for work in many.submitted)
    assert given is not None
    assert detected is not None
    assert [each.source_language for each in given.glossaries] == ["fr"]
    assert len(detected.glossaries) == 7


def test_it_can_be_switched_off(make_app: Callable[..., FastAPI], legs: Sequence[StubTranslator]) -> None:
    with TestClient(make_app(legs, pivot=False)) as client:
        assert client.post("/v1/translate", json={"texts": "x", "source": "fr", "target": "de"}).status_code == 422
        listed = client.get("/v1/languages").json()["languages"]
        assert {entry["code"]: entry["targets"] for entry in listed} == {"fr": ["en"], "en": ["de"], "de": []}


def test_an_open_source_chooses_the_model_of_each_text(make_app: Callable[..., FastAPI]) -> None:
    legs = [leg("fr", "en"), leg("ru", "en"), leg("en", "es")]
    french, russian, english = "Où est la bibliothèque municipale ?", "Где же мой ключ?", "Where is my key?"
    with TestClient(make_app(legs)) as client:
        reply = post(client, texts=[russian, french, english, russian], target="en")
        assert [item["source"] for item in reply["translations"]] == ["ru", "fr", "en", "ru"]
        assert [item["text"] for item in reply["translations"]] == [
            f"<en>{russian}", f"<en>{french}", english, f"<en>{russian}"
        ]  # fmt: skip
        assert [item["detected"]["language"] for item in reply["translations"]] == ["ru", "fr", "en", "ru"]
        both = post(client, texts=[russian, english], target="es")
        assert [(item["via"], item["text"]) for item in both["translations"]] == [
            ("en", f"<es><en>{russian}"), (None, f"<es>{english}")
        ]  # fmt: skip
        markup = post(client, texts=f"<p>{russian}</p>", target="es", format="html")
        assert markup["translations"][0]["source"] == "ru"
        libre = client.post("/translate", json={"q": russian, "source": "auto", "target": "en"}).json()
        assert libre["detectedLanguage"]["language"] == "ru"


def test_a_stream_has_the_segments_of_both_legs(
    make_app: Callable[..., FastAPI], legs: Sequence[StubTranslator]
) -> None:
    with TestClient(make_app(legs)) as client:
        reply = client.post("/v1/translate", json={"texts": "un", "source": "fr", "target": "de", "stream": True})
    events = [block.split("\n") for block in reply.text.strip().split("\n\n")]
    found = {lines[0].removeprefix("event: "): json.loads(lines[1].removeprefix("data: ")) for lines in events}
    assert found["segment"]["source"] == "un"
    assert found["segment"]["text"] == found["translation"]["text"] == "<de><en>un"
    assert found["translation"]["via"] == "en"
