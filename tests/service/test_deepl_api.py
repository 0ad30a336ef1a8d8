"""The DeepL face: encodings, order of checks, messages, shapes and status codes that its clients rely on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from model import EngineClosedError, InvalidTextError, OverloadedError
from tests.service.running_server import serve

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FRENCH: dict[str, Any] = {"text": ["été"], "source_lang": "FR", "target_lang": "EN-GB"}
ANSWER = {"translations": [{"detected_source_language": "FR", "text": "<en>été", "billed_characters": 3}]}
NOBODY = "00000000-0000-4000-8000-000000000000"


def refusal(reply: httpx2.Response, status: int = 400) -> str:
    """Return the message of an error."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()) == {"message"}
    return str(reply.json()["message"])


# Encodings


def test_json(client: TestClient) -> None:
    reply = client.post("/v2/translate", json=FRENCH)
    assert (reply.status_code, reply.json()) == (200, ANSWER)


@pytest.mark.parametrize("name", ["text", "text[]"])
def test_a_form_repeats_its_texts(client: TestClient, stub: StubTranslator, name: str) -> None:
    texts = ["été", "un\r\ndeux", "a,b & c=d", ""]
    fields = [*((name, text) for text in texts), ("source_lang", "fr"), ("target_lang", "en")]
    reply = client.post(
        "/v2/translate", content=urlencode(fields), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert [each["text"] for each in reply.json()["translations"]] == ["<en>été", "<en>un\r\ndeux", "<en>a,b & c=d", ""]
    assert [work.text for work in stub.submitted] == texts[:3]


def test_a_form_may_have_as_many_texts_as_json(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_texts=150)) as client:
        fields = [("text", f"mot {number}") for number in range(150)]
        content = urlencode([*fields, ("target_lang", "en"), ("source_lang", "fr")])
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert len(client.post("/v2/translate", content=content, headers=headers).json()["translations"]) == 150
        assert "max_texts" not in refusal(client.post("/v2/translate", json={**FRENCH, "text": ["x"] * 151}))


def test_multipart(client: TestClient) -> None:
    fields = {name: (None, value if isinstance(value, str) else value[0]) for name, value in FRENCH.items()}
    assert client.post("/v2/translate", files=fields).json() == ANSWER


def test_the_body_of_a_get_is_read(client: TestClient) -> None:
    assert client.request("GET", "/v2/translate", data=FRENCH).json() == ANSWER
    assert client.request("GET", "/v2/translate", json=FRENCH).json() == ANSWER
    assert client.get("/v2/translate?" + urlencode({**FRENCH, "text": "été"})).json() == ANSWER


def test_another_content_type_is_refused(client: TestClient) -> None:
    reply = client.post("/v2/translate", content="text=a&target_lang=en", headers={"Content-Type": "text/plain"})
    assert "Content-Type" in refusal(reply, 415)


@pytest.mark.parametrize("body", ["{", "[]", '"x"', '{"text": NaN}'])
def test_a_broken_body_is_answered_in_json(client: TestClient, body: str) -> None:
    assert "JSON" in refusal(client.post("/v2/translate", content=body, headers={"Content-Type": "application/json"}))


# Translation


def test_the_source_is_detected_for_each_text(client: TestClient) -> None:
    body = {"text": ["été", "summer", "😀 123 😀"], "target_lang": "EN-US"}
    assert client.post("/v2/translate", json=body).json()["translations"] == [
        {"detected_source_language": "FR", "text": "<en>été", "billed_characters": 3},
        {"detected_source_language": "EN", "text": "summer", "billed_characters": 6},
        {"detected_source_language": "EN", "text": "😀 123 😀", "billed_characters": 7},
    ]


def test_languages_are_known_in_any_case_and_with_any_region(client: TestClient) -> None:
    for target in ("EN", "en", "EN-GB", "en-gb", "EN-US", "en-us"):
        for source in ("FR", "fr", "fr-CA"):
            assert (
                client.post("/v2/translate", json={**FRENCH, "target_lang": target, "source_lang": source}).json()
                == ANSWER
            )


def test_variants_of_portuguese(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.languages = ("en", "pt")
    with TestClient(make_app()) as client:
        for target in ("PT", "PT-BR", "pt-pt"):
            body = {"text": ["summer"], "source_lang": "EN", "target_lang": target}
            assert client.post("/v2/translate", json=body).json()["translations"][0]["text"] == "<pt>summer"
        names = {each["language"]: each["name"] for each in client.get("/v2/languages?type=target").json()}
    assert set(names) == {"EN-GB", "EN-US", "PT-BR", "PT-PT"}


def test_what_has_no_effect_is_accepted(client: TestClient) -> None:
    body = {
        **FRENCH,
        "context": "about the seasons",
        "preserve_formatting": True,
        "outline_detection": "0",
        "show_billed_characters": False,
        "tag_handling_version": "v2",
        "formality": "prefer_less",
        "enable_beta_languages": 1,
        "something_new": {"x": 1},
        "style_id": None,
        "custom_instructions": [],
    }
    assert client.post("/v2/translate", json=body).json() == ANSWER


MODEL_TYPES: list[tuple[str, str]] = [
    ("quality_optimized", "quality_optimized"),
    ("prefer_quality_optimized", "quality_optimized"),
    ("latency_optimized", "latency_optimized"),
]


def test_the_model_type_is_told_if_one_was_asked_for(client: TestClient) -> None:
    for model_type, used in MODEL_TYPES:
        [translation] = client.post("/v2/translate", json={**FRENCH, "model_type": model_type}).json()["translations"]
        assert translation["model_type_used"] == used


def test_options_of_markup(client: TestClient, stub: StubTranslator) -> None:
    body = {
        **FRENCH,
        "tag_handling": "XML",
        "ignore_tags": ["x,y", "z", "x"],
        "splitting_tags": "par, title",
        "non_splitting_tags": ["b"],
        "split_sentences": "0",
    }
    assert client.post("/v2/translate", json=body).status_code == 200
    options = stub.submitted[0].options
    assert options is not None
    assert (options.format, options.splitting) == ("xml", "none")
    assert options.markup.ignore_tags == ("x", "y", "z")
    assert options.markup.splitting_tags == ("par", "title")
    assert options.markup.non_splitting_tags == ("b",)


SPLITTING: list[tuple[Any, str]] = [
    (None, "sentences"),
    ("1", "sentences"),
    (1, "sentences"),
    ("nonewlines", "sentences"),
    (0, "none"),
    (False, "none"),
]


def test_splitting(client: TestClient, stub: StubTranslator) -> None:
    for given, splitting in SPLITTING:
        client.post("/v2/translate", json={**FRENCH, "split_sentences": given, "tag_handling": "html"})
        options = stub.submitted[-1].options
        assert options is not None
        assert (options.format, options.splitting) == ("html", splitting), given
    assert len(stub.submitted) == len(SPLITTING)


def test_plain_text_is_the_default(client: TestClient, stub: StubTranslator) -> None:
    client.post("/v2/translate", json=FRENCH)
    options = stub.submitted[0].options
    assert options is not None
    assert (options.format, options.splitting, options.glossaries) == ("text", "sentences", ())


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"text": None}, "Parameter 'text' not specified."),
    ({"text": []}, "Parameter 'text' not specified."),
    ({"text": [1]}, "Value for 'text' not supported."),
    ({"text": {"a": "b"}}, "Value for 'text' not supported."),
    ({"target_lang": None}, "Parameter 'target_lang' not specified."),
    ({"target_lang": "XX"}, "Value for 'target_lang' not supported."),
    ({"target_lang": {"x": 1}}, "Value for 'target_lang' not supported."),
    ({"source_lang": "XX"}, "Value for 'source_lang' not supported."),
    ({"split_sentences": "2"}, "Value for 'split_sentences' not supported."),
    ({"tag_handling": "markdown"}, "Value for 'tag_handling' not supported."),
    ({"tag_handling_version": "v3"}, "Value for 'tag_handling_version' not supported."),
    ({"ignore_tags": [1]}, "Value for 'ignore_tags' not supported."),
    ({"preserve_formatting": "maybe"}, "Value for 'preserve_formatting' not supported."),
    ({"formality": "rude"}, "Value for 'formality' not supported."),
    ({"formality": "more"}, "Target language 'EN' doesn't support formality."),
    ({"formality": "less"}, "Target language 'EN' doesn't support formality."),
    ({"model_type": "best"}, "Value for 'model_type' not supported."),
    ({"style_id": "x"}, "Value for 'style_id' not supported."),
    ({"translation_memory_id": "x"}, "Value for 'translation_memory_id' not supported."),
    ({"custom_instructions": ["be brief"]}, "Value for 'custom_instructions' not supported."),
    ({"glossary_id": "x"}, "Value for 'glossary_id' not supported."),
    (
        {"glossary_id": NOBODY, "source_lang": None},
        "Use of a glossary requires the source_lang parameter to be specified",
    ),
    ({"glossary_id": NOBODY, "glossary_ids": [NOBODY]}, "Use either glossary_id or glossary_ids, not both."),
    ({"glossary_ids": [NOBODY[:-1] + str(digit) for digit in range(6)]}, "At most 5 glossary_ids can be used."),
]


def test_refusals(client: TestClient, stub: StubTranslator) -> None:
    for changes, message in REFUSALS:
        assert refusal(client.post("/v2/translate", json={**FRENCH, **changes})) == message, changes
    assert stub.submitted == []


def test_a_pair_that_no_model_has(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    german = type(stub)(name="german", languages=("en", "de"))
    with TestClient(make_app([stub, german], pivot=False)) as client:
        reply = client.post("/v2/translate", json={**FRENCH, "target_lang": "DE"})
    assert refusal(reply) == "Value for 'target_lang' not supported."


def test_limits_of_texts(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_texts=2, max_characters=5)) as client:
        assert "at most 2 texts" in refusal(client.post("/v2/translate", json={**FRENCH, "text": ["a"] * 3}))
        assert "text[1]" in refusal(client.post("/v2/translate", json={**FRENCH, "text": ["a", "b" * 6]}))
    with TestClient(make_app(max_body_bytes=100)) as client:
        refusal(client.post("/v2/translate", json={**FRENCH, "text": ["a" * 100]}), 413)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (OverloadedError("the queue is full", 7.2), 529),
        (EngineClosedError("the engine is closed"), 503),
        (InvalidTextError("text", "must be so", "x"), 400),
        (RuntimeError("secret"), 500),
    ],
)
def test_what_the_engine_raises(
    make_app: Callable[..., FastAPI], stub: StubTranslator, failure: Exception, status: int
) -> None:
    stub.refusal, stub.refuses_after = failure, 0
    with TestClient(make_app()) as client:
        reply = client.post("/v2/translate", json=FRENCH)
    assert "secret" not in refusal(reply, status)
    assert reply.headers["x-trace-id"]
    if status == 529:
        assert reply.headers["retry-after"] == "8"


def test_other_paths_and_methods_are_answered_in_the_same_way(client: TestClient) -> None:
    assert refusal(client.get("/v2/nothing"), 404) == "Not Found"
    assert refusal(client.put("/v2/translate"), 405) == "Method Not Allowed"
    assert refusal(client.post("/v3/languages"), 405) == "Method Not Allowed"


def test_a_client_that_goes_away_takes_its_work_along(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.holds = True
    body = b'{"text": ["un", "deux"], "source_lang": "FR", "target_lang": "EN-GB"}'
    headers = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with serve(make_app()) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"POST /v2/translate HTTP/1.1\r\n{headers}\r\n".encode() + body)
            for _ in range(2):
                assert stub.arrivals.acquire(timeout=20)
        assert all(work.cancelled.wait(timeout=20) for work in stub.submitted)


# Languages and usage


def test_source_languages_have_no_formality_and_target_languages_have(client: TestClient) -> None:
    source = [{"language": "EN", "name": "English"}, {"language": "FR", "name": "French"}]
    target = [
        {"language": "EN-GB", "name": "English (British)", "supports_formality": False},
        {"language": "EN-US", "name": "English (American)", "supports_formality": False},
        {"language": "FR", "name": "French", "supports_formality": False},
    ]
    assert client.get("/v2/languages").json() == source
    assert client.get("/v2/languages?type=source").json() == source
    assert client.get("/v2/languages?type=target").json() == target
    assert client.request("GET", "/v2/languages", data={"type": "target"}).json() == target
    assert client.post("/v2/languages", data={"type": "target"}).json() == target
    assert client.post("/v2/languages", json={"type": "target"}).json() == target
    assert client.get("/v2/languages?type=target", headers={"Content-Type": "application/json"}).json() == target
    assert refusal(client.get("/v2/languages?type=both")) == "Value for 'type' not supported."


def test_languages_of_resources(client: TestClient) -> None:
    listed = client.get("/v3/languages?resource=translate_text").json()
    features = {name: {"status": "stable"} for name in ("auto_detection", "glossary", "tag_handling")}
    assert [(each["lang"], each["usable_as_source"], each["usable_as_target"]) for each in listed] == [
        ("en", True, True),
        ("en-GB", False, True),
        ("en-US", False, True),
        ("fr", True, True),
    ]
    assert listed[3] == {
        "lang": "fr",
        "name": "French",
        "usable_as_source": True,
        "usable_as_target": True,
        "status": "stable",
        "features": features,
    }
    of_glossaries = client.get("/v3/languages?resource=glossary").json()
    assert [(each["lang"], each["features"]) for each in of_glossaries] == [("en", {}), ("fr", {})]
    assert client.get("/v3/languages?resource=voice").json() == []
    assert refusal(client.get("/v3/languages")) == "Parameter 'resource' not specified."
    assert refusal(client.get("/v3/languages?resource=x")) == "Value for 'resource' not supported."
    assert "renamed to 'resource'" in refusal(client.get("/v3/languages?product=translate_text"))


def test_resources(client: TestClient) -> None:
    listed = {each["name"]: each["features"] for each in client.get("/v3/languages/resources").json()}
    assert set(listed) == {"translate_text", "translate_document", "glossary"}
    assert {"name": "auto_detection", "needs_source_support": True} in listed["translate_text"]
    tags = {"name": "tag_handling", "needs_source_support": True, "needs_target_support": True}
    assert tags in listed["translate_text"]


def test_usage_without_keys_has_no_limit(client: TestClient) -> None:
    client.post("/v2/translate", json=FRENCH)
    reply = client.get("/v2/usage").json()
    assert (reply["character_count"], reply["character_limit"]) == (0, 10**12)
    assert reply["start_time"] < reply["end_time"]
