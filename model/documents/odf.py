"""OpenDocument texts, presentations and spreadsheets: paragraphs with their spans and links. It lays nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from model.documents.archive import Archive
from model.documents.document import DocumentLimits, DocumentText, Edit, Opened, Raw, Slot, SlottedText, invalid
from model.documents.encodings import DecodedFile, decode_xml
from model.documents.inline import PLAIN, Atom, Fragment, Run, make_fragment
from model.documents.xml_tokens import Token, XmlFile

_TYPE = "application/vnd.oasis.opendocument."
_PARAGRAPHS = frozenset({"text:p", "text:h"})
_SKIPPED = frozenset({"text:tracked-changes"})
"""Elements whose paragraphs are not part of the visible text."""
_AROUND = frozenset({"text:span", "text:a", "text:meta", "text:ruby", "text:ruby-base"})
"""Elements around words; a span without another element of this kind inside is a run."""
_FLOATING = frozenset({"text:soft-page-break"})
_ORDERED = re.compile(r"text:[\w-]+-(?:start|end)|office:annotation(?:-end)?")
_CELLS = frozenset({"table:table-cell", "table:covered-table-cell"})
_REVISION_STYLE = re.compile(
    r"<style:style\s+style:name=\"([^\"]*)\"\s+style:family=\"text\"\s*>\s*<style:text-properties"
    r"(?:\s+officeooo:[\w-]*rsid=\"[^\"]*\")+\s*/>\s*</style:style>"
)
"""Styles that only say in which session words were typed; they make no difference to a reader."""
_SPACE = re.compile(r"[ \t\r\n]+")


def open_odt(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a text document: body, tables, frames, notes, comments, headers and footers."""
    return _open(data, limits, "text")


def open_odp(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a presentation: slides, notes, master pages."""
    return _open(data, limits, "presentation")


def open_ods(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a spreadsheet: strings in cells, comments; numbers, dates, formulas and sheet names stay."""
    return _open(data, limits, "spreadsheet")


def _open(data: bytes, limits: DocumentLimits, kind: str) -> Opened:
    archive = Archive(data, limits)
    if archive.read("mimetype").strip() != (_TYPE + kind).encode():
        raise invalid(f"must have the type {_TYPE}{kind}", archive.read("mimetype")[:80])
    _check_manifest(archive, limits)
    archive.read("content.xml")
    parts: list[tuple[str, DecodedFile, SlottedText]] = []
    for name in ("content.xml", "styles.xml"):
        if name in archive.members:
            file = decode_xml(archive.members[name])
            parts.append((name, file, SlottedText(file.text, _slots(XmlFile(file.text, limits)))))

    def write(translations: Sequence[str]) -> bytes:
        changed, position = {}, 0
        for name, file, slotted in parts:
            count = len(slotted.texts)
            rendered = slotted.render(translations[position : position + count])
            changed[name] = file.encode(rendered, references=True)
            position += count
        return archive.replace(changed)

    return [text for _, _, slotted in parts for text in slotted.texts], write


def _check_manifest(archive: Archive, limits: DocumentLimits) -> None:
    """Refuse a document whose manifest says that members are encrypted."""
    xml = XmlFile(decode_xml(archive.read("META-INF/manifest.xml")).text, limits, document_type=True)
    if any(token.name == "manifest:encryption-data" for token in xml.tokens):
        raise invalid("must not be encrypted", "META-INF/manifest.xml")


def _slots(xml: XmlFile) -> list[Slot]:
    """Return a slot for every paragraph with words."""
    unseen = frozenset(_REVISION_STYLE.findall(xml.text))
    slots: list[Slot] = []
    parents: list[Token] = []
    index = 0
    while index < len(xml.tokens):
        token = xml.tokens[index]
        if token.name == "office:script":
            raise invalid("must have no macros or scripts", xml.raw(token)[:80])
        if token.kind == "close":
            parents.pop()
        elif token.kind == "open" and token.name in _SKIPPED:
            index = token.partner
        elif token.kind == "open":
            if token.name in _PARAGRAPHS and not (parents and _is_computed(xml, parents[-1])):
                fragment = make_fragment(list(_atoms(xml, index, None, unseen)))
                if fragment is not None:
                    slots.append(_slot(token.end, xml.tokens[token.partner].start, fragment))
            parents.append(token)
        index += 1
    return slots


def _is_computed(xml: XmlFile, parent: Token) -> bool:
    """Tell whether a paragraph only shows what its cell holds elsewhere: a number, a date, a formula's result."""
    if parent.name not in _CELLS:
        return False
    attributes = xml.attributes(parent)
    is_string = attributes.get("value-type", "string") == "string"
    return not is_string or "formula" in attributes or "string-value" in attributes


def _slot(start: int, end: int, fragment: Fragment) -> Slot:
    """Return the slot for the inside of a paragraph."""

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:
        return [(start, end, fragment.write(translations[0], raw))]

    return Slot(end, (DocumentText(fragment.text, "xml"),), write)


def _atoms(xml: XmlFile, index: int, run: Run | None, unseen: frozenset[str]) -> Iterator[Atom]:
    """Yield the pieces inside a paragraph or an element around words."""
    for child in xml.children(index):
        token = xml.tokens[child]
        if token.kind in ("text", "cdata"):
            if text := _SPACE.sub(" ", xml.content(token)):
                yield Atom("text", run or PLAIN, text)
        elif token.kind == "open" and token.name == "text:span" and run is None and _is_leaf(xml, child):
            opening = xml.raw(token)
            key = "" if xml.attributes(token).get("style-name") in unseen else "r" + opening
            yield from _atoms(xml, child, Run(opening, xml.raw(xml.tokens[token.partner]), key), unseen)
        elif token.kind == "open" and token.name in _AROUND:
            closing = xml.tokens[token.partner]
            yield Atom("open", spans=((token.start, token.end),), name=token.name)
            yield from _atoms(xml, child, None, unseen)
            yield Atom("close", spans=((closing.start, closing.end),), name=token.name)
        else:
            span = (token.start, xml.tokens[xml.close(child)].end)
            ordered = _ORDERED.fullmatch(token.name) is not None
            yield Atom("opaque", run, "", (span,), ordered, token.name in _FLOATING, token.name)


def _is_leaf(xml: XmlFile, index: int) -> bool:
    """Tell whether an element has no elements around words directly inside."""
    return not any(
        xml.tokens[child].kind == "open" and xml.tokens[child].name in _AROUND for child in xml.children(index)
    )
