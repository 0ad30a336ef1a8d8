"""XLIFF 1.2 and 2.x: sources into targets with their inline elements; finished targets and everything else stay."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from model.documents.document import DocumentLimits, DocumentText, Edit, Opened, Raw, Slot, SlottedText, invalid
from model.documents.encodings import decode_xml
from model.documents.inline import PLAIN, Atom, Fragment, make_fragment
from model.documents.xml_tokens import XmlFile, escape, unescape

_UNFINISHED = frozenset({"new", "needs-translation", "needs-adaptation", "needs-l10n", "initial"})
"""States of a target that may be replaced."""
_FINISHED = frozenset({"final", "signed-off", "translated", "reviewed"})
_AROUND = frozenset({"g", "pc", "mrk"})
"""Inline elements with text inside; the content of the others is code."""
_ORDERED = frozenset({"bx", "ex", "bpt", "ept", "sc", "ec", "sm", "em"})
_UNITS = {"1": "trans-unit", "2": "segment"}


def open_xliff(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a file of translation units.

    A target is written where there is none, where it is empty or a copy of the source, or where its state says that
    it waits for translation. What ``translate="no"``, ``approved="yes"`` or a finished state protects has no text here.

    Raises:
        InvalidDocumentError: not XLIFF 1.x or 2.x, not well-formed, or with declarations of entities.
    """
    file = decode_xml(data)
    xml = XmlFile(file.text, limits, document_type=True)
    root = next(index for index, token in enumerate(xml.tokens) if token.kind in ("open", "empty"))
    version = xml.attributes(xml.tokens[root]).get("version", "")[:1]
    if _local(xml, root) != "xliff" or version not in _UNITS:
        raise invalid("must have the root element xliff of version 1.x or 2.x", xml.raw(xml.tokens[root])[:80])
    slotted = SlottedText(file.text, _slots(xml, root, _UNITS[version]))
    return slotted.texts, lambda new: file.encode(slotted.render(new), references=True)


def _local(xml: XmlFile, index: int) -> str:
    """Return the name of an XLIFF element, or nothing for elements of other namespaces."""
    prefix, _, name = xml.tokens[index].name.rpartition(":")
    return name if prefix in ("", "xliff1", "xliff2") else ""


def _slots(xml: XmlFile, root: int, unit: str) -> Iterator[Slot]:
    """Yield the slots of all units that are to be translated."""
    allowed = [True]
    last = xml.close(root)
    for index in range(root, last):
        token = xml.tokens[index]
        if token.kind == "close":
            allowed.pop()
        elif token.kind == "open":
            stated = xml.attributes(token).get("translate") if _local(xml, index) else None
            allowed.append(allowed[-1] if stated is None else stated != "no")
            if allowed[-1] and _local(xml, index) == unit and (slot := _slot(xml, index)):
                yield slot


def _slot(xml: XmlFile, unit: int) -> Slot | None:
    """Return the slot of one unit, or None if there is nothing to translate."""
    parts: dict[str, int] = {}
    for child in xml.children(unit):
        if xml.tokens[child].kind in ("open", "empty"):
            name = _local(xml, child)
            if name in ("source", "seg-source", "target"):
                if name in parts:
                    raise invalid(f"must have one {name} in a unit", xml.raw(xml.tokens[unit])[:80])
                parts[name] = child
    if "source" not in parts:
        raise invalid("must have a source in every unit", xml.raw(xml.tokens[unit])[:80])
    source = parts.get("seg-source", parts["source"])
    target = parts.get("target")
    if xml.tokens[source].kind != "open" or _is_finished(xml, unit, parts["source"], source, target):
        return None
    fragment = make_fragment(list(_atoms(xml, source)))
    if fragment is None:
        return None
    return _make(xml, fragment, source, target)


def _is_finished(xml: XmlFile, unit: int, source: int, segmented: int, target: int | None) -> bool:
    """Tell whether a unit's target must stay."""
    attributes = xml.attributes(xml.tokens[unit])
    states = [attributes.get("state", "")]
    if target is not None:
        states.append(xml.attributes(xml.tokens[target]).get("state", ""))
    if attributes.get("approved") == "yes" or any(state in _FINISHED for state in states):
        return True
    if target is None or any(state in _UNFINISHED for state in states):
        return False
    content = _inner(xml, target).strip()
    return content not in ("", _inner(xml, source).strip(), _inner(xml, segmented).strip())


def _inner(xml: XmlFile, index: int) -> str:
    token = xml.tokens[index]
    return xml.text[token.end : xml.tokens[token.partner].start] if token.kind == "open" else ""


def _atoms(xml: XmlFile, index: int) -> Iterator[Atom]:
    """Yield the pieces inside an element with text."""
    for child in xml.children(index):
        token = xml.tokens[child]
        if token.kind in ("text", "cdata"):
            if text := xml.content(token):
                yield Atom("text", PLAIN, text)
            continue
        name = _local(xml, child)
        attributes = xml.attributes(token) if token.kind == "open" else {}
        kept = attributes.get("translate") == "no" or attributes.get("mtype") == "protected"
        if token.kind == "open" and name in _AROUND and not kept:
            closing = xml.tokens[token.partner]
            yield Atom("open", spans=((token.start, token.end),), name=name)
            yield from _atoms(xml, child)
            yield Atom("close", spans=((closing.start, closing.end),), name=name)
        else:
            span = (token.start, xml.tokens[xml.close(child)].end)
            yield Atom("opaque", spans=(span,), ordered=name in _ORDERED, name=name)


def _make(xml: XmlFile, fragment: Fragment, source: int, target: int | None) -> Slot:
    """Return the slot that writes the target of ``source``."""
    plain = fragment.is_plain
    text = DocumentText(unescape(fragment.text)) if plain else DocumentText(fragment.text, "xml")
    if target is None:
        start = end = xml.tokens[xml.close(source)].end
        written = re.match(r"<(?:([^\s/>:]+):)?", xml.raw(xml.tokens[source]))
        name = f"{written[1]}:target" if written and written[1] else "target"
        before = xml.tokens[source - 1]
        gap = xml.raw(before) if before.kind == "text" and not xml.raw(before).strip() else ""
        opening, closing = f"{gap}<{name}>", f"</{name}>"
    else:
        token = xml.tokens[target]
        start, end = token.start, xml.tokens[xml.close(target)].end
        opening = xml.raw(token)
        if token.kind == "open":
            closing = xml.raw(xml.tokens[token.partner])
        else:
            opening = opening[:-2].rstrip() + ">"
            closing = "</" + re.split(r"[\s>]", opening[1:], maxsplit=1)[0] + ">"

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:
        content = fragment.write(escape(translations[0]) if plain else translations[0], raw)
        return [(start, end, opening + content + closing)]

    return Slot(end, (text,), write, bilingual=True)
