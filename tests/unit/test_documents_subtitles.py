"""Subtitles: pysubs2 reads what is written; times, styles, notes and tags stay, and sentences are whole."""

from __future__ import annotations

import random
import re

import pysubs2
import pytest

from model.documents.document import Document
from model.documents.formats import open_document
from model.errors import InvalidDocumentError

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>When the night
has come and</i>

2
00:00:02,600 --> 00:00:04,000 X1:1 X2:2
the land is dark, nobody sees.

3
00:00:05,000 --> 00:00:06,000
{\\an8}- Hello.
- Good <b>evening</b>, sir!

4
00:00:07,000 --> 00:00:08,000
1984


5
00:00:09,000 --> 00:00:10,000
I <3 you & "me"
"""
VTT = """WEBVTT - a title

NOTE this stays
as it is

STYLE
::cue { color: red }

first cue
00:01.000 --> 00:02.000 align:start line:0
<v Roger>Fish &amp; chips<c.loud> please.</c>

00:02.000 --> 00:03.000
one <00:00:02.500>two
"""
ASS = """[Script Info]
; a comment
Title: stays

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,20,&H00FFFFFF,&H000000FF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,2,2,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\an8}When the {\\i1}night{\\i0} has\\Ncome, and
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,a remark
Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,the land, is dark.
Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,{\\p1}m 0 0 l 1 1{\\p0}
Dialogue: 0,0:00:03.00,0:00:04.00,Sign,,0,0,0,,a\\hsign
"""  # noqa: E501 - the lines of the format are that long


def upper(fragment: str) -> str:
    return re.sub(r"(<[^>]*>|&\w+;)|([^<&]+)", lambda found: found[1] or found[2].upper(), fragment)


def in_capitals(document: Document) -> bytes:
    return document.render([upper(text.text) if text.format == "xml" else text.text.upper() for text in document.texts])


def shouted(source: str) -> str:
    """Return a cue's source with everything but tags, entities and breaks in capitals."""
    return re.sub(r"(<(?!3)[^>]*>|\{[^}]*\}|&\w+;|\\[Nh])|(.)", lambda found: found[1] or found[2].upper(), source)


@pytest.mark.parametrize(
    ("data", "name", "texts"),
    [
        (
            SRT,
            "a.srt",
            [
                "When the night has come and the land is dark, nobody sees.",
                "- Hello.",
                "- Good <w1>evening</w1>, sir!",
                'I <3 you & "me"',
            ],
        ),
        (VTT, "a.vtt", ["Fish &amp; chips<w1> please.</w1>", "one <x1/>two"]),
        (ASS, "a.ass", ["When the <w1>night</w1> has come, and the land, is dark.", "a\xa0sign"]),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_words_change(data: str, name: str, texts: list[str], newline: str) -> None:
    data = data.replace("\n", newline)
    document = open_document(data.encode(), name)
    assert [text.text for text in document.texts] == texts
    assert document.render([text.text for text in document.texts]).decode() == data
    rendered = in_capitals(document).decode()
    kind = name[2:]
    before, after = (
        pysubs2.SSAFile.from_string(text, format_=kind, **({} if kind == "ass" else {"keep_unknown_html_tags": True}))
        for text in (data, rendered)
    )
    assert [(each.start, each.end, each.style, each.type) for each in after] == [
        (each.start, each.end, each.style, each.type) for each in before
    ]
    assert after.info == before.info
    assert after.styles == before.styles
    untouched = [each.is_comment or "\\p1" in each.text for each in before]
    assert [each.text for each in after] == [
        each.text if stays else shouted(each.text) for each, stays in zip(before, untouched, strict=True)
    ]
    others = [line for line in data.splitlines() if line not in rendered.splitlines()]
    assert all(re.search("[a-z]", line) for line in others)
    assert [line for line in rendered.splitlines() if line in data.splitlines()] == [
        line for line in data.splitlines() if line not in others
    ]


def cues(*texts: str) -> bytes:
    return "\n\n".join(f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}" for n, text in enumerate(texts, 1)).encode()


def bodies(data: bytes) -> list[str]:
    return [part.split("\n", 2)[2] for part in data.decode().split("\n\n")]


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (("He went", "home."), 1),
        (("He went.", "home."), 2),
        (("He went", "Home."), 2),
        (("He went,", "I stayed."), 1),
        (("He went", "- home."), 2),
        (("<v Tom>He went", "<v Ann>home."), 2),
        (("He went", "♪", "home"), 2),
        (("a",) * 9, 2),
    ],
)
def test_cues_that_share_a_sentence_are_joined(texts: tuple[str, ...], joined: int) -> None:
    assert len(open_document(cues(*texts), "a.srt").texts) == joined


def test_a_translation_is_cut_in_proportion_at_spaces() -> None:
    document = open_document(cues("one two three four five six", "seven eight"), "a.srt")
    assert bodies(document.render(["aaa bbb ccc ddd eee fff ggg hhh"])) == ["aaa bbb ccc ddd eee fff", "ggg hhh"]
    source = cues("one two three four five six", "seven eight").decode()
    only = source.replace("one two three four five six", "word").replace("seven eight", "")
    assert document.render(["word"]).decode() == only
    assert document.render([""]).decode() == only.replace("word", "")


def test_long_lines_are_broken_near_the_middle() -> None:
    document = open_document(cues("short"), "a.srt")
    assert bodies(document.render(["abcd " * 8 + "ab"])) == ["abcd " * 8 + "ab"]
    [body] = bodies(document.render(["abcd " * 8 + "abc"]))
    assert [len(line) for line in body.split("\n")] in ([19, 23], [24, 18])
    [body] = bodies(document.render(["abcd " * 20]))
    assert [len(line) for line in body.split("\n")] == [34, 29, 34]
    document = open_document(cues("two lines\nof a text"), "a.srt")
    assert bodies(document.render(["zwei Zeilen eines Textes"])) == ["zwei Zeilen\neines Textes"]


def test_tags_move_with_their_words_and_close_at_the_end_of_a_cue() -> None:
    document = open_document(cues("see <i>the old", "blue</i> house"), "a.srt")
    assert [text.text for text in document.texts] == ["see <x1/>the old blue<x2/> house"]
    document = open_document(cues("a <i>red</i> {\\b1}car{\\b0}", "went by"), "a.srt")
    assert [text.text for text in document.texts] == ["a <w1>red</w1> <w2>car</w2> went by"]
    assert bodies(document.render(["eine <w2>rote große <w1>Sache</w1></w2>"])) == [
        "eine {\\b1}rote{\\b0}",
        "{\\b1}große <i>Sache</i>{\\b0}",
    ]
    for bad in ("a red car", "<w1>a <w2>b</w1></w2>", "<w1>a</w1>", "<w1>a</w1><w2>b</w2><x3/>", "<w1/>a<w2>b</w2>"):
        with pytest.raises(InvalidDocumentError, match="tags"):
            document.render([bad])


def test_characters_that_would_become_markup_are_kept_from_it() -> None:
    assert bodies(open_document(cues("a"), "a.srt").render(["1 <3 x> y"])) == ["1 <3 x> y"]
    assert bodies(open_document(cues("a"), "a.srt").render(["<i>x</i>"])) == ["<\u2060i>x<\u2060/i>"]
    assert (
        "\n<v Roger>a &lt;b&gt; --&gt; &amp;\n"
        in open_document(VTT.replace("<c.loud> please.</c>", "").encode(), "a.vtt")
        .render(["a <b> --> &", "one <x1/>two"])
        .decode()
    )
    written = open_document(ASS.encode(), "a.ass").render(["<w1>a</w1> {b} C:\\New", "c"]).decode()
    assert [line.rpartition(",")[2] for line in written.splitlines()[-5:]] == [
        "{\\an8}{\\i1}a{\\i0}\\N\\{b\\}",
        "a remark",
        "C:\\\u2060New",
        "{\\p1}m 0 0 l 1 1{\\p0}",
        "c",
    ]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("hello", "a.srt"),
        ("1\n00:00:01 -> 00:00:02\nhello", "a.srt"),
        (SRT.replace("00:00:05,000", "00:0x:05,000"), "a.srt"),
        ("x\n" + SRT, "a.srt"),
        ("hello", "a.vtt"),
        ("WEBVTT\n\n00:01 --> 00:02\nhello", "a.vtt"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nhello\n00:03.000 --> 00:04.000\n", "a.vtt"),
        ("[Script Info]\n", "a.ass"),
        ("[Events]\nDialogue: 0,1,2\n", "a.ass"),
        ("[Events]\nFormat: Text, Start\n", "a.ssa"),
    ],
)
def test_bad_files_are_refused(data: str, name: str) -> None:
    with pytest.raises(InvalidDocumentError):
        open_document(data.encode(), name)


@pytest.mark.parametrize(("data", "name"), [(SRT, "a.srt"), (VTT, "a.vtt"), (ASS, "a.ass")])
def test_damaged_files_are_refused_and_nothing_else_happens(data: str, name: str) -> None:
    content, generator = data.encode(), random.Random(19)
    damaged = [content[:length] for length in range(0, len(content), 3)]
    for _ in range(400):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    opened = 0
    for each in damaged:
        try:
            document = open_document(each, name)
        except InvalidDocumentError:
            continue
        assert document.render([text.text for text in document.texts]) == each
        in_capitals(document)
        opened += 1
    assert 0 < opened < len(damaged)
