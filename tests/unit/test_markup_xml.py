"""XML to units and back, and what is refused; lxml is the reference for what is well-formed."""

from __future__ import annotations

import pytest
from lxml import etree

from model.errors import InvalidTextError
from model.text.markup import Inline, MarkupOptions, TargetSegment, parse_markup


def texts(document: str, options: MarkupOptions | None = None) -> list[str]:
    """Return the units' texts."""
    return [unit.text for unit in parse_markup(document, "xml", options).units]


def replace(document: str, target: str, options: MarkupOptions | None = None) -> str:
    """Translate the only unit."""
    parsed = parse_markup(document, "xml", options)
    [unit] = parsed.units
    return parsed.render([[TargetSegment(0, len(unit.text), target)]])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<doc><title>A</title><par>B</par></doc>", ["A", "B"]),
        ("<doc>\n <t>A <b>c</b> d</t>\n <t>E</t>\n</doc>", ["A c d", "E"]),
        ("<t>A <b><i>c</i><u>d</u></b></t>", ["A cd"]),
        ("Hello <b>World</b>", ["Hello World"]),
        ("<p>One</p> two", ["One two"]),
        ("<p>One</p>\n<p>two</p>", ["One", "two"]),
        ("<p>One<br/>two</p>", ["Onetwo"]),
        ("<p>&lt;b&gt; &amp; &quot;&apos; &#65;&#x42;</p>", ["<b> & \"' AB"]),
        ("<p>One &unknown; two</p>", ["One two"]),
        ("<p><![CDATA[a]]> b</p>", ["a b"]),
        ("<p><![CDATA[<b>x</b>]]></p>", []),
        ("<p>One <!-- no --> two <?pi no?></p>", ["One two"]),
        ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "no > no"> <!-- ] > -->]><a>B</a>', ["B"]),
        ("<p>a\n   b</p>", ["a b"]),
        ('<p xml:space="preserve">a\n   b</p>', ["a\n   b"]),
        ('<p xml:space="preserve"><q xml:space="default">a\n   b</q></p>', ["a b"]),
        ('<p title="no" alt="no">yes</p>', ["yes"]),
        ("<d><script>no</script><P>yes</P></d>", ["yes"]),
        ("<d translate='no'>no<p>no</p></d>", []),
        ("<élan>oui</élan>", ["oui"]),
        ("<a></a><b/>", []),
    ],
)
def test_units(document: str, expected: list[str]) -> None:
    assert texts(document) == expected
    parsed = parse_markup(document, "xml")
    assert parsed.render([[] for _ in parsed.units]) == document


def test_options_decide_before_the_structure_does() -> None:
    document = "<doc><a>One <b>two</b> <c>three</c></a><d>four</d></doc>"
    assert texts(document) == ["One two three", "four"]
    assert texts(document, MarkupOptions(splitting_tags=("c",))) == ["One two", "three", "four"]
    assert texts(document, MarkupOptions(non_splitting_tags=("a", "d"))) == ["One two threefour"]
    [unit, _] = parse_markup(document, "xml", MarkupOptions(ignore_tags=("b",))).units
    assert [unit.text[start:end] for start, end in unit.protected] == ["two"]
    assert texts(document, MarkupOptions(ignore_tags=("d",))) == ["One two three"]
    assert texts(document, MarkupOptions(ignore_tags=("D",))) == ["One two three", "four"]


def test_an_entity_that_is_not_predefined_stays_between_its_neighbours() -> None:
    [unit] = parse_markup("<p>One &x; two</p>", "xml").units
    assert unit.inlines == (Inline(4, 4, "&x;", ""),)
    assert replace("<p>One &x;two</p>", "Un deux") == "<p>Un &x;deux</p>"


def test_no_entity_is_ever_expanded() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    document = f'<!DOCTYPE x [<!ENTITY l0 "lol">{laughs}<!ENTITY f SYSTEM "file:///etc/passwd">]><x>A &l9; &f;</x>'
    parsed = parse_markup(document, "xml")
    assert [unit.text for unit in parsed.units] == ["A"]
    assert parsed.render([[TargetSegment(0, 1, "B")]]) == document.replace(">A ", ">B ")


@pytest.mark.parametrize(
    ("document", "target", "expected"),
    [
        ("<p>One</p>", "a < b & c > d", "<p>a &lt; b &amp; c &gt; d</p>"),
        ("<p>&lt;b&gt;</p>", "<i>", "<p>&lt;i&gt;</p>"),
        ("<p><![CDATA[y z]]></p>", "y ]]> z", "<p><![CDATA[y ]]]]><![CDATA[> z]]></p>"),
        ("<p><![CDATA[y z]]></p>", "a & b", "<p><![CDATA[a & b]]></p>"),
        ("<p>One</p>", "bell\x07", "<p>bell\ufffd</p>"),
        ("<p>One <b/>two <i>three</i></p>", "Un deux trois", "<p>Un <b/>deux <i>trois</i></p>"),
    ],
)
def test_translations_are_written(document: str, target: str, expected: str) -> None:
    assert replace(document, target) == expected
    etree.fromstring(expected)


def test_tags_do_not_get_into_a_cdata_section() -> None:
    document = "<p>a <b>x</b> y. <![CDATA[One two. Three]]> four</p>"
    parsed = parse_markup(document, "xml")
    [unit] = parsed.units
    assert unit.text == "a x y. One two. Three four"
    links = ((2, 3, 4, 5), (7, 10, 0, 1), (11, 14, 2, 3))
    rendered = parsed.render([[TargetSegment(0, 15, "1 2 x y 5.", (), links), TargetSegment(16, 26, "4 & 3")]])
    root = etree.fromstring(rendered)
    assert root.xpath("string()") == "1 2 x y 5. 4 & 3"
    assert [each.tag for each in root] == ["b"]


BROKEN = [
    "<p>",
    "</p>",
    "<p></q>",
    "<p><b></p></b>",
    "<p a=1/>",
    "<p a='1' a='2'/>",
    "<p a='<'/>",
    "<p a='1'b='2'/>",
    "<p a/>",
    "<p>a & b</p>",
    "<p>&;</p>",
    "<p>&#xG;</p>",
    "<p a='&'/>",
    "<p>a < b</p>",
    "<p",
    "<p>]]></p>",
    "<p><!-- a -- b --></p>",
    "<p><!-- a",
    "<p><![CDATA[ a</p>",
    "<p><? ?></p>",
    "<p>\x01</p>",
    "<1p/>",
    "<p/ >",
    "<p><!DOCTYPE x></p>",
    "<!DOCTYPE",
]
SOUND = [
    "<p/>",
    "<p ></p >",
    "<p a = '1'\n b=\"2>1\"/>",
    "<p>a > b</p>",
    "<p a='&lt;&#60;'>&#xe9;&#233;</p>",
    "<p><!----><!-- - --><?x?></p>",
    "<x:p xmlns:x='u'>é</x:p>",
    "<p>]] ></p>",
]


@pytest.mark.parametrize("document", BROKEN)
def test_what_is_not_well_formed_is_refused(document: str) -> None:
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(document)
    with pytest.raises(InvalidTextError, match=r"text must be well-formed XML \(.*, line 1\)"):
        parse_markup(document, "xml")


@pytest.mark.parametrize("document", SOUND)
def test_what_is_well_formed_is_taken(document: str) -> None:
    etree.fromstring(document)
    parsed = parse_markup(document, "xml")
    assert parsed.render([[] for _ in parsed.units]) == document


def test_the_error_names_the_line() -> None:
    with pytest.raises(InvalidTextError, match="line 3"):
        parse_markup("<a>\n\n<b></a>", "xml")


@pytest.mark.parametrize(
    "document",
    ["<b>" * 20_000 + "x" + "</b>" * 20_000, "<a>" + "&x;" * 50_000 + "</a>", "<a>" + "<![CDATA[x]]>" * 5_000 + "</a>"],
    ids=["nested", "entities", "cdata"],
)
def test_large_documents_are_read_and_written(document: str) -> None:
    parsed = parse_markup(document, "xml")
    targets = [[TargetSegment(0, len(unit.text), unit.text.upper())] for unit in parsed.units]
    assert parsed.render([[] for _ in parsed.units]) == document
    assert parsed.render(targets).lower() == document.lower()
