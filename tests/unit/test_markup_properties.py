"""Markup on random documents: nothing is lost, invented or broken, whatever the translation and its alignment say.

The references are Python's html.parser and lxml, which share no code with what is tested.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from model.text.markup import MarkupDocument, MarkupFormat, MarkupOptions, TargetSegment, Unit, parse_markup

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WORDS = st.sampled_from(
    ["one", "two", "l'eau", "x", "déjà", "&amp;", "&lt;b&gt;", "a &gt; b", "end.", "«", "»", ",", "!", "42"]
)
SPACES = st.sampled_from(["", " ", "  ", "\n "])
NAMES = st.sampled_from(["b", "i", "em", "span", "x-y", "a"])
EMPTIES = st.sampled_from(["<img src='a.png'/>", "<!-- c -->", "<wbr/>", "<b></b>", "<code>f(x)</code>", "<i><b/></i>"])


@st.composite
def elements(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """Return an inline element around text."""
    name = draw(NAMES)
    attribute = draw(st.sampled_from(["", " class='k'", ' title="&quot;q&quot;"']))
    return f"<{name}{attribute}>{draw(inner)}</{name}>"


def runs(piece: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return a strategy for several pieces with or without spaces between them."""
    return st.lists(st.tuples(piece, SPACES), max_size=5).map(lambda pairs: "".join(map("".join, pairs)))


CONTENT = runs(st.recursive(WORDS | EMPTIES, lambda inner: elements(runs(inner)), max_leaves=12))
BLOCKS = st.lists(CONTENT, min_size=1, max_size=3).map(lambda each: "".join(f"<p>{content}</p>" for content in each))
SOUP = st.lists(
    st.sampled_from(
        [
            *(*"<>&\"'=/!-[]`*_~\\|# \n", "a", "word ", "<b>", "</b>", "<p", "</p>", "<!--", "-->"),
            *("<![CDATA[", "<script>"),
            *("&lt", "&#", "<pre>", "<a href=", "<code>", "<br>", "**", "](u)", "![", "- ", "> ", "```", "1. "),
            "| a | b |\n|---|---|\n",
        ]
    ),
    max_size=40,
).map("".join)  # fmt: skip
FORMATS: list[MarkupFormat] = ["html", "xml", "markdown"]


class Structure(HTMLParser):
    """Collects tags, comments and text in order."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.events: list[str] = []
        """Tags and comments begin with a zero byte, which no document of these tests has."""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.events.append(f"\0<{tag} {attrs}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.events.append(f"\0<{tag} {attrs}/>")

    def handle_endtag(self, tag: str) -> None:
        self.events.append(f"\0</{tag}>")

    def handle_comment(self, data: str) -> None:
        self.events.append(f"\0<!--{data}-->")

    def handle_data(self, data: str) -> None:
        self.events.append(data)


def tags(document: str) -> list[str]:
    """Return what is not text."""
    return [event for event in Structure(document).events if event.startswith("\0")]


def shape(document: str) -> list[str]:
    """Return tags and the text between them, in capitals and without spaces."""
    texts = re.split(
        r"(\0[^\0]*\0)", "".join(f"{event}\0" if event[0] == "\0" else event for event in Structure(document).events)
    )
    return [text for text in ("".join(text.upper().split()) for text in texts) if text]


def spans(unit: Unit, draw: Callable[[st.SearchStrategy[bool]], bool]) -> list[tuple[int, int]]:
    """Cut a unit at some of its spaces, but not inside protected spans."""
    cuts = [0]
    for match in re.finditer(r" +", unit.text):
        free = all(not start < match.end() < end and not start <= match.start() < end for start, end in unit.protected)
        if free and draw(st.booleans()):
            cuts += match.span()
    cuts.append(len(unit.text))
    return [(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=True) if start < end]


def protected_in(unit: Unit, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return the protected spans of a segment, relative to it."""
    return [(a - start, b - start, index) for index, (a, b) in enumerate(unit.protected) if start <= a and b <= end]


def unchanged(unit: Unit, start: int, end: int, text: str) -> TargetSegment:
    """Return a segment whose words stand where they stood."""
    links = tuple((*match.span(), *(edge - start for edge in match.span())) for match in re.finditer(r"\S+", unit.text))
    inside = tuple(link for link in links if start <= link[0] and link[1] <= end)
    return TargetSegment(start, end, text, tuple(protected_in(unit, start, end)), inside)  # type: ignore[arg-type]


def upper(unit: Unit, start: int, end: int) -> str:
    """Return a segment in capitals, except for what is protected."""
    text = list(unit.text[start:end])
    kept = {index for a, b, _ in protected_in(unit, start, end) for index in range(a, b)}
    return "".join(letter if index in kept else letter.upper() for index, letter in enumerate(text))


@st.composite
def random_targets(draw: st.DrawFn, document: MarkupDocument) -> list[list[TargetSegment]]:
    """Return other words in another order, with links that mean nothing; protected spans come in any order."""
    targets = []
    for unit in document.units:
        segments = []
        for start, end in spans(unit, draw):
            pieces: list[tuple[str, int]] = [
                (word, -1)
                for word in draw(st.lists(st.sampled_from(["mot", "d'un", "été", ",", "fin.", "<", "&"]), max_size=6))
            ]
            pieces += [(unit.text[start + a : start + b], index) for a, b, index in protected_in(unit, start, end)]
            text, kept = "", []
            for piece, index in draw(st.permutations(pieces)):
                text += draw(st.sampled_from(["", " "])) if text else ""
                if index >= 0:
                    kept.append((len(text), len(text) + len(piece), index))
                text += piece
            edges = st.integers(-2, max(2, len(text) + 2))
            sources = st.integers(max(0, start - 2), end + 2)
            links = draw(st.lists(st.tuples(sources, sources, edges, edges), max_size=8))
            segments.append(TargetSegment(start, end, text, tuple(kept), tuple(links)))
        targets.append(segments)
    return targets


@QUICK
@given(document=SOUP | BLOCKS, format=st.sampled_from(["html", "markdown"]))
def test_any_text_comes_back_when_nothing_is_translated(document: str, format: MarkupFormat) -> None:
    parsed = parse_markup(document, format)
    assert parsed.render([[] for _ in parsed.units]) == document


@QUICK
@given(document=SOUP | BLOCKS, format=st.sampled_from(["html", "markdown"]), data=st.data())
def test_any_text_comes_back_when_every_target_is_its_source(
    document: str, format: MarkupFormat, data: st.DataObject
) -> None:
    parsed = parse_markup(document, format)
    targets = [[unchanged(unit, a, b, unit.text[a:b]) for a, b in spans(unit, data.draw)] for unit in parsed.units]
    assert parsed.render(targets) == document


@QUICK
@given(document=SOUP, format=st.sampled_from(["html", "markdown"]), data=st.data())
def test_any_text_can_be_translated(document: str, format: MarkupFormat, data: st.DataObject) -> None:
    parsed = parse_markup(document, format)
    rendered = parsed.render(data.draw(random_targets(parsed)))
    # An image's tag holds its alternative text, which is translated too; marks of emphasis are met inside others.
    tags = [inline.opening for unit in parsed.units for inline in unit.inlines]
    wanted = Counter(tag for tag in tags if tag.strip("*_") and not tag.startswith("!["))
    assert all(rendered.count(tag) >= count for tag, count in wanted.items())


@QUICK
@given(document=BLOCKS, format=st.sampled_from(["html", "xml"]), data=st.data())
def test_capitals_keep_the_structure(document: str, format: MarkupFormat, data: st.DataObject) -> None:
    parsed = parse_markup(document, format)
    targets = [[unchanged(unit, a, b, upper(unit, a, b)) for a, b in spans(unit, data.draw)] for unit in parsed.units]
    assert shape(parsed.render(targets)) == shape(document)


@QUICK
@given(document=BLOCKS, format=st.sampled_from(["html", "xml"]), data=st.data())
def test_any_alignment_keeps_every_tag_once_and_well_formed(
    document: str, format: MarkupFormat, data: st.DataObject
) -> None:
    parsed = parse_markup(document, format)
    targets = data.draw(random_targets(parsed))
    without_titles = [[] if unit.text == '"q"' else each for unit, each in zip(parsed.units, targets, strict=True)]
    rendered = parsed.render(without_titles)
    tree = etree.fromstring(f"<root>{rendered}</root>")
    assert Counter(tags(rendered)) == Counter(tags(document))
    before = etree.fromstring(f"<root>{document}</root>")
    assert Counter(each.tag for each in tree.iter()) == Counter(each.tag for each in before.iter())
    assert [etree.tostring(each, with_tail=False) for each in tree.iter("code")].count(
        b"<code>f(x)</code>"
    ) == document.count("<code>")


@QUICK
@given(document=BLOCKS)
def test_the_text_is_the_target_text(document: str) -> None:
    parsed = parse_markup(document, "xml")
    unit_text = {unit.text: "Ein & <Satz>" for unit in parsed.units if not unit.protected}
    targets = [
        [TargetSegment(0, len(unit.text), unit_text[unit.text])] if unit.text in unit_text else []
        for unit in parsed.units
    ]
    root = etree.fromstring(f"<root>{parsed.render(targets)}</root>")
    # An empty element between two spaces keeps both of them.
    assert " ".join(str(root.xpath("string()")).split()).count("Ein & <Satz>") == sum(bool(each) for each in targets)


@QUICK
@given(document=SOUP, format=st.sampled_from(FORMATS), names=st.lists(NAMES, max_size=2).map(tuple))
def test_units_say_the_truth_about_themselves(document: str, format: MarkupFormat, names: tuple[str, ...]) -> None:
    if format == "xml":
        document = f"<r>{document.replace('&', '').replace('<', '').replace(']]>', '')}<b>x</b></r>"
    parsed = parse_markup(document, format, MarkupOptions(ignore_tags=names))
    for unit in parsed.units:
        assert unit.text.strip()
        assert list(unit.protected) == sorted(unit.protected)
        for inline in unit.inlines:
            assert 0 <= inline.start <= inline.end <= len(unit.text)
            assert inline.opening in document
            assert inline.closing in document
