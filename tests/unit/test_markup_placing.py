"""Where tags go in a target: next to the words that are aligned to theirs, well-formed whatever the alignment."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from model.text.markup.placing import MAX_WORK, Mark, place_marks
from model.text.markup.words import MAX_PAIRS, align, cut_words

Link = tuple[int, int, int, int]
TAG = re.compile(r"<(/?)(\w+)(/?)>")


def parse(source: str) -> tuple[str, list[Mark], list[str]]:
    """Return the text, the marks and the tags of a source such as ``a <b>c</b> <x/>``."""
    text, cursor, names = "", 0, 0
    marks: list[Mark] = []
    tags: list[str] = []
    path: list[int] = []
    for match in TAG.finditer(source):
        text += source[cursor : match.start()]
        cursor = match.end()
        tags.append(match[0])
        if match[3]:
            marks.append(Mark(len(text), "empty"))
        elif match[1]:
            marks.append(Mark(len(text), "close", path.pop() if path else (names := names + 1000)))
        else:
            names += 1
            path.append(names)
            marks.append(Mark(len(text), "open", names))
    return text + source[cursor:], marks, tags


def words(text: str) -> list[tuple[int, int]]:
    """Return the words that tests number: an elision, letters, or one mark."""
    return [match.span() for match in re.finditer(r"\w+['’]?|[^\w\s]", text)]  # noqa: RUF001


def place(source: str, target: str, pairs: str = "", *, fill: bool = False) -> str:
    """Place the tags; ``pairs`` are numbers of words, source-target, from 0, and "=" is one to one."""
    text, marks, tags = parse(source)
    left, right = words(text), words(target)
    numbers = (
        [(n, n) for n in range(len(left))] if pairs == "=" else [tuple(map(int, p.split("-"))) for p in pairs.split()]
    )
    links = [(*left[i], *right[j]) for i, j in numbers]
    return write(target, place_marks(text, target, marks, links, fill=fill), tags)


def write(target: str, placed: list[tuple[int, int]], tags: list[str]) -> str:
    """Put tags into the target."""
    out, cursor = "", 0
    for offset, index in placed:
        assert offset >= cursor
        out += target[cursor:offset] + tags[index]
        cursor = offset
    return out + target[cursor:]


@pytest.mark.parametrize(
    ("source", "target", "pairs", "expected"),
    [
        ("the <b>red</b> car", "la voiture rouge", "0-0 1-2 2-1", "la voiture <b>rouge</b>"),
        ("the <i>black</i> <b>cat</b>", "le chat noir", "0-0 1-2 2-1", "le <b>chat</b> <i>noir</i>"),
        ("<b>red car</b> now", "la voiture rouge maintenant", "0-2 1-1 2-3", "la <b>voiture rouge</b> maintenant"),
        ("I do <b>not</b> eat", "je ne mange pas", "0-0 2-1 2-3 3-2", "je <b>ne mange pas</b>"),
        ("drink <b>water</b>.", "bois de l'eau.", "0-0 1-3 2-4", "bois de l'<b>eau</b>."),
        ("go <b>home</b>!", "va à la maison !", "0-0 1-3 2-4", "va à la <b>maison</b> !"),
        ("go <b>home!</b> now", "va à la maison ! maintenant", "0-0 1-3 3-5", "va à la <b>maison !</b> maintenant"),
        ('say "<b>yes</b>"', "dis « oui »", "0-0 2-2", "dis « <b>oui</b> »"),
        ('say <b>"yes"</b> now', "dis « oui » là", "0-0 2-2 4-4", "dis <b>« oui »</b> là"),
        ("a (<i>b</i>)", "x (y)", "0-0 2-2", "x (<i>y</i>)"),
        ("a <i>(b)</i>.", "x (y).", "0-0 2-2", "x <i>(y)</i>."),
        ("<b>a <i>b</i></b> c", "z y x", "0-2 1-1 2-0", "z <b><i>y</i> x</b>"),
        ("<b>a</b> <i>b</i>", "xy", "0-0 1-0", "<b>xy</b><i></i>"),
        ("a <b></b>c", "x y", "0-0 1-1", "x <b></b>y"),
        ("a<x/> b", "y x", "0-1 1-0", "y x<x/>"),
        ("a <x/>b", "y x", "0-1 1-0", "<x/>y x"),
        ("a<x/>. b", "x. y", "=", "x<x/>. y"),
        ("a.<x/> b", "x. y", "0-0 2-2", "x.<x/> y"),
        ("a <b>b</b> c", "x z", "0-0 2-1", "x<b></b> z"),
        ("a <b>b</b> c", "x y z", "0-0 2-2", "x <b>y</b> z"),
        ("<b>a</b> b", "x yy", "1-1", "<b>x</b> yy"),
        ("a <b>b </b>c", "x y z", "=", "x <b>y </b>z"),
        ("a<b> b</b> c", "x y z", "=", "x<b> y</b> z"),
        ("a<b> </b>b", "x y", "=", "x<b> </b>y"),
        ("<b>H</b>ello you", "Bonjour vous", "0-0 1-1", "<b>Bonjour</b> vous"),
        ("<b>W</b>indows XP", "Windows XP", "=", "<b>W</b>indows XP"),
        ("<b>a b c d</b> e", "x y z t u v w", "0-0 1-1 2-6 3-2 4-3 4-4 4-5", "<b>x y z</b> t u v w"),
        ("<b>whole</b>.", "tout entier.", "0-0", "<b>tout entier</b>."),
        ("a <b>b</b> c", "", "", "<b></b>"),
        ("a</b> b", "y x", "0-1 1-0", "y x</b>"),
        ("a <b>b", "y x", "0-1 1-0", "<b>y x"),
        ("a</i> b</b> c <u>d", "x y z t", "=", "x</i> y</b> z <u>t"),
        ("<b>5</b> %", "5 %", "=", "<b>5</b> %"),
        ("<b>5 %</b> of", "5 % de", "=", "<b>5 %</b> de"),
    ],
)
def test_tags_go_with_their_words(source: str, target: str, pairs: str, expected: str) -> None:
    assert place(source, target, pairs) == expected


def test_without_links_tags_keep_their_relative_positions() -> None:
    assert place("one <b>two</b> three", "un deux trois") == "un <b>deux</b> trois"
    assert place("one <b>two</b>", "un deux trois quatre") == "un deux <b>trois quatre</b>"


def test_an_element_is_filled_where_it_must_not_be_empty() -> None:
    assert place("a <b>b</b> c", "x z", "0-0 2-1", fill=True) in ("<b>x</b> z", "x <b>z</b>")
    assert place("a <x/>b", "x z", "0-0", fill=True) == "x <x/>z"


def test_protected_spans_are_never_split_and_draw_their_tags() -> None:
    text, marks, tags = parse("run <b>a b</b> now")
    placed = place_marks(text, "now a b go", marks, [(5, 6, 5, 6), (0, 3, 8, 10)], [(4, 7, 4, 7)])
    assert write("now a b go", placed, tags) == "now <b>a b</b> go"


def test_marks_and_joiners_stay_with_their_letters() -> None:
    cut = cut_words("e\u0301t\u0301e \U0001f468\u200d\U0001f469 \u0928\u092e\u0938\u094d", [], range(20))
    pieces = [cut.text[start:end] for start, end in zip(cut.starts, cut.ends, strict=True)]
    assert "".join(pieces) == cut.text.replace(" ", "")
    assert [piece for piece in pieces if piece[0] in "\u0301\u200d\u094d"] == []
    assert "\U0001f468\u200d\U0001f469" in pieces


def test_too_many_links_and_too_deep_nesting_fall_back_to_positions() -> None:
    size = 700
    text = "a " * size
    links = [(0, len(text), 0, len(text))] * 2
    assert size * size > MAX_PAIRS
    assert not align(text, text, [], links, [], by_position=True).is_complete
    depth = 1800
    assert depth * depth > MAX_WORK
    source = "<b>a " * depth + "</b>" * depth
    output = place(source, "x " * depth, "=")
    etree.fromstring(output, etree.XMLParser(huge_tree=True))
    assert Counter(TAG.findall(output)) == Counter(TAG.findall(source))


@st.composite
def sources(draw: st.DrawFn) -> str:
    """Return nested elements around words."""
    inner = st.recursive(
        st.sampled_from(["a", "b ", " c", "d. ", " ", "l'e ", "«f» ", "<x/>", "<y/> "]),
        lambda inner: st.builds(
            "<{0}>{1}</{0}>".format, st.sampled_from("pqr"), st.lists(inner, max_size=4).map("".join)
        ),
        max_leaves=20,
    )
    return draw(st.lists(inner, max_size=6).map("".join))


EDGES = st.integers(0, 40)
LINKS = st.lists(st.tuples(EDGES, EDGES, EDGES, EDGES), max_size=12)
TARGETS = st.lists(st.sampled_from(["x", "y", " ", " ", ".", "'", "«", "é", "e\u0301"]), max_size=30).map("".join)


@settings(max_examples=120, deadline=None)
@given(source=sources(), target=TARGETS, links=LINKS, fill=st.booleans())
def test_any_links_give_every_tag_once_in_a_legal_order(
    source: str, target: str, links: list[Link], fill: bool
) -> None:
    text, marks, tags = parse(source)
    placed = place_marks(text, target, marks, links, fill=fill)
    assert sorted(index for _, index in placed) == list(range(len(marks)))
    output = write(target, placed, tags)
    before, after = (etree.fromstring(f"<root>{document}</root>") for document in (source, output))
    assert after.xpath("string()") == target

    def parents(root: etree._Element) -> Counter[str]:
        return Counter("/".join([each.tag, *(above.tag for above in each.iterancestors())]) for each in root.iter())

    assert parents(before) == parents(after)


@settings(max_examples=50, deadline=None)
@given(source=sources(), links=LINKS, cut=st.integers(0, 30))
def test_tags_of_elements_that_reach_outside_keep_their_order(source: str, links: list[Link], cut: int) -> None:
    """Cut anywhere outside a tag, the rest of the document around the segment still fits."""
    edges = [0, *(match.end() for match in TAG.finditer(source)), *range(len(TAG.split(source)[0]))]
    begin = sorted(edges)[cut % len(edges)]
    _, outside, _ = parse(source[:begin])
    text, marks, tags = parse(source[begin:])
    output = write("x y z", place_marks(text, "x y z", marks, links), tags)
    assert sorted(TAG.findall(output)) == sorted(TAG.findall(source[begin:]))
    opened = len([mark for mark in outside if mark.kind == "open"]) - len([m for m in outside if m.kind == "close"])
    etree.fromstring(f"<root>{source[:begin]}{output}</root>") if _same_names(source) or opened == 0 else None


def _same_names(source: str) -> bool:
    return len({name for closing, name, empty in TAG.findall(source) if not empty}) == 1


@settings(max_examples=50, deadline=None)
@given(source=sources())
def test_links_to_the_same_words_change_nothing(source: str) -> None:
    text, _, _ = parse(source)
    output = place(source, text.upper(), "=")
    kept = [re.sub(r"\s", "", piece).upper() for piece in re.split(r"(<[^>]*>)", source)]
    assert [piece for piece in kept if piece] == [
        piece for piece in (re.sub(r"\s", "", each).upper() for each in re.split(r"(<[^>]*>)", output)) if piece
    ]
