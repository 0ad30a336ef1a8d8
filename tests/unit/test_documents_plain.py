"""Text, Markdown, HTML and JSON files: encodings are kept, and Python's own json reads what is written."""

from __future__ import annotations

import codecs
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import DOCUMENT_FORMATS
from model.documents.document import DocumentLimits
from model.documents.formats import open_document
from model.errors import ConfigurationError, InvalidDocumentError


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Où est l'été ?\r\n".encode(), "utf-8"),
        (codecs.BOM_UTF8 + "été".encode(), "utf-8-sig"),
        (codecs.BOM_UTF16_LE + "été".encode("utf-16-le"), "utf-16"),
        (codecs.BOM_UTF16_BE + "été".encode("utf-16-be"), "utf-16"),
        ("l\u2019œuvre d'été".encode("cp1252"), "cp1252"),
        (b"\xe9t\xe9 \x81", "latin-1"),
    ],
)
@pytest.mark.parametrize("suffix", ["txt", "md", "html"])
def test_encodings_are_kept(data: bytes, encoding: str, suffix: str) -> None:
    document = open_document(data, f"a.{suffix}")
    [text] = document.texts
    assert text.text == data.decode(encoding)
    assert text.format == {"txt": "text", "md": "markdown", "html": "html"}[suffix]
    assert document.render([text.text]) == data
    rendered = document.render([text.text + " à la fin"])
    assert rendered.startswith(data[:2])
    assert rendered.decode(encoding) == data.decode(encoding) + " à la fin"


def test_what_an_encoding_lacks_is_a_reference_in_html_and_an_error_elsewhere() -> None:
    page = b'<meta charset="iso-8859-1"><p>caf\xe9 \x93'
    document = open_document(page, "a.htm")
    assert document.texts[0].text.endswith("café “")  # as browsers read it
    assert document.render(["<p>Ж é"]) == b"<p>&#1046; \xe9"
    with pytest.raises(InvalidDocumentError, match="save it as UTF-8"):
        open_document(b"caf\xe9", "a.txt").render(["Ж"])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"x", "a"),
        (b"x", "a.exe"),
        (b"x", "a.docm"),
        (b"a\0b", "a.txt"),
        (b'<meta charset="utf-7">x', "a.html"),
        (b'<meta charset="zip">x', "a.html"),
        (b'<meta charset="utf-8">\xff', "a.html"),
        (codecs.BOM_UTF8 + b"\xff", "a.txt"),
    ],
)
def test_unknown_formats_and_encodings_are_refused(data: bytes, name: str) -> None:
    with pytest.raises(InvalidDocumentError, match="document"):
        open_document(data, name)


def test_a_file_without_words_has_no_texts() -> None:
    document = open_document(b"12 + 3\n", "a.txt")
    assert document.texts == ()
    assert document.render([]) == b"12 + 3\n"
    with pytest.raises(InvalidDocumentError, match="0 translations"):
        document.render(["x"])


@pytest.mark.parametrize("suffix", sorted(DOCUMENT_FORMATS))
def test_every_format_has_a_name_and_an_opener(suffix: str) -> None:
    assert DOCUMENT_FORMATS[suffix].name
    assert "/" in DOCUMENT_FORMATS[suffix].media_type
    with pytest.raises(InvalidDocumentError) as caught:
        open_document(b"\0", "a" + suffix)
    assert "suffix" not in caught.value.rule


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="max_texts"):
        DocumentLimits(max_texts=0)


JSON = b"""{ "title" : "Hello \\"you\\"", "id":"user_name",
  "url": "https:\\/\\/example.org/a", "n": [1.50, true, "a\\/b is \\u00e9t\\u00e9", "#fff", null], "t": "b" }\n"""


def test_json_keeps_everything_but_its_words() -> None:
    document = open_document(JSON, "a.json")
    assert [text.text for text in document.texts] == ['Hello "you"', "a/b is été", "b"]
    assert document.render([text.text for text in document.texts]) == JSON
    rendered = document.render(['HELLO "é"\n', "A/B", "b"])
    assert (
        rendered.replace(b'"HELLO \\"\\u00e9\\"\\n"', b'"Hello \\"you\\""').replace(
            b'"A\\/B"', b'"a\\/b is \\u00e9t\\u00e9"'
        )
        == JSON
    )
    assert json.loads(rendered)["n"] == [1.5, True, "A/B", "#fff", None]


def test_attributes_of_a_resource_bundle_stay() -> None:
    data = b'{"@@locale": "en", "hi": "Hello", "@hi": {"description": "a greeting"}, "bye": "So long"}'
    assert [text.text for text in open_document(data, "a.arb").texts] == ["Hello", "So long"]
    assert "a greeting" in [text.text for text in open_document(data, "a.json").texts]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_comes_back(value: object, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    document = open_document(data, "a.json")
    assert document.render([text.text for text in document.texts]) == data

    def changed(each: object) -> object:
        if isinstance(each, str):
            return each + '"\\ é\n' if each in texts else each
        if isinstance(each, list):
            return [changed(inner) for inner in each]
        return {key: changed(inner) for key, inner in each.items()} if isinstance(each, dict) else each

    texts = {text.text for text in document.texts}
    assert json.loads(document.render([text.text + '"\\ é\n' for text in document.texts])) == changed(value)


def test_damaged_json_is_refused_and_nothing_else_happens() -> None:
    generator = random.Random(3)
    damaged = [JSON[:length] for length in range(len(JSON) - 3)]
    assert all(_is_refused(each) for each in damaged)
    for _ in range(300):
        flipped = bytearray(JSON)
        flipped[generator.randrange(len(JSON))] ^= 1 << generator.randrange(8)
        _is_refused(bytes(flipped))
    for each in (b"[" * 100_000, b"[" * 500 + b"]" * 500, b'{"a": NaN}', b'"' + b"\\" * 99_999):
        assert _is_refused(each)


def _is_refused(data: bytes) -> bool:
    try:
        open_document(data, "a.json")
    except InvalidDocumentError:
        return True
    return False
