"""Input that breaks careless services: each kind gets a clear answer, on both faces, and never a 500."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

PATHS = ("/v1/translate", "/v1/detect", "/translate", "/detect")
FIELDS = (
    "q",
    "texts",
    "source",
    "target",
    "format",
    "alternatives",
    "options",
    "beam_size",
    "seed",
    "deadline_ms",
    "x",
)
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def send(client: TestClient, path: str, body: bytes | str, headers: dict[str, str]) -> httpx2.Response:
    return client.post(path, content=body, headers=headers)


def message(reply: httpx2.Response) -> str:
    """Return the sentence of an error, and check that it is in the words of its face."""
    content = reply.json()
    if reply.url.path.startswith("/v1/"):
        assert reply.headers["content-type"] == "application/problem+json"
        return str(content["detail"])
    assert reply.headers["content-type"] == "application/json"
    assert set(content) == {"error"}
    return str(content["error"])


BROKEN_JSON = {
    "nothing": b"",
    "cut off": b'{"q": "abc',
    "single quotes": b"{'q': 'abc'}",
    "not a number": b'{"q": NaN}',
    "infinite": b'{"q": Infinity}',
    "lone high surrogate": rb'{"q": "\ud800", "source": "fr", "target": "en"}',
    "lone low surrogate": rb'{"q": "\udc00 x", "source": "fr", "target": "en"}',
    "surrogate as a key": rb'{"\udfff": "x"}',
    "bare control character": b'{"q": "a\x00b"}',
    "invalid UTF-8": b'{"q": "\xff\xfe"}',
    "UTF-8 of a surrogate": b'{"q": "\xed\xa0\x80"}',
    "Latin-1": '{"q": "été"}'.encode("latin-1"),
    "UTF-16": '{"q": "x"}'.encode("utf-16"),
    "deep list": b"[" * 200_000,
    "deep closed list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"q":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("path", ["/v1/translate", "/v1/detect", "/translate", "/detect"])
@pytest.mark.parametrize("body", BROKEN_JSON.values(), ids=BROKEN_JSON.keys())
def test_what_is_not_json(client: TestClient, path: str, body: bytes) -> None:
    reply = send(client, path, body, JSON)
    assert reply.status_code == 400
    assert message(reply).startswith("the body is not JSON: ")
    assert "abc" not in reply.text


@pytest.mark.parametrize("body", ["[]", '"x"', "3", "null", "true"])
def test_json_of_another_type(client: TestClient, body: str) -> None:
    native, libre = send(client, "/v1/translate", body, JSON), send(client, "/translate", body, JSON)
    assert (native.status_code, libre.status_code) == (422, 400)
    assert "dictionary" in message(native)
    assert message(libre) == "Invalid JSON format"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", "", "x"])
def test_the_native_face_takes_json_only(client: TestClient, content_type: str) -> None:
    reply = send(client, "/v1/translate", '{"texts": "x", "target": "en"}', {"Content-Type": content_type})
    assert reply.status_code == 415
    assert message(reply) == "the Content-Type must be application/json"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/a+json"])
def test_json_by_its_other_names(client: TestClient, content_type: str) -> None:
    body = '{"texts": "x", "q": "x", "source": "fr", "target": "en"}'
    assert send(client, "/translate", body, {"Content-Type": content_type}).status_code == 200


PART = b'--b\r\nContent-Disposition: form-data; name="q"\r\n\r\n%s\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("body", "headers", "sentence"),
    [
        (b"q=%FF&source=fr&target=en", FORM, "the form is not UTF-8"),
        (b"q=%ED%A0%80", FORM, "the form is not UTF-8"),
        (b"q=\xff", FORM, "the form is not UTF-8"),
        (b"&".join(b"a%d=1" % number for number in range(101)), FORM, "the form has over 100 fields"),
        (PART % b"\xff", MULTIPART, "the form is not UTF-8"),
        (b"--c\r\nnonsense", MULTIPART, None),
        (PART % b"x", {"Content-Type": "multipart/form-data"}, "Missing boundary in multipart."),
        (PART.replace(b'"q"', b'"q"; filename="q"') % b"x", MULTIPART, "Too many files. Maximum number of files is 0."),
        (b"".join(PART.removesuffix(b"--b--\r\n") % b"x" for _ in range(101)) + b"--b--", MULTIPART, None),
    ],
)
def test_broken_forms(client: TestClient, body: bytes, headers: dict[str, str], sentence: str | None) -> None:
    reply = send(client, "/translate", body, headers)
    assert reply.status_code == 400
    assert message(reply) == sentence if sentence else message(reply)


def test_a_query_string_that_is_not_utf8(client: TestClient) -> None:
    reply = client.post("/translate?q=%FF&source=fr&target=en")
    assert (reply.status_code, message(reply)) == (400, "the form is not UTF-8")


def test_empty_texts(client: TestClient, stub: StubTranslator) -> None:
    native = client.post("/v1/translate", json={"texts": ["", "x"], "source": "fr", "target": "en"}).json()
    assert [item["text"] for item in native["translations"]] == ["", "<en>x"]
    assert native["translations"][0]["finish_reason"] == "unchanged"
    assert native["usage"]["characters"] == 1
    assert client.post("/v1/translate", json={"texts": "", "target": "en"}).json()["translations"][0]["text"] == ""
    assert client.post("/v1/translate", json={"texts": [], "target": "en"}).json()["translations"] == []
    libre = client.post("/translate", json={"q": ["", "x"], "source": "auto", "target": "fr"}).json()
    assert libre["translatedText"] == ["", "<fr>x"]
    assert [work.text for work in stub.submitted] == ["x", "x"]


def test_control_characters_arrive_as_they_are(client: TestClient, stub: StubTranslator) -> None:
    text = "a\x00b\x01\x1b[31m\x7f\x85\u2028\ufeff\ufffe\u202ec"
    native = client.post("/v1/translate", json={"texts": text, "source": "fr", "target": "en"})
    libre = client.post("/translate", json={"q": text, "source": "fr", "target": "en"})
    form = client.post("/translate", data={"q": text, "source": "fr", "target": "en"})
    assert native.json()["translations"][0]["text"] == f"<en>{text}"
    assert libre.json()["translatedText"] == form.json()["translatedText"] == f"<en>{text}"
    assert [work.text for work in stub.submitted] == [text] * 3


def test_characters_beyond_the_basic_plane(client: TestClient) -> None:
    text = "x😀𝄞e\u0301"
    body = rb'{"texts": "x\ud83d\ude00\ud834\udd1ee\u0301", "source": "fr", "target": "en"}'
    reply = send(client, "/v1/translate", body, JSON)
    translation = reply.json()["translations"][0]
    assert translation["text"] == f"<en>{text}"
    assert translation["segments"][0]["end"] == 5  # code points, not UTF-16 units


def test_200_kb_of_one_letter_is_refused_with_both_numbers(client: TestClient, stub: StubTranslator) -> None:
    text = "a" * 200_000
    native = client.post("/v1/translate", json={"texts": ["x", text], "target": "en"})
    assert native.status_code == 422
    assert native.json()["errors"] == [
        {"detail": "must have at most 100000 characters, got 200000", "pointer": "#/texts/1"}
    ]
    sentence = "Invalid request: request (200000) exceeds text limit (100000)"
    for libre in (
        client.post("/translate", json={"q": text, "source": "fr", "target": "en"}),
        client.post("/translate", data={"q": text, "source": "fr", "target": "en"}),
        client.post("/detect", json={"q": text}),
    ):
        assert (libre.status_code, message(libre)) == (400, sentence)
    assert stub.submitted == []


def test_200_kb_of_one_letter_is_translated_where_the_operator_allows_it(make_app: Callable[..., FastAPI]) -> None:
    text = "a" * 200_000
    with TestClient(make_app(max_characters=300_000)) as client:
        for reply in (
            client.post("/translate", json={"q": text, "source": "fr", "target": "en"}),
            client.post("/translate", data={"q": text, "source": "fr", "target": "en"}),
            client.post("/translate", files={"q": (None, text), "source": (None, "fr"), "target": (None, "en")}),
        ):
            assert reply.json() == {"translatedText": f"<en>{text}"}


def test_too_many_texts(client: TestClient, stub: StubTranslator) -> None:
    native = client.post("/v1/translate", json={"texts": ["x"] * 129, "target": "en"})
    assert native.status_code == 422
    assert native.json()["detail"] == "texts must have at most 128 texts, got 129"
    libre = client.post("/translate", json={"q": ["x"] * 129, "source": "fr", "target": "en"})
    assert message(libre) == "Invalid request: request (129) exceeds text limit (128)"
    assert stub.submitted == []


@pytest.mark.parametrize("path", ["/%FF", "/v1/%00", "/v1/../translate", "/" + "a" * 5000])
def test_strange_paths(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 405)


def test_huge_numbers(client: TestClient) -> None:
    for options in ('{"seed": 1e400}', f'{{"seed": {2**70}}}', '{"temperature": 1e308}', '{"beam_size": -1}'):
        body = f'{{"texts": "x", "source": "fr", "target": "en", "options": {options}}}'
        assert send(client, "/v1/translate", body, JSON).status_code in (400, 422)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["en", "fr", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=12,
)
BYTES = st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
anything = settings(
    max_examples=150,
    deadline=None,  # the machine may be busy
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the client keeps nothing between requests
    database=None,
)


@anything
@given(value=JSON_VALUES | st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES), path=st.sampled_from(PATHS))
def test_any_json_gets_an_answer(client: TestClient, value: object, path: str) -> None:
    reply = send(client, path, json.dumps(value), JSON)
    assert reply.status_code in (200, 400, 422)
    assert reply.status_code == 200 or message(reply)


@anything
@given(
    body=BYTES,
    path=st.sampled_from(PATHS),
    headers=st.sampled_from([JSON, FORM, MULTIPART, {}, {"Content-Type": "multipart/form-data"}]),
    query=st.text(max_size=30).map(lambda text: quote(text, safe="=&%", errors="surrogatepass")),
)
def test_any_bytes_get_an_answer(
    client: TestClient, body: bytes, path: str, headers: dict[str, str], query: str
) -> None:
    reply = send(client, f"{path}?{query}", body, headers)
    assert reply.status_code in (200, 400, 415, 422)
    assert reply.status_code == 200 or message(reply)
