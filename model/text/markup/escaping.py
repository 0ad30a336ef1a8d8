"""How text is written in HTML and XML: entities to characters, characters to entities; Markdown's rules are its own."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.entities import html5

from model.text.markup.units import UnitRecord

_HTML_REFERENCE = re.compile(r"&(?:#[0-9]{1,7};?|#[xX][0-9a-fA-F]{1,6};?|[A-Za-z][A-Za-z0-9]{1,31};?)")
_XML_REFERENCE = re.compile(r"&(?:#[0-9]+|#x[0-9a-fA-F]+|[^\s&;<>]+);")
_XML_NAMES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_XML_INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONGEST_LEGACY_NAME = 6
"""Letters of the longest entity that HTML reads without its semicolon."""


def html_references(text: str, start: int, end: int, *, attribute: bool = False) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, decoded) of the character references of HTML in ``text[start:end]``.

    As a browser reads them: with the old names, a semicolon may be missing, but in an attribute only where neither a
    letter, a digit nor ``=`` follows (HTML standard, section 13.2.5.73). What decodes to nothing is not a reference.
    """
    cursor = start
    while (match := _HTML_REFERENCE.search(text, cursor, end)) is not None:
        cursor = match.end()
        raw = match[0]
        if raw[1] == "#":
            decoded = html.unescape(raw)
        else:
            name = raw[1:]
            if name not in html5:
                lengths = range(min(len(name), _LONGEST_LEGACY_NAME), 1, -1)
                name = next((name[:length] for length in lengths if name[:length] in html5), "")
                cursor = match.start() + 1 + len(name)
            decoded = html5.get(name, "")
            follows = text[cursor : cursor + 1]
            if attribute and not name.endswith(";") and (follows.isalnum() or follows == "="):
                continue
        if decoded and decoded != raw:
            yield match.start(), cursor, decoded


def xml_references(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, decoded) of the references in ``text[start:end]``; an unknown entity decodes to nothing."""
    for match in _XML_REFERENCE.finditer(text, start, end):
        name = match[0][1:-1]
        if name.startswith("#"):
            yield match.start(), match.end(), _character(name)
        else:
            yield match.start(), match.end(), _XML_NAMES.get(name, "")


def _character(name: str) -> str:
    """Return the character of ``#65`` or ``#x41``; none where XML allows none."""
    digits = name[2:] if name[1] == "x" else name[1:]
    code = int(digits[-8:], 16 if name[1] == "x" else 10)
    if len(digits.lstrip("0")) > 8 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
        return ""
    return "" if _XML_INVALID.match(chr(code)) else chr(code)


def escape_html(text: str, before: str, after: str, record: UnitRecord) -> str:
    """Write text in HTML; characters that the unit's source writes as entities keep their names."""
    del before, after
    bare = "&" in record.bare and "&" not in record.spellings
    text = re.sub(r"&(?=[A-Za-z#])" if bare and record.attribute is None else "&", "&amp;", text)
    text = text.replace("<", "&lt;")
    if ">" not in record.bare:
        text = text.replace(">", "&gt;")
    if record.quote == "'":
        text = text.replace("'", "&#39;")
    elif record.attribute is not None:
        text = text.replace('"', "&quot;")
    return _spell(text, record)


def escape_xml(text: str, before: str, after: str, record: UnitRecord) -> str:
    """Write text in XML; what XML has no place for becomes U+FFFD."""
    del before, after
    text = _XML_INVALID.sub("\ufffd", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _spell(text, record)


def escape_cdata(text: str) -> str:
    """Write text in a CDATA section."""
    return _XML_INVALID.sub("\ufffd", text).replace("]]>", "]]]]><![CDATA[>")


def _spell(text: str, record: UnitRecord) -> str:
    for character, raw in record.spellings.items():
        if character not in "&<>" and character not in record.bare and len(character) == 1 and character in text:
            text = text.replace(character, raw) if not character.isascii() else text
    return text
