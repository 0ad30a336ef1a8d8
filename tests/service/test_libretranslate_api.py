"""The LibreTranslate face: encodings, order of checks, messages and shapes that its clients rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

FRENCH: dict[str, Any] = {"q": "été", "source": "fr", "target": "en"}


def refusal(client: TestClient, path: str = "/translate", **body: Any) -> str:
    reply = client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    assert set(reply.json()) == {"error"}
    return str(reply.json()["error"])


# Encodings


def test_json(client: TestClient) -> None:
    reply = client.post("/translate", json=FRENCH)
    assert (reply.status_code, reply.json()) == (200, {"translatedText": "<en>été"})


def test_urlencoded_form(client: TestClient) -> None:
    assert client.post("/translate", data=FRENCH).json() == {"translatedText": "<en>été"}


def test_urlencoded_form_with_bare_utf8(client: TestClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    reply = client.post("/translate", content="q=été+et+hiver&source=fr&target=en".encode(), headers=headers)
    assert reply.json() == {"translatedText": "<en>été et hiver"}


def test_multipart_form(client: TestClient) -> None:
    fields = {name: (None, value) for name, value in FRENCH.items()}
    assert client.post("/translate", files=fields).json() == {"translatedText": "<en>été"}


def test_query_string_of_a_post_without_body(client: TestClient) -> None:
    assert client.post("/translate?" + urlencode(FRENCH)).json() == {"translatedText": "<en>été"}


def test_the_query_string_comes_before_the_form(client: TestClient) -> None:
    reply = client.post("/translate?target=fr", data={"q": "summer", "source": "en", "target": "en"})
    assert reply.json() == {"translatedText": "<fr>summer"}


def test_json_stands_alone(client: TestClient) -> None:
    reply = client.post("/translate?target=en", json={"q": "été", "source": "fr"})
    assert reply.json() == {"error": "Invalid request: missing target parameter"}


def test_line_ends_of_forms_become_lf_and_those_of_json_stay(client: TestClient, stub: StubTranslator) -> None:
    text = "un\r\ndeux\rtrois\n"
    client.post("/translate", data={**FRENCH, "q": text})
    client.post("/translate?" + urlencode({**FRENCH, "q": text}))
    client.post("/translate", json={**FRENCH, "q": text})
    assert [work.text for work in stub.submitted] == ["un\ndeux\ntrois\n", "un\ndeux\ntrois\n", text]


def test_line_ends_become_lf_before_the_limit_is_applied(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_characters=3)) as client:
        assert client.post("/translate", data={**FRENCH, "q": "a\r\nb"}).status_code == 200
        assert client.post("/translate", json={**FRENCH, "q": "a\r\nb"}).status_code == 400


@pytest.mark.parametrize("body", ["[]", '"x"', "3", "null"])
def test_json_must_be_an_object(client: TestClient, body: str) -> None:
    reply = client.post("/translate", content=body, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()) == (400, {"error": "Invalid JSON format"})


def test_another_content_type_counts_as_no_body(client: TestClient) -> None:
    reply = client.post("/translate", content="q=a&source=fr&target=en", headers={"Content-Type": "text/plain"})
    assert (reply.status_code, reply.json()) == (400, {"error": "Invalid request: missing q parameter"})


def test_the_api_key_is_accepted(client: TestClient) -> None:
    assert client.post("/translate", json={**FRENCH, "api_key": "secret"}).status_code == 200


# Checks, each message reached with everything before it in order and everything behind it wrong


def test_checks_come_in_order(make_app: Callable[..., FastAPI]) -> None:
    wrong: dict[str, Any] = {"format": "docx", "alternatives": "many"}
    with TestClient(make_app(max_texts=2, max_characters=3, max_alternatives=5)) as client:
        assert refusal(client, **wrong) == "Invalid request: missing q parameter"
        wrong["q"] = ["a", "b", "cdef"]
        assert refusal(client, **wrong) == "Invalid request: missing source parameter"
        wrong["source"] = "zz"
        assert refusal(client, **wrong) == "Invalid request: missing target parameter"
        wrong["target"] = "yy"
        assert refusal(client, **wrong) == "Invalid request: alternatives parameter is not a number"
        wrong["alternatives"] = 6
        assert refusal(client, **wrong) == "Invalid request: alternatives parameter must be <= 5"
        wrong["alternatives"] = 5
        assert refusal(client, **wrong) == "Invalid request: request (3) exceeds text limit (2)"
        wrong["q"] = ["a", "bcde"]
        assert refusal(client, **wrong) == "Invalid request: request (4) exceeds text limit (3)"
        wrong["q"] = "abc"
        assert refusal(client, **wrong) == "zz is not supported"
        wrong["source"] = "fr"
        assert refusal(client, **wrong) == "yy is not supported"
        wrong["target"] = "en"
        assert refusal(client, **wrong) == "docx format is not supported"
        wrong["format"] = "text"
        assert client.post("/translate", json=wrong).status_code == 200


@pytest.mark.parametrize("empty", ["", None, []])
def test_empty_means_missing(client: TestClient, empty: Any) -> None:
    assert refusal(client, **{**FRENCH, "q": empty}) == "Invalid request: missing q parameter"


@pytest.mark.parametrize("q", [5, {"a": 1}, ["a", 5], [["a"]]])
def test_q_must_be_text(client: TestClient, q: Any) -> None:
    assert refusal(client, **{**FRENCH, "q": q}) == "Invalid request: q parameter must be a string or a list of strings"


@pytest.mark.parametrize("alternatives", ["", "x", "1.5", 1.5, True, None, [1], "9" * 5000])
def test_alternatives_must_be_a_number(client: TestClient, alternatives: Any) -> None:
    message = refusal(client, **FRENCH, alternatives=alternatives)
    assert message == "Invalid request: alternatives parameter is not a number"


@pytest.mark.parametrize("code", [7, ["fr"], "FRENCH FRIES", "\x00"])
def test_languages_must_be_known(client: TestClient, code: Any) -> None:
    assert refusal(client, q="x", source=code, target="en") == f"{code} is not supported"


def test_a_pair_that_no_model_has(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    german = type(stub)(name="german", languages=("en", "de"))
    with TestClient(make_app([stub, german], pivot=False)) as client:
        message = refusal(client, q="x", source="fr", target="de")
    assert message == "German (de) is not available as a target language from French (fr)"


# Replies


def test_auto_tells_the_language_with_a_percentage(client: TestClient) -> None:
    reply = client.post("/translate", json={"q": "été", "source": "auto", "target": "en"}).json()
    assert reply == {"translatedText": "<en>été", "detectedLanguage": {"confidence": 75.0, "language": "fr"}}


def test_a_list_gets_lists_and_each_text_its_own_language(client: TestClient) -> None:
    body = {"q": ["été", "summer", "😀"], "source": "auto", "target": "en", "alternatives": 1}
    assert client.post("/translate", json=body).json() == {
        "translatedText": ["<en>été", "summer", "😀"],
        "detectedLanguage": [
            {"confidence": 75.0, "language": "fr"},
            {"confidence": 87.5, "language": "en"},
            {"confidence": 0.0, "language": "en"},
        ],
        "alternatives": [["<en1>été"], [], []],
    }


def test_a_list_of_one_stays_a_list(client: TestClient) -> None:
    assert client.post("/translate", json={**FRENCH, "q": ["été"]}).json() == {"translatedText": ["<en>été"]}


@pytest.mark.parametrize("count", [2, "2"])
def test_alternatives_are_unique_and_never_the_text(client: TestClient, count: Any) -> None:
    reply = client.post("/translate", json={**FRENCH, "alternatives": count}).json()
    assert reply == {"translatedText": "<en>été", "alternatives": ["<en1>été", "<en2>été"]}


@pytest.mark.parametrize("count", [0, -3])
def test_without_alternatives_there_is_no_such_field(client: TestClient, count: int) -> None:
    assert client.post("/translate", json={**FRENCH, "alternatives": count}).json() == {"translatedText": "<en>été"}


@pytest.mark.parametrize("text", ["😀", "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣ℹ️#⃣", "  \n\t", "🇫🇷\u00a0❤️", "?!…"])  # noqa: RUF001
@pytest.mark.parametrize("source", ["auto", "fr"])
def test_what_has_no_words_comes_back_unchanged(
    client: TestClient, stub: StubTranslator, text: str, source: str
) -> None:
    reply = client.post("/translate", json={"q": text, "source": source, "target": "en"}).json()
    assert reply["translatedText"] == text
    if source == "auto":
        assert reply["detectedLanguage"] == {"confidence": 0.0, "language": "en"}
    assert stub.submitted == []


def test_the_same_language_returns_the_text(client: TestClient, stub: StubTranslator) -> None:
    assert client.post("/translate", json={**FRENCH, "target": "fr"}).json() == {"translatedText": "été"}
    assert stub.submitted == []


def test_language_codes_are_case_insensitive(client: TestClient) -> None:
    assert client.post("/translate", json={**FRENCH, "source": "FR", "target": "EN"}).status_code == 200


# The other endpoints


def test_detect(client: TestClient) -> None:
    french = [{"confidence": 75.0, "language": "fr"}, {"confidence": 25.0, "language": "en"}]
    assert client.post("/detect", json={"q": "été"}).json() == french
    assert client.post("/detect", data={"q": "été"}).json() == french
    assert client.post("/detect?q=" + quote("été")).json() == french
    assert client.post("/detect", json={"q": ["summer", "été"]}).json() == french


def test_detect_never_answers_with_nothing(client: TestClient) -> None:
    assert client.post("/detect", json={"q": "123"}).json() == [{"confidence": 0.0, "language": "en"}]


def test_detect_needs_q(client: TestClient) -> None:
    assert refusal(client, "/detect") == "Invalid request: missing q parameter"


def test_languages_are_among_their_own_targets(client: TestClient) -> None:
    assert client.get("/languages").json() == [
        {"code": "en", "name": "English", "targets": ["en", "fr"]},
        {"code": "fr", "name": "French", "targets": ["en", "fr"]},
    ]


def test_health(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}


def test_frontend_settings(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(max_characters=5000)) as client:
        assert client.get("/frontend/settings").json() == {
            "charLimit": 5000,
            "frontendTimeout": 500,
            "apiKeys": False,
            "keyRequired": False,
            "suggestions": False,
            "filesTranslation": True,
            "supportedFilesFormat": list(client.app.state.service.documents.formats),  # type: ignore[attr-defined]
            "language": {
                "source": {"code": "auto", "name": "Auto Detect"},
                "target": {"code": "en", "name": "English"},
            },
        }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/translate"),
        ("GET", "/detect"),
        ("POST", "/languages"),
        ("POST", "/health"),
        ("POST", "/frontend/settings"),
        ("PUT", "/translate"),
    ],
)
def test_other_methods_are_refused_in_its_words(client: TestClient, method: str, path: str) -> None:
    reply = client.request(method, path)
    assert (reply.status_code, reply.json()) == (405, {"error": "Method Not Allowed"})


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
def test_web_pages_may_call_it(client: TestClient, method: str) -> None:
    headers = client.request(method, "/translate").headers
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-headers"] == "Authorization, Content-Type"
    assert headers["access-control-allow-methods"] == "GET, POST"
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-max-age"] == "1728000"


def test_a_preflight_is_granted(client: TestClient) -> None:
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for path in ("/translate", "/v1/translate"):
        assert client.options(path, headers=asked).status_code == 200


def test_web_pages_may_be_kept_out(make_app: Callable[..., FastAPI]) -> None:
    with TestClient(make_app(allow_origin="")) as client:
        assert "access-control-allow-origin" not in client.get("/languages").headers
    with TestClient(make_app(allow_origin="https://example.org")) as client:
        assert client.get("/languages").headers["access-control-allow-origin"] == "https://example.org"
        assert "access-control-allow-origin" not in client.get("/metrics").headers
