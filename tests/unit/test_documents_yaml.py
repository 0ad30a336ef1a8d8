"""YAML files: PyYAML loads what is written, and nothing but words changes."""

from __future__ import annotations

import itertools
import random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from model.documents.document import DocumentLimits
from model.documents.formats import open_document
from model.errors import InvalidDocumentError

FILE = """%YAML 1.1
--- # the first
title:   Hello world   # a greeting
"quoted key": "a \\"b\\" caf\\u00e9"
single: 'it''s here'
number: 12
date: 2020-01-01
truth: yes
text: "yes"
tagged: !!str on
custom: !Ref some text
anchored: &note a note
alias: *note
flow: {a: one word, b: [two words, 3]}
literal: |
  first line

    more
  last line
strip: >-
  folded text that goes
  on here

  and a paragraph

keep: |+ # why
  kept text

plain: several
  lines here
? a complex key
: - a value
  - url_name
...
---
- >
 another one
"""


def upper(value: object) -> object:
    if isinstance(value, list):
        return [upper(each) for each in value]
    if isinstance(value, dict):
        return {key: upper(each) for key, each in value.items()}
    return value.upper() if isinstance(value, str) and value != "url_name" else value


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!Ref", lambda _loader, node: (node.value,))


def loaded(data: bytes | str) -> list[object]:
    return list(yaml.load_all(data, Loader))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_words_change(newline: str) -> None:
    data = FILE.replace("\n", newline).encode()
    document = open_document(data, "a.yaml")
    assert document.render([text.text for text in document.texts]) == data
    rendered = document.render([text.text.upper() for text in document.texts])
    assert loaded(rendered) == upper(loaded(data))
    lines = rendered.decode().split(newline)
    for line in (
        "title:   HELLO WORLD   # a greeting",
        "single: 'IT''S HERE'",
        'text: "YES"',
        "tagged: !!str ON",
        "custom: !Ref some text",
        "anchored: &note A NOTE",
        "alias: *note",
        "flow: {a: ONE WORD, b: [TWO WORDS, 3]}",
        "keep: |+ # why",
        "  FOLDED TEXT THAT GOES ON HERE",
        "    MORE",
        "%YAML 1.1",
    ):
        assert line in lines


@pytest.mark.parametrize(
    "target",
    [
        "no",
        "12",
        "a: b",
        "a #b",
        "- a",
        "",
        " a ",
        "a\nb",
        "a\n\n b\n",
        "'a'",
        '"a"',
        "[a",
        "a, b",
        "null",
        "\x07\x85é",
        "\U0001f600",
        "\\n",
        "@a",
        "a:",
        "---",
        "? a",
        "\ufeffa",
        "2020-01-01",
        "=",
        "<<",
        "a\tb",
        "\n",
        "a " * 200 + "b",
    ],
)
@pytest.mark.parametrize(
    "source",
    [
        "k: one word # c\n",
        "k: 'one word'\n",
        'k: "one word"\n',
        "k: |\n  one word\n",
        "k: >-\n   one word\n\n",
        "k: |2+\n    one word\n\n",
        "k: [one word, {a: one word}]\n",
        "- - one word",
        "one word",
        "--- |\n one word\n",
        "k: |\n\n  one word\nb: 1\n",
        "k: >\n  one word\n \n# c\nb: 2\n",
        "k: one\n  word\nb: 3\n",
    ],
)
def test_any_target_is_read_as_it_was_meant(source: str, target: str) -> None:
    document = open_document(source.encode(), "a.yml")
    assert {text.text for text in document.texts} <= {"one word", "  one word"}
    rendered = document.render([target] * len(document.texts))

    def changed(value: object) -> object:
        if isinstance(value, list):
            return [changed(each) for each in value]
        if isinstance(value, dict):
            return {key: changed(each) for key, each in value.items()}
        shown = document.texts[0].text
        return value.replace(shown, target) if isinstance(value, str) else value

    assert loaded(rendered) == changed(loaded(source))
    assert rendered.count(b"#") - target.encode().count(b"#") * len(document.texts) == source.count("#")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(VALUES, st.sampled_from([None, "'", '"', "|", ">"]), st.booleans())
def test_any_yaml_comes_back(value: object, style: str | None, flow: bool) -> None:
    data = yaml.safe_dump(value, default_style=style, default_flow_style=flow, allow_unicode=True).encode()
    document = open_document(data, "a.yaml")
    assert document.render([text.text for text in document.texts]) == data
    rendered = document.render([text.text + "; é" for text in document.texts])
    expected = [text.text + "; é" for text in document.texts]
    assert [text.text for text in open_document(rendered, "a.yaml").texts] == expected


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"a: *b\n", "anchors"),
        (b"[" * 300 + b"]" * 300, "inside one another"),
        (b"a: [b", "valid YAML"),
        (b"a: 'b", "valid YAML"),
        (b"a: b: c", "valid YAML"),
        (b"a: \x07b", "valid YAML"),
    ],
)
def test_bad_files_are_refused(data: bytes, rule: str) -> None:
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(data, "a.yaml")


def test_limits_hold_and_aliases_are_not_followed() -> None:
    names = "abcdefghijklmnop"
    bomb = "a: &a [some text, some text]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in itertools.pairwise(names)
    )
    assert len(open_document(bomb.encode(), "a.yaml").texts) == 2
    with pytest.raises(InvalidDocumentError, match="nodes"):
        open_document(bomb.encode(), "a.yaml", DocumentLimits(max_elements=20))


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data, generator = FILE.encode(), random.Random(11)
    damaged = [data[:length] for length in range(0, len(data), 5)]
    for _ in range(150):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    opened = 0
    for each in damaged:
        try:
            document = open_document(each, "a.yaml")
        except InvalidDocumentError:
            continue
        document.render([text.text.upper() for text in document.texts])
        opened += 1
    assert 0 < opened < len(damaged)
