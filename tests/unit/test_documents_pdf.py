"""PDF files written by hand: lines become paragraphs, damaged and encrypted ones are refused."""

from __future__ import annotations

import io
import random
import zlib

import pytest
from pypdf import PdfReader, PdfWriter

from model.documents.document import DocumentLimits
from model.documents.formats import open_document
from model.documents.pdf import make_paragraphs
from model.errors import InvalidDocumentError


def pdf(*pages: list[str], packed: bool = False) -> bytes:
    """Return a PDF file with lines of text on its pages."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = " ".join(f"({line}) Tj T*" for line in lines)
        stream = f"BT /F1 12 Tf 72 720 Td 14 TL {shown} ET".encode()
        stream = zlib.compress(stream) if packed else stream
        kind = b"/Filter /FlateDecode " if packed else b""
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (kind, len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            b"/Contents %d 0 R >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    data, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        table,
        len(objects) + 1,
        len(data),
    )


PAGES = (
    ["This is the first para-", "graph of the text, long.", "It ends here.", "A second one begins and"],
    ["goes on here.", "12"],
)


@pytest.mark.parametrize("packed", [False, True])
def test_lines_become_paragraphs(packed: bool) -> None:
    document = open_document(pdf(*PAGES, packed=packed), "a.pdf")
    assert [text.text for text in document.texts] == [
        "This is the first paragraph of the text, long. It ends here.",
        "A second one begins and goes on here. 12",
    ]
    rendered = document.render([text.text.upper() for text in document.texts])
    assert rendered.decode() == "\n\n".join(text.text.upper() for text in document.texts) + "\n"
    assert (document.suffix, document.media_type) == (".txt", "text/plain")


def test_paragraphs_end_at_blank_lines_and_before_items() -> None:
    page = "One line\n\nanother line\n- an item\n2. a second item\nwhich goes on\nhalf-\nPast ten"
    assert make_paragraphs([page]) == [
        "One line",
        "another line",
        "- an item",
        "2. a second item which goes on half- Past ten",
    ]


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (DocumentLimits(max_pages=1), "pages"),
        (DocumentLimits(max_unpacked_bytes=100), "unpacked"),
        (DocumentLimits(max_characters=20), "characters"),
        (DocumentLimits(max_elements=5), "operations"),
    ],
)
def test_limits_are_kept(limits: DocumentLimits, rule: str) -> None:
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(pdf(*PAGES, packed=True), "a.pdf", limits)


def test_encrypted_and_empty_files_are_refused() -> None:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(*PAGES))))
    writer.encrypt("secret", algorithm="RC4-128")
    output = io.BytesIO()
    writer.write(output)
    with pytest.raises(InvalidDocumentError, match="encrypted"):
        open_document(output.getvalue(), "a.pdf")
    for data in (pdf([]), b"", b"%PDF-1.4", b"no pdf"):
        with pytest.raises(InvalidDocumentError):
            open_document(data, "a.pdf")


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data, generator, refused = pdf(*PAGES), random.Random(5), 0
    damaged = [data[:length] for length in range(0, len(data), 41)]
    for _ in range(200):
        flipped = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    for each in damaged:
        try:
            document = open_document(each, "a.pdf")
        except InvalidDocumentError:
            refused += 1
        else:
            document.render([text.text for text in document.texts])
    assert 0 < refused < len(damaged)


def test_a_stream_that_unpacks_to_too_much_is_refused() -> None:
    packed = zlib.compress(b" " * 80_000_000, 9)
    data = pdf(["x"], packed=True)
    start = data.index(b"<< /Filter")
    end = data.index(b"endstream", start)
    data = data[:start] + b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\n" % (len(packed), packed) + data[end:]
    with pytest.raises(InvalidDocumentError, match=r"undamaged|unpacked"):
        open_document(data, "a.pdf", DocumentLimits(max_unpacked_bytes=50_000_000))
