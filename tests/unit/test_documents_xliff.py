"""XLIFF files: lxml reads what is written; sources, codes and finished targets stay as they are."""

from __future__ import annotations

import random
import re

import pytest
from lxml import etree

from model.documents.document import Document
from model.documents.formats import open_document
from model.errors import InvalidDocumentError

FIRST = """<?xml version="1.0" encoding="UTF-8"?>
<!-- made by hand -->
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2" xmlns:o="urn:other">
 <file source-language="en" target-language="fr" original='a.txt' datatype="plaintext"><body>
  <trans-unit id="1">
    <source>Hello <g id="1">big <x id="2"/>world</g> &amp; all<ph id="3">&lt;br></ph>!</source>
    <note>keep this note</note>
    <alt-trans><source>other</source><target>autre</target></alt-trans>
  </trans-unit>
  <trans-unit id="2"><source>empty one</source><target state="new" /></trans-unit>
  <trans-unit id="3"><source>done one</source><target state="final">fini</target></trans-unit>
  <trans-unit id="4"><source>signed</source><target state="signed-off"></target></trans-unit>
  <trans-unit id="5" translate="no"><source>fixed</source></trans-unit>
  <group translate="no"><trans-unit id="6"><source>fixed too</source></trans-unit>
   <trans-unit id="7" translate="yes"><source>but this</source></trans-unit></group>
  <trans-unit id="8"><source>a copy</source><target>a copy</target></trans-unit>
  <trans-unit id="9"><source>by a person</source><target>par une personne</target></trans-unit>
  <trans-unit id="10" approved="yes"><source>approved</source><target>approved</target></trans-unit>
  <trans-unit id="11"><source>again</source><target state="needs-translation">vieux</target></trans-unit>
  <trans-unit id="12"><source>12.5</source></trans-unit>
  <trans-unit id="13"><source>One. Two <bpt id="1">b</bpt>x<ept id="1">/b</ept> y.</source>
   <seg-source><mrk mtype="seg" mid="0">One.</mrk> <mrk mtype="seg" mid="1">Two <bpt id="1">b</bpt>x<ept
 id="1">/b</ept> y.</mrk></seg-source></trans-unit>
  <trans-unit id="14"><source>In <mrk mtype="protected">Paris</mrk> today</source></trans-unit>
 </body></file>
</xliff>
"""
SECOND = """<xliff xmlns="urn:oasis:names:tc:xliff:document:2.0" version="2.0" srcLang="en" trgLang="fr">
<file id="f"><unit id="1"><originalData><data id="d">%s</data></originalData>
 <segment><source>Hello <pc id="1">world</pc>, <ph id="2" dataRef="d"/> <sc id="3"/>and<ec startRef="3"/> more</source>
 </segment><ignorable><source> </source></ignorable>
 <segment state="final"><source>done</source><target>fait</target></segment>
 <segment state="initial"><source>start</source><target>x</target></segment>
 </unit><unit id="2" translate="no"><segment><source>fixed</source></segment></unit>
</file></xliff>"""


def upper(fragment: str) -> str:
    return re.sub(r"(<[^>]*>|&\w+;)|([^<&]+)", lambda found: found[1] or found[2].upper(), fragment)


def in_capitals(document: Document) -> bytes:
    return document.render([upper(text.text) if text.format == "xml" else text.text.upper() for text in document.texts])


def units(data: bytes, kind: str) -> dict[str, etree._Element]:
    root = etree.fromstring(data)
    return {unit.get("id", str(at)): unit for at, unit in enumerate(root.iter(f"{{*}}{kind}"))}


def target_of(unit: etree._Element) -> str | None:
    found = unit.find("{*}target")
    return None if found is None else "".join(str(text) for text in found.itertext())


def test_targets_of_the_first_version() -> None:
    document = open_document(FIRST.encode(), "a.xlf")
    assert [text.text for text in document.texts] == [
        "Hello <w1>big <x2/>world</w1> &amp; all<x3/>!",
        "empty one",
        "but this",
        "a copy",
        "again",
        "<w1>One.</w1> <w2>Two <x3/>x<x4/> y.</w2>",
        "In <x1/> today",
    ]
    rendered = in_capitals(document)
    after = units(rendered, "trans-unit")
    expected = {
        "1": "HELLO BIG WORLD & ALL<br>!",
        "2": "EMPTY ONE",
        "3": "fini",
        "4": "",
        "5": None,
        "6": None,
        "7": "BUT THIS",
        "8": "A COPY",
        "9": "par une personne",
        "10": "approved",
        "11": "AGAIN",
        "12": None,
        "13": "ONE. TWO bX/b Y.",
        "14": "IN Paris TODAY",
    }
    assert {number: target_of(unit) for number, unit in after.items()} == expected
    target = after["1"].find("{*}target")
    assert target is not None
    assert [(etree.QName(each).localname, each.get("id")) for each in target.iter()][1:] == [
        ("g", "1"),
        ("x", "2"),
        ("ph", "3"),
    ]
    assert [etree.QName(each).localname for each in after["13"]] == ["source", "seg-source", "target"]
    text = rendered.decode()
    assert '\n    <target>HELLO <g id="1">BIG <x id="2"/>WORLD</g> &amp; ALL<ph id="3">&lt;br></ph>!</target>\n' in text
    assert '<target state="new">EMPTY ONE</target>' in text


@pytest.mark.parametrize(
    ("data", "name"), [(FIRST, "a.xlf"), (SECOND, "a.xliff"), (FIRST.replace("\n", "\r\n"), "a.xlf")]
)
def test_all_but_targets_stays(data: str, name: str) -> None:
    rendered = in_capitals(open_document(data.encode(), name)).decode()

    def others(text: str) -> str:
        return re.sub(r"\s*<target[^>]*?(/>|>.*?</target>)", "", text, flags=re.DOTALL)

    assert others(rendered) == others(data)
    again = open_document(rendered.encode(), name)
    assert in_capitals(again).decode() == rendered


def test_targets_of_the_second_version() -> None:
    document = open_document(SECOND.encode(), "a.xliff")
    assert [text.text for text in document.texts] == ["Hello <w1>world</w1>, <x2/> <x3/>and<x4/> more", "start"]
    rendered = document.render(["<x4/>plus <x2/> et<x3/> <w1>monde</w1>", "début"])
    segments = list(units(rendered, "segment").values())
    assert [target_of(each) for each in segments] == ["plus  et monde", "fait", "début", None]
    target = segments[0].find("{*}target")
    assert target is not None
    # The end of a range comes after its beginning, whatever the translator made of them.
    assert [etree.QName(each).localname for each in target.iter()][1:] == ["sc", "ph", "ec", "pc"]


def test_prefixes_are_those_of_the_file() -> None:
    data = b"""<q:xliff xmlns:q="urn:oasis:names:tc:xliff:document:1.2" version="1.2"><q:trans-unit id="1">\
<q:source>a &lt; <q:g>b</q:g></q:source></q:trans-unit><q:trans-unit id="2"><q:source>c</q:source><q:target/>\
</q:trans-unit></q:xliff>"""
    rendered = in_capitals(open_document(data, "a.xlf"))
    assert b"</q:source><q:target>A &lt; <q:g>B</q:g></q:target>" in rendered
    assert b"<q:target>C</q:target>" in rendered
    etree.fromstring(rendered)


@pytest.mark.parametrize(
    "data",
    [
        "<html/>",
        "<xliff/>",
        '<xliff version="3.0"/>',
        FIRST.replace("</g>", "", 1),
        FIRST.replace("<source>empty one</source>", ""),
        FIRST.replace("<note>", "<target/><target/><note>"),
        FIRST.replace("<!-- made by hand -->", '<!DOCTYPE xliff [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
        FIRST.replace("&amp;", "&nbsp;"),
    ],
)
def test_bad_files_are_refused(data: str) -> None:
    with pytest.raises(InvalidDocumentError):
        open_document(data.encode(), "a.xlf")


def test_lost_codes_are_refused() -> None:
    with pytest.raises(InvalidDocumentError, match="tags"):
        open_document(SECOND.encode(), "a.xlf").render(["lost", "début"])


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data, generator = FIRST.encode(), random.Random(17)
    for length in range(0, len(data) - 2, 41):
        with pytest.raises(InvalidDocumentError):
            open_document(data[:length], "a.xlf")
    opened = 0
    for _ in range(250):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        try:
            document = open_document(bytes(flipped), "a.xlf")
        except InvalidDocumentError:
            continue
        in_capitals(document)
        opened += 1
    assert opened > 0
