"""HTML to units and back: what is a unit, what is inline, what is never touched, how text is written."""

from __future__ import annotations

import html
from html.parser import HTMLParser

import pytest

from model.errors import InvalidOptionError, InvalidTextError
from model.text.markup import Inline, MarkupOptions, TargetSegment, parse_markup


def texts(document: str, options: MarkupOptions | None = None) -> list[str]:
    """Return the units' texts."""
    return [unit.text for unit in parse_markup(document, "html", options).units]


def translate(document: str, table: dict[str, str], options: MarkupOptions | None = None) -> str:
    """Replace whole units by a table; others stay untranslated."""
    parsed = parse_markup(document, "html", options)
    targets = []
    for unit in parsed.units:
        target = table.get(unit.text)
        found = [] if target is None else [(target.find(unit.text[a:b]), unit.text[a:b]) for a, b in unit.protected]
        protected = tuple((at, at + len(text), number) for number, (at, text) in enumerate(found) if at >= 0)
        targets.append([] if target is None else [TargetSegment(0, len(unit.text), target, protected)])
    return parsed.render(targets)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("<p>One</p><p>Two</p>", ["One", "Two"]),
        ("<p>One <b>two</b> three</p>", ["One two three"]),
        ("<ul><li>One<li>Two</ul>", ["One", "Two"]),
        ("<P>One<P>Two", ["One", "Two"]),
        ("One<br>two<BR/>three", ["One", "two", "three"]),
        ("<table><tr><td>A<td>B</table>", ["A", "B"]),
        ("<h1>A</h1>text<div>B</div>more", ["A", "text", "B", "more"]),
        ("<select><option>A<option value=b>B</select>", ["A", "B"]),
        ("<p>Press <button>Go</button> now</p>", ["Press", "Go", "now"]),
        ("<my-card>Some <my-word>text</my-word></my-card>", ["Some text"]),
        ("a < b and c > d", ["a < b and c > d"]),
        ("a <3 b", ["a <3 b"]),
        ("text <a href='x", ["text"]),
        ("text <b", ["text"]),
        ("<a href=\"x>y\">z</a>", ["z"]),
        ("<a href=x>y>z</a>", ["y>z"]),
        ("one <!-- two > three --> four", ["one four"]),
        ("one <!-- two", ["one"]),
        ("one <![CDATA[ two ]]> three", ["one three"]),
        ("<!DOCTYPE html><?php echo 1 > 2 ?>text", ["text"]),
        ("<script>var a = '<p>no</p>';</script>yes", ["yes"]),
        ("<STYLE>p > a { }</Style >yes", ["yes"]),
        ("<script>no", []),
        ("yes <svg><text>no</text></svg> too", ["yes too"]),
        ("<textarea>a <b>\n c</textarea>", ["a <b>\n c"]),
        ("<title>A &amp; <b></title>", ["A & <b>"]),
        ("<pre>a\n  b</pre>", ["a\n  b"]),
        ("<p>a\n   b\t c</p>", ["a b c"]),
        ("a&nbsp;b", ["a\u00a0b"]),
        ("&eacute;t&eacute &#233; &#xE9; &bogus; & &amp", ["été é é &bogus; & &"]),
        ("&lt;b&gt;no tag&lt;/b&gt;", ["<b>no tag</b>"]),
        ("&notit;", ["¬it;"]),
        ("<b> </b> <i>--</i>", []),
        ("</p></b></div>text</i>", ["text"]),
        ("", []),
    ],
)  # fmt: skip
def test_units(document: str, expected: list[str]) -> None:
    assert texts(document) == expected
    parsed = parse_markup(document, "html")
    assert parsed.render([[] for _ in parsed.units]) == document


@pytest.mark.parametrize(
    ("document", "expected", "protected"),
    [
        ("Run <code>ls -l</code> now", "Run ls -l now", ["ls -l"]),
        ("Run <kbd>a</kbd><samp>b</samp><var>c</var>", "Run abc", ["a", "b", "c"]),
        ('Run <span translate="no">Dr <b>X</b></span> now', "Run Dr X now", ["Dr X"]),
        ("Run <span translate=NO>X</span> now", "Run X now", ["X"]),
        ('Run <i class="a notranslate b">X</i> now', "Run X now", ["X"]),
        ('Run <i class="notranslated">X</i> now', "Run X now", []),
        ("<p translate=no>No</p><p>Yes</p>", "Yes", []),
        ("<p translate=no>No<p>Yes", "Yes", []),
        ("<div class=notranslate><p>No</p></div>Yes", "Yes", []),
        ("<pre><code>no</code></pre>Yes", "Yes", []),
        ("Run <code><code>a</code>b</code> c", "Run ab c", ["ab"]),
    ],
)
def test_protected_text(document: str, expected: str, protected: list[str]) -> None:
    [unit] = parse_markup(document, "html").units
    assert unit.text == expected
    assert [unit.text[start:end] for start, end in unit.protected] == protected


def test_inline_elements_say_where_they_are() -> None:
    [unit] = parse_markup("A <b class=x>c <i>d</i></b> <img src=y>e", "html").units
    assert unit.text == "A c d e"
    assert unit.inlines == (
        Inline(2, 5, "<b class=x>", "</b>"),
        Inline(4, 5, "<i>", "</i>"),
        Inline(6, 6, "<img src=y>", ""),
    )


def test_an_element_over_two_units_is_whole_in_none() -> None:
    first, second = parse_markup("a <b>c<br>d</b> e", "html").units
    assert first.inlines == (Inline(2, 3, "<b>", ""),)
    assert second.inlines == (Inline(0, 1, "", "</b>"),)


def test_options_change_what_elements_are() -> None:
    document = "<p>One <x-a>two</x-a> <em>three</em></p><div>four</div>"
    assert texts(document, MarkupOptions(splitting_tags=("X-A",))) == ["One", "two", "three", "four"]
    assert texts(document, MarkupOptions(non_splitting_tags=("p", "div"))) == ["One two threefour"]
    [unit, _] = parse_markup(document, "html", MarkupOptions(ignore_tags=("em",))).units
    assert unit.protected == ((8, 13),)
    assert texts(document, MarkupOptions(ignore_tags=("div",))) == ["One two three"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('<img alt="A cat" src="no">', ["A cat"]),
        ("<img ALT=cat>", ["cat"]),
        ("<a title='Go &amp; see' href=no>x</a>", ["Go & see", "x"]),
        ('<input placeholder="Your name" value="no">', ["Your name"]),
        ('<input type=submit value="Send it">', ["Send it"]),
        ('<button aria-label="Close">x</button>', ["Close", "x"]),
        ('<meta name="description" content="About us"><meta name="keywords" content="no">', ["About us"]),
        ('<meta content="Title" property="og:title">', ["Title"]),
        ('<p translate=no title="no">no</p>', []),
        ('<img alt="">', []),
        ('<img alt="a&copy=b">', ["a&copy=b"]),
    ],
)
def test_attributes_that_are_text(document: str, expected: list[str]) -> None:
    assert texts(document) == expected


@pytest.mark.parametrize(
    ("document", "table", "expected"),
    [
        ('<img alt="cat">', {"cat": 'le "chat"'}, '<img alt="le &quot;chat&quot;">'),
        ("<img alt='cat'>", {"cat": 'l\'"eau"'}, "<img alt='l&#39;\"eau\"'>"),
        ("<img alt=cat src=x>", {"cat": "le chat"}, '<img alt="le chat" src=x>'),
        ("<img alt=cat src=x>", {"cat": "chat"}, "<img alt=chat src=x>"),
        ("<p>a <img alt='cat'> b</p>", {"a b": "c d", "cat": "chat"}, "<p>c <img alt='chat'> d</p>"),
        ("<p>text</p>", {"text": "a < b & c > d"}, "<p>a &lt; b &amp; c &gt; d</p>"),
        ("<p>&lt;b&gt; x</p>", {"<b> x": "<b> y"}, "<p>&lt;b&gt; y</p>"),
        ("<p>R & D</p>", {"R & D": "R & E &lt;"}, "<p>R & E &amp;lt;</p>"),
        ("<p>one&nbsp;!</p>", {"one\u00a0!": "un\u00a0!"}, "<p>un&nbsp;!</p>"),
        ("<p>one</p>", {"one": "un\u00a0!"}, "<p>un\u00a0!</p>"),
        ("<p>&copy; us</p>", {"© us": "© nous"}, "<p>&copy; nous</p>"),
        ("<p> \n Hello\n  world \n</p>", {"Hello world": "Bonjour"}, "<p> \n Bonjour \n</p>"),
        ("<b>Hello world</b>", {"Hello world": "Bonjour"}, "<b>Bonjour</b>"),
        ("<b>Hello <i>world</i></b>!", {"Hello world!": "monde"}, "<b><i>monde</i></b>"),
        ("Run <code>a&amp;b</code> now", {"Run a&b now": "Lancez a&b"}, "Lancez <code>a&amp;b</code>"),
        ("Run <code>q</code>.", {"Run q.": "Lancez."}, "<code>q</code> Lancez."),
        ("<p>a<script>1</script> b</p>", {"a b": "c d"}, "<p>c<script>1</script> d</p>"),
        ("<p>a <!--x--> b</p>", {"a b": "c d"}, "<p>c <!--x-->d</p>"),
        ("<p>a <input> b</p>", {"a b": "c d"}, "<p>c <input> d</p>"),
        ("<p>a b", {"a b": "c"}, "<p>c"),
    ],
)
def test_translations_are_written(document: str, table: dict[str, str], expected: str) -> None:
    assert translate(document, table) == expected


def test_segments_leave_what_is_between_them() -> None:
    document = "<p>One  <b>two.\n Three</b> four. <i>Five</i></p>"
    parsed = parse_markup(document, "html")
    [unit] = parsed.units
    assert unit.text == "One two. Three four. Five"
    segments = [
        TargetSegment(0, 8, "Deux un.", (), ((0, 3, 5, 7), (4, 7, 0, 4))),
        TargetSegment(9, 20, "Quatre trois.", (), ((9, 14, 7, 12), (15, 19, 0, 6))),
    ]
    rendered = parsed.render([segments])
    assert rendered == "<p><b>Deux un.\n Quatre trois</b>. <i>Five</i></p>"


def test_a_part_of_a_unit_may_stay_untranslated() -> None:
    parsed = parse_markup("<p>One <b>two</b>. Three.</p>", "html")
    assert parsed.render([[TargetSegment(9, 15, "Trois.")]]) == "<p>One <b>two</b>. Trois.</p>"


@pytest.mark.parametrize("name", ["amp", "lt", "eacute", "hellip", "NotEqualTilde", "copy", "sup1", "notin"])
@pytest.mark.parametrize("end", [";", "", "x", ";x"])
def test_entities_are_read_as_python_reads_them(name: str, end: str) -> None:
    document = f"a &{name}{end} b"
    assert texts(document) == [html.unescape(document)]


class _Data(HTMLParser):
    data = ""

    def handle_data(self, data: str) -> None:
        self.data += data


def test_text_is_what_another_parser_reads() -> None:
    document = "<p>It's <B>5 &lt; 6</B> &amp; <i title='>'>é&#233;</i><!-- no --> end</p>"
    other = _Data()
    other.feed(document)
    assert texts(document) == [other.data]


@pytest.mark.parametrize(
    "document",
    [
        "<b>" * 5_000 + "x" + "</b>" * 5_000,
        "<b>x " * 2_000 + "</b>" * 2_000,
        "<" * 200_000,
        "&" * 200_000,
        '<a b="' * 50_000,
        '<a =">" ' * 5_000,
        "<!--" * 50_000,
        "<i><p>" + "<b>" * 5_000 + "</i>" * 5_000,
        "<![CDATA[" * 50_000,
    ],
    ids=["nested", "nested text", "<", "&", "quotes", "quotes in step", "comments", "stray", "cdata"],
)
def test_hostile_documents_are_read_and_written(document: str) -> None:
    parsed = parse_markup(document, "html")
    targets = [[TargetSegment(0, len(unit.text), unit.text.upper())] for unit in parsed.units]
    assert parsed.render([[] for _ in parsed.units]) == document
    assert parsed.render(targets).count("<b>") == document.count("<b>")


def test_wrong_calls_are_refused() -> None:
    parsed = parse_markup("<p>One two</p>", "html")
    with pytest.raises(ValueError, match="one sequence for each"):
        parsed.render([])
    with pytest.raises(ValueError, match="overlap"):
        parsed.render([[TargetSegment(0, 5, "a"), TargetSegment(4, 7, "b")]])
    with pytest.raises(ValueError, match="inside"):
        parsed.render([[TargetSegment(0, 8, "a")]])
    with pytest.raises(ValueError, match="protected"):
        parsed.render([[TargetSegment(0, 3, "a", ((0, 1, 0),))]])
    with pytest.raises(InvalidOptionError, match="format"):
        parse_markup("x", "docx")  # type: ignore[arg-type]
    with pytest.raises(InvalidTextError, match="string"):
        parse_markup(b"x", "html")  # type: ignore[arg-type]
    for names in (["b"], ("",), ("a b",), ("<b>",), (1,), ("b",) * 1001):
        with pytest.raises(InvalidOptionError, match="ignore_tags"):
            MarkupOptions(ignore_tags=names)  # type: ignore[arg-type]
