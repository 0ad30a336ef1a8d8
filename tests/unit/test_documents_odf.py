"""OpenDocument files made by hand and read by lxml: words change, spans, fields, numbers and other members do not."""

from __future__ import annotations

import io
import random
import re
import zipfile
from collections.abc import Mapping

import pytest
from lxml import etree

from model.documents.document import Document
from model.documents.formats import open_document
from model.errors import InvalidDocumentError

ODF = "urn:oasis:names:tc:opendocument:xmlns:"
SPACES = " ".join(f'xmlns:{name}="{ODF}{name}:1.0"' for name in ("office", "text", "table", "style", "script"))
KINDS = {"odt": "text", "odp": "presentation", "ods": "spreadsheet"}
MANIFEST = f'<manifest:manifest xmlns:manifest="{ODF}manifest:1.0">%s</manifest:manifest>'


def odf(body: str, suffix: str = "odt", extra: Mapping[str, bytes | str] | None = None) -> bytes:
    """Return the smallest file that counts as OpenDocument here."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{KINDS[suffix]}", zipfile.ZIP_STORED)
        parts: dict[str, bytes | str] = {
            "content.xml": f'<?xml version="1.0"?>\n<office:document-content {SPACES} xmlns:officeooo="o">{body}'
            "</office:document-content>",
            "styles.xml": f"<office:document-styles {SPACES}><style:header><text:p>Head</text:p></style:header>"
            "</office:document-styles>",
            "Pictures/a.png": b"\x89PNG",
            "META-INF/manifest.xml": MANIFEST % "",
        }
        for name, data in {**parts, **(extra or {})}.items():
            archive.writestr(name, data)
    return output.getvalue()


BODY = (
    '<text:h text:outline-level="1">A title</text:h>'
    '<text:p>Hello <text:span text:style-name="B">bold</text:span> &amp; <text:a href="x">a link</text:a>'
    "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>A note</text:p></text:note-body>"
    "</text:note> and<text:s/><text:tab/>more<text:line-break/>words</text:p><text:p>12.5</text:p>"
    "<table:table><table:table-cell><text:p>in a cell</text:p></table:table-cell>"
    '<table:table-cell office:value-type="float" office:value="1"><text:p>one</text:p></table:table-cell></table:table>'
    "<text:tracked-changes><text:p>gone</text:p></text:tracked-changes>"
)


def upper(fragment: str) -> str:
    return re.sub(r"(<[^>]*>|&\w+;)|([^<&]+)", lambda found: found[1] or found[2].upper(), fragment)


def in_capitals(document: Document) -> bytes:
    return document.render([upper(text.text) for text in document.texts])


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def content(data: bytes) -> str:
    return members(data)["content.xml"].decode()


@pytest.mark.parametrize("suffix", KINDS)
def test_the_same_words_give_the_same_bytes(suffix: str) -> None:
    data = odf(BODY, suffix)
    document = open_document(data, f"a.{suffix}")
    assert document.render([text.text for text in document.texts]) == data
    assert document.suffix == f".{suffix}"


def test_words_change_and_nothing_else() -> None:
    data = odf(BODY)
    document = open_document(data, "a.odt")
    assert [text.text for text in document.texts] == [
        "A title",
        "A note",
        "Hello <r1>bold</r1> &amp; <w2>a link</w2><x3/> and<x4/>more<x5/>words",
        "in a cell",
        "Head",
    ]
    rendered = in_capitals(document)
    before, after = members(data), members(rendered)
    assert list(before) == list(after)
    assert {name for name in before if before[name] != after[name]} == {"content.xml", "styles.xml"}
    kept = ("one", "gone")
    old, new = (etree.fromstring(each["content.xml"]) for each in (before, after))
    assert [element.tag for element in old.iter()] == [element.tag for element in new.iter()]
    assert [dict(element.attrib) for element in old.iter()] == [dict(element.attrib) for element in new.iter()]
    assert [text if text in kept else str(text).upper() for text in old.itertext()] == list(new.itertext())
    assert list(etree.fromstring(after["styles.xml"]).itertext()) == ["HEAD"]
    with zipfile.ZipFile(io.BytesIO(rendered)) as archive:
        assert archive.infolist()[0].filename == "mimetype"
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED


def test_spans_move_with_their_words() -> None:
    data = odf('<text:p>a red <text:span text:style-name="B">house</text:span></text:p>')
    document = open_document(data, "a.odt")
    rendered = content(document.render(["une <r1>maison</r1> rouge", "Head"]))
    assert '<text:p>une <text:span text:style-name="B">maison</text:span> rouge</text:p>' in rendered


def test_spans_of_editing_sessions_are_no_tags() -> None:
    style = (
        '<style:style style:name="T1" style:family="text"><style:text-properties officeooo:rsid="001"/></style:style>'
    )
    data = odf(f'{style}<text:p>Hel<text:span text:style-name="T1">lo</text:span> you</text:p>')
    assert [text.text for text in open_document(data, "a.odt").texts] == ["Hello you", "Head"]


@pytest.mark.parametrize(
    ("body", "extra", "rule"),
    [
        ("", {"Basic/Standard/Module1.xml": "x"}, "no macros"),
        ("", {"Scripts/python/a.py": "x"}, "no macros"),
        ("<office:scripts><office:script/></office:scripts>", {}, "no macros"),
        ("", {"META-INF/manifest.xml": MANIFEST % "<manifest:encryption-data/>"}, "encrypted"),
        ("", {"../evil": "x"}, "relative member names"),
        ("", {"big": b"\0" * 2**22}, "packed more than"),
        ("", {"content.xml": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'}, "entities"),
    ],
)
def test_unsafe_files_are_refused(body: str, extra: Mapping[str, bytes | str], rule: str) -> None:
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(odf(body, extra=extra), "a.odt")


def test_another_type_is_refused() -> None:
    with pytest.raises(InvalidDocumentError, match="type"):
        open_document(odf(BODY, "ods"), "a.odt")


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data, generator, refused = odf(BODY), random.Random(5), 0
    damaged = [data[:length] for length in range(0, len(data), 17)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    for _ in range(150):
        inner = bytearray(members(data)["content.xml"])
        inner[generator.randrange(len(inner))] ^= 1 << generator.randrange(8)
        damaged.append(odf("", extra={"content.xml": bytes(inner)}))
    for each in damaged:
        try:
            in_capitals(open_document(each, "a.odt"))
        except InvalidDocumentError:
            refused += 1
    assert refused > len(damaged) // 3
