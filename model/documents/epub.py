"""EPUB books: pages in reading order, titles and tables of contents. Pictures, styles and all other members stay."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from model.documents.archive import Archive
from model.documents.document import (
    DocumentLimits,
    DocumentText,
    Edit,
    Opened,
    Raw,
    Slot,
    SlottedText,
    invalid,
    is_translatable,
)
from model.documents.encodings import DecodedFile, decode_xml
from model.documents.xml_tokens import XmlFile, check_well_formed, escape

_TYPE = b"application/epub+zip"
_PAGE = "application/xhtml+xml"
_NCX = "application/x-dtbncx+xml"
_METADATA = frozenset({"dc:title", "dc:description"})
_LABELS = frozenset({"ncx:text"})


@dataclass(frozen=True)
class _Part:
    """A member with texts: a whole page, or some elements of an XML file."""

    name: str
    file: DecodedFile
    slotted: SlottedText | None
    """None for a page."""

    @property
    def texts(self) -> list[DocumentText]:
        if self.slotted is not None:
            return self.slotted.texts
        return [DocumentText(self.file.text, "html")]

    def write(self, translations: Sequence[str], limits: DocumentLimits) -> bytes:
        if self.slotted is not None:
            return self.file.encode(self.slotted.render(translations), references=True)
        if translations[0] != self.file.text:
            check_well_formed(translations[0], limits, document_type=True)
        return self.file.encode(translations[0], references=True)


def open_epub(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a book: title and description, the pages of the spine, other pages (the contents), the NCX contents.

    Raises:
        InvalidDocumentError: not EPUB, damaged, encrypted (DRM), or pages that are not well-formed XML.
    """
    archive = Archive(data, limits, macros=True)  # a folder of scripts is nothing special in a book
    if archive.read("mimetype").strip() != _TYPE:
        raise invalid(f"must have the type {_TYPE.decode()}", archive.read("mimetype")[:80])
    if "META-INF/encryption.xml" in archive.members or "META-INF/rights.xml" in archive.members:
        raise invalid("must not be encrypted or protected", "META-INF")
    package = _package(archive, limits)
    file = decode_xml(archive.read(package))
    xml = XmlFile(file.text, limits, document_type=True)
    pages, contents = _members(xml, posixpath.dirname(package), archive)
    parts = [_Part(package, file, SlottedText(file.text, _slots(xml, _METADATA)))]
    for name in pages:
        page = decode_xml(archive.read(name))
        check_well_formed(page.text, limits, document_type=True)
        if is_translatable(page.text):
            parts.append(_Part(name, page, None))
    for name in contents:
        file = decode_xml(archive.read(name))
        xml = XmlFile(file.text, limits, document_type=True)
        parts.append(_Part(name, file, SlottedText(file.text, _slots(xml, _LABELS))))

    def write(translations: Sequence[str]) -> bytes:
        changed, position = {}, 0
        for part in parts:
            count = len(part.texts)
            changed[part.name] = part.write(translations[position : position + count], limits)
            position += count
        return archive.replace(changed)

    return [text for part in parts for text in part.texts], write


def _package(archive: Archive, limits: DocumentLimits) -> str:
    """Return the name of the package file."""
    xml = XmlFile(decode_xml(archive.read("META-INF/container.xml")).text, limits, document_type=True)
    for token in xml.tokens:
        if token.name == "container:rootfile" and token.kind != "close" and "full-path" in xml.attributes(token):
            return xml.attributes(token)["full-path"]
    raise invalid("must name its package file", "META-INF/container.xml")


def _members(xml: XmlFile, folder: str, archive: Archive) -> tuple[list[str], list[str]]:
    """Return the names of pages, those of the spine first and in its order, and of NCX files."""
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    spine: list[str] = []
    for token in xml.tokens:
        if token.kind == "close":
            continue
        attributes = xml.attributes(token)
        if token.name == "opf:item" and "id" in attributes and "href" in attributes:
            path = posixpath.normpath(posixpath.join(folder, unquote(attributes["href"].partition("#")[0])))
            names[attributes["id"]], kinds[attributes["id"]] = path, attributes.get("media-type", "")
        elif token.name == "opf:itemref":
            spine.append(attributes.get("idref", ""))
    for item in spine:
        if item not in names or names[item] not in archive.members:
            raise invalid("must have every page of its reading order", names.get(item, item))
    ordered = [*spine, *(item for item in names if item not in spine)]
    found = [item for item in ordered if names[item] in archive.members]
    pages, contents = (
        list(dict.fromkeys(names[item] for item in found if kinds[item] == kind)) for kind in (_PAGE, _NCX)
    )
    return pages, contents


def _slots(xml: XmlFile, elements: frozenset[str]) -> Iterator[Slot]:
    """Yield a slot for each of the ``elements`` that has only text inside."""
    for index, token in enumerate(xml.tokens):
        if token.kind != "open" or token.name not in elements:
            continue
        if any(xml.tokens[child].kind not in ("text", "cdata") for child in xml.children(index)):
            continue
        text = xml.text_of(index)
        if is_translatable(text):
            yield _slot(token.end, xml.tokens[token.partner].start, text)


def _slot(start: int, end: int, text: str) -> Slot:
    """Return the slot for the text of an element."""

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:  # noqa: ARG001 - one signature for all slots
        return [(start, end, escape(translations[0]))]

    return Slot(end, (DocumentText(text),), write)
