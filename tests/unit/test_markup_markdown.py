"""Markdown to units and back; markdown-it-py's own reading of the result is the reference for what it means."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from model.text.markup import Inline, MarkupOptions, TargetSegment, Unit, parse_markup

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def texts(document: str, options: MarkupOptions | None = None) -> list[str]:
    """Return the units' texts."""
    return [unit.text for unit in parse_markup(document, "markdown", options).units]


def whole(unit: Unit, text: str) -> TargetSegment:
    """Return a segment that covers a unit, with protected spans where they stood if the text is as long."""
    same = len(text) == len(unit.text)
    protected = tuple((start, end, index) for index, (start, end) in enumerate(unit.protected)) if same else ()
    return TargetSegment(0, len(unit.text), text, protected)


def translate(document: str, *targets: str) -> str:
    """Translate all units."""
    parsed = parse_markup(document, "markdown")
    return parsed.render([[whole(unit, text)] for unit, text in zip(parsed.units, targets, strict=True)])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("# One\n\nTwo\nthree", ["One", "Two three"]),
        ("One\n===\nTwo\n---\n", ["One", "Two"]),
        ("## One ##\n", ["One"]),
        ("- one\n- two\n  three\n\n1. four\n2) five", ["one", "two three", "four", "five"]),
        ("> one\n> two\nthree", ["one two three"]),
        ("> - one\n>   two\n", ["one two"]),
        ("| a | b |\n|---|:-:|\n| one \\| x | `c\\|d` |\n", ["a", "b", "one | x"]),
        ("a | b\n--|--\none | two\n", ["a", "b", "one", "two"]),
        ("> | a | b |\n> |---|---|\n> | c | d |", ["a", "b", "c", "d"]),
        ("```\ncode\n```\n\n    code\n\ntext", ["text"]),
        ("---\ntitle: x\n---\nText", ["Text"]),
        ("+++\nt = 1\n+++\nText", ["Text"]),
        ("Text\n\n[ref]: http://x 'title'\n", ["Text"]),
        ("One  \ntwo\\\nthree", ["One", "two", "three"]),
        ("One<br>two", ["One", "two"]),
        ("*One* **two** ***three*** _four_ __five__ ~~six~~", ["One two three four five six"]),
        ("snake_case_name and 2 * 3 * 4", ["snake_case_name and 2 * 3 * 4"]),
        ("\\*one\\* &amp; &eacute; &bogus;", ["*one* & é &bogus;"]),
        ("[one](u) [two][r] [r] [r][] [no]\n\n[r]: u", ["one two r r [no]"]),
        ("[a](<b c> 'd') [e](f(g)h \"i\")", ["a e"]),
        ("![a cat](c.png) text", ["a cat", "text"]),
        ("[![a cat](c.png)](u) text", ["a cat", "text"]),
        ("![a *b*](c.png) ![a \\* b](d)", ["a * b"]),
        ("See <http://x.y> and `a b`.", ["See http://x.y and a b."]),
        ("`` a`b `` x", ["a`b x"]),
        ("a <b>c</b> <!-- d --> e", ["a c e"]),
        ("<div>\n\nOne\n\n</div>\n", ["One"]),
        ("<div title='t'>One <b>two</b></div>", ["t", "One two"]),
        ("- [ ] one\n- [x] two", ["one", "two"]),
        ("Note[^1].\n\n[^1]: A foot note", ["Note.", "A foot note"]),
        ("> [!NOTE]\n> One", ["One"]),
        ("One\r\ntwo\r\n\r\nthree\r", ["One two", "three"]),
        ("\ttab\n\ntext", ["text"]),
        ("1.\tone\n\ttwo", ["one two"]),
        ("* * *\n\n***", []),
        ("", []),
    ],
)
def test_units(document: str, expected: list[str]) -> None:
    assert texts(document) == expected
    parsed = parse_markup(document, "markdown")
    assert parsed.render([[] for _ in parsed.units]) == document


def test_inline_elements_and_protected_spans_say_where_they_are() -> None:
    [unit] = parse_markup("A **b `c`** [d](u) <i>e</i>", "markdown").units
    assert unit.text == "A b c d e"
    assert unit.inlines == (Inline(2, 5, "**", "**"), Inline(6, 7, "[", "](u)"), Inline(8, 9, "<i>", "</i>"))
    assert unit.protected == ((4, 5),)


def test_options_are_for_html_elements() -> None:
    document = "One <x-a>two</x-a> three"
    [unit] = parse_markup(document, "markdown", MarkupOptions(ignore_tags=("x-a",))).units
    assert [unit.text[start:end] for start, end in unit.protected] == ["two"]
    assert texts(document, MarkupOptions(splitting_tags=("x-a",))) == ["One", "two three"]


@pytest.mark.parametrize(
    ("document", "targets", "expected"),
    [
        ("# One *two*\n", ["Un deux"], "# Un *deux*\n"),
        ("One\n> two\n", ["Un", "deux"], "Un\n> deux\n"),
        ("- one\n  two", ["un deux"], "- un deux"),
        ("One **two**", ["**Un** deux"], "\\*\\*Un\\*\\* **deux**"),
        ("One", ["a * b"], "a * b"),
        ("One", ["snake_case"], "snake_case"),
        ("One", ["_a_ `b` <c> &amp; \\*"], "\\_a\\_ \\`b\\` \\<c> &amp;amp; \\\\\\*"),
        ("One", ["# Un"], "\\# Un"),
        ("One", ["1. Un"], "1\\. Un"),
        ("One", ["- Un"], "\\- Un"),
        ("One", ["> Un"], "\\> Un"),
        ("One", ["-1 and 1.5"], "-1 and 1.5"),
        ("| a |\n|---|\n| b |", ["x|y", "z"], "| x\\|y |\n|---|\n| z |"),
        ("[one](u)", ["a]b"], "[a\\]b](u)"),
        ("![one](u)", ["a]b"], "![a\\]b](u)"),
        ("[One] two\n\n[one]: u", ["Un deux"], "[Un][One] deux\n\n[one]: u"),
        ("[One]\n\n[one]: u", ["Un"], "[Un][One]\n\n[one]: u"),
        ("[One][]\n\n[one]: u", ["Un"], "[Un][One]\n\n[one]: u"),
        ("[One]\n\n[one]: u", ["One"], "[One]\n\n[one]: u"),
        ("Text &copy;", ["Texte ©"], "Texte &copy;"),
    ],
)
def test_translations_are_written(document: str, targets: list[str], expected: str) -> None:
    assert translate(document, *targets) == expected


def test_an_exclamation_mark_before_a_link_makes_no_image() -> None:
    parsed = parse_markup("See [one](u)", "markdown")
    target = TargetSegment(0, 7, "Ah!un", (), ((4, 7, 3, 5), (0, 3, 0, 3)))
    assert parsed.render([[target]]) == "Ah\\![un](u)"


def test_emphasis_never_becomes_empty() -> None:
    parsed = parse_markup("One *two* three", "markdown")
    links = ((0, 3, 0, 2), (8, 13, 3, 8))
    assert parsed.render([[TargetSegment(0, 13, "Un trois", (), links)]]) in ("Un *trois*", "*Un* trois")


@settings(max_examples=80, deadline=None)
@given(
    text=st.lists(
        st.sampled_from([*"*_`[]()<>!#&;|~\\-+.1=:\"' ", "a", "bc", "&amp;", "http://x", "\u00e9"]), max_size=14
    )
    .map("".join)
    .map(str.strip)
)
def test_any_target_is_read_as_the_text_it_is(text: str) -> None:
    """A paragraph stays one paragraph whose only content is the text."""
    if not text:
        return
    rendered = RENDERER.render(translate("One", text))
    assert rendered == f"<p>{escapeHtml(text)}</p>\n"


PIECES = st.lists(
    st.sampled_from(
        ["*", "**", "_", "`", "[", "](u)", "a", "b c", " ", "\n", "~~", "\\*", "<b>", "</b>", "&lt;", "!", ".", "é"]
    ),
    max_size=16,
).map("".join)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(document=PIECES)
def test_inline_syntax_is_read_as_the_reference_reads_it(document: str) -> None:
    """The text around which there is none, hard breaks and blocks of HTML apart."""
    document = re.sub(r" +\n|\\\n", "\n", re.sub("~{3,}", "~", f"w{document}"))
    units = parse_markup(document, "markdown").units
    rendered = RENDERER.render(document)
    if rendered.count("<p>") != 1 or "<li>" in rendered or "<h" in rendered:
        return
    theirs = html.unescape(re.sub(r"<[^>]*>", "", rendered))
    assert "".join("".join(unit.text for unit in units).split()) == "".join(theirs.split())


@pytest.mark.parametrize(
    "document",
    ["*a " * 9_000, "a*" * 5_000, "[" * 50_000, "[a](" * 5_000, "![" * 9_000, "<" * 90_000, ">" * 50_000, "*_" * 9_000],
    ids=["open", "both", "[", "](", "![", "<", ">", "mixed"],
)  # fmt: skip
def test_hostile_documents_are_read_and_written(document: str) -> None:
    parsed = parse_markup(document, "markdown")
    targets = [[TargetSegment(0, len(unit.text), unit.text.upper())] for unit in parsed.units]
    assert parsed.render([[] for _ in parsed.units]) == document
    assert parsed.render(targets).replace("\\", "").lower() == document.lower().strip() or document != document.strip()
