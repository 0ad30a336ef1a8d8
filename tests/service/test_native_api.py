"""The native face: shapes of replies, options, detection, models, and its errors as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.schemas import GenerationOptions
from model import GenerationConfig

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator


def translate(client: TestClient, **body: Any) -> Any:
    reply = client.post("/v1/translate", json={"target": "en", **body})
    assert reply.status_code == 200, reply.text
    return reply.json()


def problem(client: TestClient, status: int, **body: Any) -> Any:
    reply = client.post("/v1/translate", json=body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    content = reply.json()
    assert set(content) == {"type", "title", "status", "detail", "instance", "errors"}
    assert content["status"] == status
    assert content["instance"] == "/v1/translate"
    return content


def test_the_whole_reply(client: TestClient) -> None:
    assert translate(client, texts=["Bonjour"], source="fr") == {
        "translations": [
            {
                "index": 0,
                "text": "<en>Bonjour",
                "source": "fr",
                "target": "en",
                "via": None,
                "detected": None,
                "alternatives": [],
                "score": -0.25,
                "segments": [
                    {
                        "unit": 0,
                        "start": 0,
                        "end": 7,
                        "target_start": 0,
                        "target_end": 0,
                        "source": "Bonjour",
                        "text": "<en>Bonjour",
                        "alternatives": [],
                        "score": -0.25,
                        "token_ids": None,
                        "token_scores": None,
                        "alignment": None,
                        "quality": None,
                        "words": None,
                    }
                ],
                "finish_reason": "end",
                "warnings": [],
                "quality": None,
                "glossary_hits": [],
            }
        ],
        "usage": {"characters": 7, "source_tokens": 3, "target_tokens": 2},
        "model": "stub",
    }


def test_texts_keep_their_order_and_are_translated_one_by_one(client: TestClient, stub: StubTranslator) -> None:
    reply = translate(client, texts=["un", "deux", "trois"], source="fr")
    assert [item["text"] for item in reply["translations"]] == ["<en>un", "<en>deux", "<en>trois"]
    assert reply["usage"] == {"characters": 11, "source_tokens": 9, "target_tokens": 6}
    assert [work.text for work in stub.submitted] == ["un", "deux", "trois"]


def test_a_single_text_needs_no_list(client: TestClient) -> None:
    assert translate(client, texts="un", source="fr")["translations"][0]["text"] == "<en>un"


@pytest.mark.parametrize("source", [None, "auto", "AUTO"])
def test_each_text_has_its_own_detected_language(client: TestClient, source: str | None) -> None:
    first, second = translate(client, texts=["été", "summer"], source=source, target="fr")["translations"]
    assert (first["source"], first["detected"]) == ("fr", {"language": "fr", "confidence": 0.75})
    assert (second["source"], second["detected"]) == ("en", {"language": "en", "confidence": 0.875})
    assert first["text"] == "été"  # French to French
    assert second["text"] == "<fr>summer"


def test_languages_are_known_by_their_other_names(client: TestClient, stub: StubTranslator) -> None:
    translation = translate(client, texts="x", source="fra_Latn", target="EN")["translations"][0]
    assert (translation["source"], translation["target"]) == ("fr", "en")
    assert (stub.submitted[0].source, stub.submitted[0].target) == ("fr", "en")


def test_the_same_language_returns_the_text_without_work(client: TestClient, stub: StubTranslator) -> None:
    translation = translate(client, texts="Hello\n", source="en")["translations"][0]
    assert translation["text"] == "Hello\n"
    assert translation["finish_reason"] == "unchanged"
    assert translation["score"] is None
    assert stub.submitted == []


def test_alternatives_are_different_from_the_text_and_from_each_other(client: TestClient) -> None:
    options = {"num_hypotheses": 3}
    translation = translate(client, texts="x", source="fr", options=options)["translations"][0]
    assert translation["alternatives"] == ["<en1>x", "<en2>x"]


def test_token_scores_on_request(client: TestClient) -> None:
    options = {"return_token_scores": True}
    segment = translate(client, texts="x", source="fr", options=options)["translations"][0]["segments"][0]
    assert segment["token_ids"] == [7, 8]
    assert segment["token_scores"] == [-0.25, -0.25]


def test_every_generation_parameter_is_an_option_with_the_same_default() -> None:
    ours, theirs = GenerationOptions().config(), GenerationConfig()
    # Given as text: a prefix, glossaries, protected parts.
    beside = {"target_prefix", "num_unscored", "required_phrases"}
    names = {field.name for field in fields(GenerationConfig)} - beside
    assert set(GenerationOptions.model_fields) == names
    assert ours == theirs


def test_options_reach_the_translator(client: TestClient, stub: StubTranslator) -> None:
    options = {
        "beam_size": 5,
        "num_hypotheses": 2,
        "patience": 2,
        "length_penalty": 0.5,
        "repetition_penalty": 1.25,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 1,
        "max_new_tokens": 50,
        "max_length_ratio": 3.0,
        "banned_tokens": [11, 12],
    }
    translate(client, texts="x", source="fr", options=options, target_prefix="Well")
    expected = GenerationConfig(**{**options, "banned_tokens": (11, 12)})  # type: ignore[arg-type]
    assert stub.submitted[0].config == expected
    assert stub.submitted[0].target_prefix == "Well"


def test_each_request_is_a_caller_of_its_own(client: TestClient, stub: StubTranslator) -> None:
    body = {"texts": ["x", "y"], "source": "fr", "target": "en"}
    replies = [client.post("/v1/translate", json=body) for _ in range(2)]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert [work.caller for work in stub.submitted] == [ids[0], ids[0], ids[1], ids[1]]


def test_sampling_and_many_hypotheses_choose_their_beam(client: TestClient, stub: StubTranslator) -> None:
    translate(client, texts="x", source="fr", options={"sampling": True, "temperature": 0.5, "seed": 3})
    translate(client, texts="x", source="fr", options={"num_hypotheses": 9})
    assert [work.config.beam_size for work in stub.submitted] == [1, 9]


def test_a_model_is_chosen_by_its_languages_or_its_name(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    german = type(stub)(name="german", languages=("en", "de"))
    with TestClient(make_app([stub, german], pivot=False)) as client:
        assert translate(client, texts="x", source="de", target="en")["model"] == "german"
        assert translate(client, texts="x", source="fr", target="en")["model"] == "stub"
        assert translate(client, texts="hello", source=None, target="en")["model"] == "stub"
        assert translate(client, texts="hello", source=None, target="en", model="german")["model"] == "german"
        refused = problem(client, 422, texts="x", source="fr", target="de")
        assert refused["type"] == "urn:dragoman:problem:unsupported-language"
        assert problem(client, 422, texts="x", target="fr", model="german")["errors"][0]["pointer"] == "#/target"
        models = client.get("/v1/models").json()["models"]
        assert [(model["name"], model["default"]) for model in models] == [("stub", True), ("german", False)]
        assert models[1]["languages"] == ["en", "de"]
        assert models[0]["info"] == {"device": "none"}
        listed = client.get("/v1/languages").json()["languages"]
        assert {entry["code"]: entry["targets"] for entry in listed} == {"en": ["fr", "de"], "fr": ["en"], "de": ["en"]}
        assert {entry["code"]: entry["name"] for entry in listed} == {"en": "English", "fr": "French", "de": "German"}


def test_detect(client: TestClient) -> None:
    reply = client.post("/v1/detect", json={"texts": ["été", "123"]})
    assert reply.status_code == 200
    french = [{"language": "fr", "confidence": 0.75}, {"language": "en", "confidence": 0.25}]
    assert reply.json() == {"detections": [french, []]}


@pytest.mark.parametrize(
    ("body", "pointer", "rule"),
    [
        ({"target": "en"}, "#/texts", "Field required"),
        ({"texts": "x"}, "#/target", "must be given"),
        ({"texts": "x", "target": "en", "targets": ["fr"]}, "#/target", "but not both"),
        ({"texts": "x", "targets": []}, "#/targets", "1 to 16"),
        ({"texts": 5, "target": "en"}, "#/texts", "valid list"),
        ({"texts": ["x", 5], "target": "en"}, "#/texts/1/str", "valid string"),
        ({"texts": None, "target": "en"}, "#/texts", "valid list"),
        ({"texts": "x", "target": ["en"]}, "#/target", "valid string"),
        ({"texts": "x", "target": "en", "source": 1}, "#/source", "valid string"),
        ({"texts": "x", "target": "en", "tagret": "en"}, "#/tagret", "not permitted"),
        ({"texts": "x", "target": "en", "format": "rtf"}, "#/format", "'text'"),
        ({"texts": "x", "target": "en", "protect": {"patterns": ["("]}}, "#/protect/patterns/0", "regular"),
        ({"texts": "x", "target": "en", "protect": {"presets": ["x"]}}, "#/protect/presets", "must be among"),
        ({"texts": "x", "target": "en", "options": {"beam_size": "4"}}, "#/options/beam_size", "valid integer"),
        ({"texts": "x", "target": "en", "options": {"sampling": 1}}, "#/options/sampling", "valid boolean"),
        ({"texts": "x", "target": "en", "options": {"beam": 4}}, "#/options/beam", "not permitted"),
        ({"texts": "x", "target": "en", "options": {"beam_size": 65}}, "#/options/beam_size", "between 1 and 64"),
        ({"texts": "x", "target": "en", "options": {"num_hypotheses": 65}}, "#/options/num_hypotheses", "1 and 64"),
        ({"texts": "x", "target": "en", "options": {"temperature": 0}}, "#/options/temperature", "above 0"),
        ({"texts": "x", "target": "zz"}, "#/target", "must be one of en, fr"),
        ({"texts": "x", "target": "en", "source": "zz"}, "#/source", "must be one of en, fr"),
        ({"texts": "x", "target": "en", "source": ""}, "#/source", "must be one of en, fr"),
        ({"texts": "x", "target": "en", "model": "gpt"}, "#/model", "must be one of stub"),
        ({"texts": "x", "target": "en", "deadline_ms": 0}, "#/deadline_ms", "between 1 and 120000"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(
    client: TestClient, stub: StubTranslator, body: dict[str, Any], pointer: str, rule: str
) -> None:
    errors = problem(client, 422, **body)["errors"]
    assert errors[0]["pointer"] == pointer
    assert rule in errors[0]["detail"]
    assert stub.submitted == []


def test_every_broken_rule_is_named(client: TestClient) -> None:
    errors = problem(client, 422, options={"top_k": "a", "top_p": "b"})["errors"]
    assert {error["pointer"] for error in errors} == {"#/texts", "#/options/top_k", "#/options/top_p"}


def test_unknown_paths_and_methods(client: TestClient) -> None:
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:dragoman:problem:not-found")
    wrong = client.get("/v1/translate")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.headers["content-type"] == "application/problem+json"
