"""EPUB books made by hand and read by lxml: pages in reading order, titles, contents; every other member stays."""

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

XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'
PARTS: dict[str, bytes | str] = {
    "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
    "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A book</dc:title><dc:creator>Ann</dc:creator></metadata>'
    '<manifest><item id="b" href="b%20b.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="n" href="toc.ncx" media-type="application/x-dtbncx+xml"/></manifest>'
    '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
    "OEBPS/b b.xhtml": f"<html {XHTML}><body><p>second page</p></body></html>",
    "OEBPS/a.xhtml": f'<?xml version="1.0"?><!DOCTYPE html><html {XHTML}><body><p>first<br/> page</p></body></html>',
    "OEBPS/toc.ncx": '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navLabel><text>One &amp; two</text></navLabel>'
    "</ncx>",
    "OEBPS/a.css": "p { color: red }",
}


def epub(extra: Mapping[str, bytes | str] | None = None) -> bytes:
    """Return a small book."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        for name, data in {**PARTS, **(extra or {})}.items():
            archive.writestr(name, data)
    return output.getvalue()


def in_capitals(document: Document) -> bytes:
    def upper(text: str) -> str:
        return re.sub(r"(<[^>]*>|&\w+;)|([^<&]+)", lambda found: found[1] or found[2].upper(), text)

    return document.render(
        [upper(text.text) if text.format == "html" else text.text.upper() for text in document.texts]
    )


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_texts_are_in_reading_order_and_come_back_as_they_were() -> None:
    data = epub()
    document = open_document(data, "a.epub")
    assert [(text.text, text.format) for text in document.texts] == [
        ("A book", "text"),
        (PARTS["OEBPS/a.xhtml"], "html"),
        (PARTS["OEBPS/b b.xhtml"], "html"),
        ("One & two", "text"),
    ]
    assert document.render([text.text for text in document.texts]) == data


def test_words_change_and_nothing_else() -> None:
    data = epub()
    rendered = in_capitals(open_document(data, "a.epub"))
    before, after = members(data), members(rendered)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"OEBPS/book.opf", "OEBPS/a.xhtml", "OEBPS/b b.xhtml", "OEBPS/toc.ncx"}
    for name in changed:
        old, new = etree.fromstring(before[name]), etree.fromstring(after[name])
        assert [element.tag for element in old.iter()] == [element.tag for element in new.iter()]
        assert [text if text == "Ann" else str(text).upper() for text in old.itertext()] == list(new.itertext())
    with zipfile.ZipFile(io.BytesIO(rendered)) as archive:
        assert archive.infolist()[0].filename == "mimetype"
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize(
    ("extra", "rule"),
    [
        ({"META-INF/encryption.xml": "<e/>"}, "encrypted"),
        ({"../evil": "x"}, "relative member names"),
        ({"big": b"\0" * 2**22}, "packed more than"),
        ({"OEBPS/a.xhtml": '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'}, "entities"),
        ({"OEBPS/a.xhtml": "<p>open"}, "well-formed"),
        ({"META-INF/container.xml": "<container/>"}, "package file"),
        ({"OEBPS/book.opf": str(PARTS["OEBPS/book.opf"]).replace("a.xhtml", "lost.xhtml")}, "every page"),
    ],
)
def test_unsafe_and_broken_books_are_refused(extra: Mapping[str, bytes | str], rule: str) -> None:
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(epub(extra), "a.epub")


def test_a_page_must_stay_well_formed() -> None:
    document = open_document(epub(), "a.epub")
    texts = [text.text for text in document.texts]
    with pytest.raises(InvalidDocumentError, match="well-formed"):
        document.render([texts[0], texts[1].replace("<br/>", "<br>"), *texts[2:]])


def test_damaged_books_are_refused_and_nothing_else_happens() -> None:
    data, generator, refused = epub(), random.Random(5), 0
    damaged = [data[:length] for length in range(0, len(data), 17)]
    for _ in range(300):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    for _ in range(200):
        name = generator.choice(list(PARTS)[:5])
        inner = bytearray(members(data)[name])
        inner[generator.randrange(len(inner))] ^= 1 << generator.randrange(8)
        damaged.append(epub({name: bytes(inner)}))
    for each in damaged:
        try:
            in_capitals(open_document(each, "a.epub"))
        except InvalidDocumentError:
            refused += 1
    assert refused > len(damaged) // 3
