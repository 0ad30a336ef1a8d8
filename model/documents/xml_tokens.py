"""An XML file as tokens with their places, so that all but some texts can stay as it is. It resolves no entities.

The file is checked by expat first; a document type with declarations of its own is refused, so there are neither
external entities nor ones that grow. After that check, simple patterns are enough to find every token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from xml.parsers import expat

from model.documents.document import DocumentLimits, invalid

_OOXML = "http://schemas.openxmlformats.org/"
_STRICT = "http://purl.oclc.org/ooxml/"
_ODF = "urn:oasis:names:tc:opendocument:xmlns:"
_PREFIXES = {
    _OOXML + "wordprocessingml/2006/main": "w",
    _STRICT + "wordprocessingml/main": "w",
    _OOXML + "drawingml/2006/main": "a",
    _STRICT + "drawingml/main": "a",
    _OOXML + "spreadsheetml/2006/main": "s",
    _STRICT + "spreadsheetml/main": "s",
    _OOXML + "package/2006/content-types": "ct",
    _ODF + "text:1.0": "text",
    _ODF + "office:1.0": "office",
    _ODF + "table:1.0": "table",
    _ODF + "script:1.0": "script",
    _ODF + "manifest:1.0": "manifest",
    "urn:oasis:names:tc:xliff:document:1.1": "xliff1",
    "urn:oasis:names:tc:xliff:document:1.2": "xliff1",
    "urn:oasis:names:tc:xliff:document:2.0": "xliff2",
    "urn:oasis:names:tc:xliff:document:2.1": "xliff2",
    "urn:oasis:names:tc:xliff:document:2.2": "xliff2",
    "urn:oasis:names:tc:opendocument:xmlns:container": "container",
    "http://www.idpf.org/2007/opf": "opf",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://www.daisy.org/z3986/2005/ncx/": "ncx",
}
"""Our names of the namespaces that matter; what prefix a file uses for them is its own business."""
_TOKEN = re.compile(
    r"<!--(?P<comment>.*?)-->|<!\[CDATA\[(?P<cdata>.*?)\]\]>|<\?.*?\?>|<!(?:\"[^\"]*+\"|'[^']*+'|[^>\"'])*+>"
    r"|</(?P<close>[^\s>]++)\s*>|<(?P<open>[^\s/>]++)(?P<attributes>(?:[^>\"'/]|\"[^\"]*+\"|'[^']*+'|/(?!>))*+)(?P<empty>/?)>"
    r"|(?P<text>[^<]++)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(r"([^\s=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_REFERENCE = re.compile(r"&(?:\#(?:x([0-9a-fA-F]{1,6})|(\d{1,7}))|(\w+));")
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class Token:
    """A tag, a text or something else of an XML file; ``partner`` is the index of the tag that closes or opens it."""

    kind: Literal["open", "close", "empty", "text", "cdata", "other"]
    start: int
    end: int
    name: str = ""
    """``prefix:local`` with our prefix, ``{uri}local`` in an unknown namespace, ``local`` in none."""
    partner: int = -1


class XmlFile:
    """A well-formed XML file: its text and its tokens."""

    def __init__(self, text: str, limits: DocumentLimits, *, document_type: bool = False) -> None:
        """Check and cut ``text``.

        Raises:
            InvalidDocumentError: not well-formed, too deep or too large, or with a document type that is not allowed.
        """
        check_well_formed(text, limits, document_type=document_type)
        self.text = text
        self.tokens = list(_tokens(text, limits))

    def raw(self, first: Token, last: Token | None = None) -> str:
        """Return the source of a token, or of all from ``first`` to ``last``."""
        return self.text[first.start : (last or first).end]

    def attributes(self, token: Token) -> dict[str, str]:
        """Return the attributes of a tag under their names as written, without prefixes."""
        return {name.rpartition(":")[2]: value for name, value in _attributes(self.raw(token)).items()}

    def close(self, index: int) -> int:
        """Return the index of the last token of the element, comment or text at ``index``."""
        token = self.tokens[index]
        return token.partner if token.kind == "open" else index

    def content(self, token: Token) -> str:
        """Return the characters that a text or CDATA token stands for."""
        raw = self.raw(token)
        return raw[9:-3] if token.kind == "cdata" else unescape(raw)

    def text_of(self, index: int) -> str:
        """Return all characters inside the element at ``index``."""
        inner = self.tokens[index : self.close(index) + 1]
        return "".join(self.content(token) for token in inner if token.kind in ("text", "cdata"))

    def children(self, index: int) -> Iterator[int]:
        """Yield the indices of what is directly inside the element at ``index``."""
        last = self.close(index)
        index += 1
        while index < last:
            yield index
            index = self.close(index) + 1


def check_well_formed(text: str, limits: DocumentLimits, *, document_type: bool) -> None:
    """Let expat read ``text`` without any entity but XML's own five.

    Raises:
        InvalidDocumentError: see :class:`XmlFile`.
    """
    parser = expat.ParserCreate()
    depth = elements = 0

    def start_document_type(_name: str, _system: str | None, _public: str | None, has_declarations: bool) -> None:
        if has_declarations or not document_type:
            raise invalid("must have no document type declarations, which could define entities", "<!DOCTYPE")

    def start_element(_name: str, _attributes: Mapping[str, str]) -> None:
        nonlocal depth, elements
        depth += 1
        elements += 1
        if depth > limits.max_depth:
            raise invalid(f"must have at most {limits.max_depth} XML elements inside one another", depth)
        if elements > limits.max_elements:
            raise invalid(f"must have at most {limits.max_elements} XML elements in one file", elements)

    def end_element(_name: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler = start_document_type
    parser.StartElementHandler = start_element
    parser.EndElementHandler = end_element
    try:
        parser.Parse(text.encode("utf-8") if text[:1] != "\ufeff" else text[1:].encode("utf-8"), True)
    except expat.ExpatError as error:
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_UNKNOWN_ENCODING]:
            raise invalid("must be in a known encoding", text[:60]) from None
        raise invalid(f"must be well-formed XML ({error})", text[:40]) from None
    except UnicodeError:
        raise invalid("must be text without lone surrogates", text[:40]) from None


def _tokens(text: str, limits: DocumentLimits) -> Iterator[Token]:
    """Cut a well-formed file; every character is in exactly one token."""
    opened: list[tuple[int, Token]] = []
    scopes: list[Mapping[str, str]] = [{"xml": "xml"}]
    for index, found in enumerate(_TOKEN.finditer(text)):
        if index > 4 * limits.max_elements:
            raise invalid(f"must have at most {4 * limits.max_elements} XML tokens in one file", index)
        start, end = found.span()
        if found["text"] is not None:
            yield Token("text", start, end)
        elif found["cdata"] is not None:
            yield Token("cdata", start, end)
        elif found["close"] is not None:
            partner, opening = opened.pop()
            scopes.pop()
            opening.partner = index
            yield Token("close", start, end, opening.name, partner)
        elif found["open"] is not None:
            scope = _scope(scopes[-1], found["attributes"])
            name = _name(scope, found["open"])
            if found["empty"]:
                yield Token("empty", start, end, name, index)
            else:
                token = Token("open", start, end, name)
                opened.append((index, token))
                scopes.append(scope)
                yield token
        else:
            yield Token("other", start, end)


def _scope(outer: Mapping[str, str], attributes: str) -> Mapping[str, str]:
    """Return the prefixes that are valid inside a tag."""
    if "xmlns" not in attributes:
        return outer
    scope = dict(outer)
    for name, value in _attributes(attributes).items():
        if name == "xmlns" or name.startswith("xmlns:"):
            scope[name[6:]] = _PREFIXES.get(value, f"{{{value}}}" if value else "")
    return scope


def _name(scope: Mapping[str, str], written: str) -> str:
    """Return our name of a tag."""
    prefix, _, local = written.rpartition(":")
    known = scope.get(prefix, prefix and f"{{{prefix}}}")
    if not known:
        return local
    return f"{known}{local}" if known.endswith("}") else f"{known}:{local}"


def _attributes(tag: str) -> dict[str, str]:
    """Return the attributes in a tag's source, names as written."""
    return {name: unescape(double or single) for name, double, single in _ATTRIBUTE.findall(tag)}


def unescape(text: str) -> str:
    """Return ``text`` with XML's own entities and character references resolved.

    Raises:
        InvalidDocumentError: another entity, which only a document type could explain.
    """

    def character(found: re.Match[str]) -> str:
        if found[3] is None:
            number = int(found[1], 16) if found[1] else int(found[2])
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise invalid("must have valid XML character references", found[0])
            return chr(number)
        if found[3] not in _ENTITIES:
            raise invalid("must have no entities but those of XML itself", found[0])
        return _ENTITIES[found[3]]

    return _REFERENCE.sub(character, text) if "&" in text else text


def escape(text: str) -> str:
    """Return ``text`` for use between XML tags.

    Raises:
        InvalidDocumentError: it has control characters, which XML cannot hold.
    """
    if found := _NOT_XML.search(text):
        raise invalid("must get translations without characters that XML does not allow", found[0])
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
