"""Bytes to characters and back without loss, in a file's own encoding; guessed only where nothing is declared."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from model.documents.document import invalid

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_KNOWN = re.compile(
    r"utf-?8|utf-?16|us-ascii|ascii|latin-?1|iso[-_]?8859[-_]\d{1,2}|(windows|cp|x-cp)-?(125\d|437|850|852|866|874|932)"
    r"|koi8-[ru]|macintosh|mac-?roman|gb2312|gbk|gb18030|big5|shift[-_]jis|sjis|euc-(jp|kr)|tis-620",
    re.IGNORECASE,
)
"""Encodings of text that files declare; others, such as UTF-7, should not be run on a stranger's bytes."""
_PYTHON_NAMES = {"macintosh": "mac-roman", "x-cp1251": "cp1251", "x-cp1252": "cp1252"}
_XML_DECLARATION = re.compile(rb"""<\?xml\s[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_META_CHARSET = re.compile(rb"""<meta\s[^>]{0,400}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_META_WINDOW = 4096
"""Bytes in which a page must declare its encoding; the HTML standard asks for the first 1024."""


@dataclass(frozen=True)
class DecodedFile:
    """A file's characters, and what is needed to write them as they were."""

    text: str
    encoding: str
    mark: bytes = b""
    """The byte order mark."""

    def encode(self, text: str, references: bool = False) -> bytes:
        """Return ``text`` in the file's encoding.

        ``references``: characters that the encoding does not have become character references (HTML and XML only).

        Raises:
            InvalidDocumentError: there are such characters, and references are not allowed.
        """
        try:
            return self.mark + text.encode(self.encoding, "xmlcharrefreplace" if references else "strict")
        except UnicodeEncodeError as error:
            rule = f"is in {self.encoding}, which lacks a character of the translation: save it as UTF-8"
            raise invalid(rule, error.object[error.start : error.start + 1]) from None


def decode(data: bytes, declared: str | None = None, default: str | None = None) -> DecodedFile:
    """Decode a file: by its mark, else ``declared``, else UTF-8, else ``default`` or a guess (Windows-1252, Latin-1).

    Raises:
        InvalidDocumentError: the declared encoding is unknown, the bytes are not in it, or they look binary.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding, mark)
    if declared is not None:
        return _strictly(data, _python_name(declared))
    for encoding in ("utf-8", *([default] if default else ["cp1252", "iso-8859-1"])):
        try:
            decoded = _strictly(data, encoding)
        except ValueError:
            continue
        if "\0" in decoded.text:
            raise invalid("must be a text file", "bytes of value zero")
        return decoded
    raise invalid("must be in its declared encoding or in UTF-8", data[:40])


def decode_html(data: bytes) -> DecodedFile:
    """Decode a page by its mark, its XML declaration or its ``<meta charset>``, and else like plain text."""
    declared = xml_encoding(data)
    if declared is None and (found := _META_CHARSET.search(data[:_META_WINDOW])):
        declared = found[1].decode("ascii")
    if declared is not None:
        name = declared.lower()
        if name.startswith("utf-16"):
            declared = "utf-8"  # a page whose declaration can be read byte by byte is not in UTF-16
        elif name in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"):
            declared = "cp1252"  # what browsers take these names for
    try:
        return decode(data, declared)
    except ValueError:
        if declared != "cp1252":
            raise
        return decode(data, "iso-8859-1")  # has the five bytes that Windows-1252 leaves open


def decode_xml(data: bytes) -> DecodedFile:
    """Decode an XML file by its mark or declaration; without one it is UTF-8."""
    return decode(data, xml_encoding(data) or "utf-8")


def xml_encoding(data: bytes) -> str | None:
    """Return the encoding that an XML declaration at the start of the file names."""
    found = _XML_DECLARATION.match(data.lstrip(b" \t\r\n")[:400])
    return found[1].decode("ascii") if found else None


def _python_name(declared: str) -> str:
    """Return Python's name of a declared encoding that may be used."""
    if not _KNOWN.fullmatch(declared):
        raise invalid("must be in a known encoding", declared)
    name = _PYTHON_NAMES.get(declared.lower(), declared.lower().replace("windows", "cp").replace("cp-", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise invalid("must be in a known encoding", declared) from None


def _strictly(data: bytes, encoding: str, mark: bytes = b"") -> DecodedFile:
    """Decode all bytes, and make sure that the characters become the same bytes again."""
    body = data[len(mark) :]
    try:
        text = body.decode(encoding)
        same = text.encode(encoding) == body
    except UnicodeError:
        same = False
    if not same:
        raise invalid(f"must be valid {encoding}", data[:40])
    return DecodedFile(text, encoding, mark)
