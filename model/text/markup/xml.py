"""Reads XML into units, and refuses what is not well-formed; expands no entity, loads nothing, writes nothing.

A document or a fragment of one (several elements, text beside them) is accepted. An element is inline if text stands
beside it, or beside an element that it is in; every other one is a block, unless the caller's options say otherwise.
``translate="no"``, ``<code>``, ``<kbd>``, ``<samp>``, ``<var>`` and ``ignore_tags`` are protected inside a sentence and
skipped as blocks; attributes are never translated. Whitespace is one space, but literal under ``xml:space="preserve"``.
A CDATA section without ``<`` and ``&`` is text; any other holds a document of another kind and is kept as it is, as are
entities other than the five predefined ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from model.errors import InvalidTextError
from model.text.markup.escaping import escape_xml, xml_references
from model.text.markup.options import MarkupOptions
from model.text.markup.units import Handle, UnitBuilder, UnitRecord

_NAME = (
    r"[:A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f"
    r"\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff]"
    r"[-.0-9:A-Z_a-z\u00b7\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u037d\u037f-\u1fff\u200c-\u200d\u203f-\u2040\u2070-\u218f"
    r"\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff]*+"
)
_START = re.compile(rf"<({_NAME})((?:\s++{_NAME}\s*+=\s*+(?:\"[^<\"]*+\"|'[^<']*+'))*+)\s*+(/?+)>")
_END = re.compile(rf"</({_NAME})\s*+>")
_ATTRIBUTE = re.compile(rf"({_NAME})\s*+=\s*+(?:\"([^<\"]*+)\"|'([^<']*+)')")
_REFERENCE = re.compile(rf"&(?:#[0-9]++|#x[0-9a-fA-F]++|{_NAME});")
_DOCTYPE = re.compile(
    r"<!DOCTYPE\s(?:[^\[>\"'<]++|\"[^\"]*+\"|'[^']*+'"
    r"|\[(?:[^\]\"'<]++|\"[^\"]*+\"|'[^']*+'|<!--(?:[^-]++|-(?!->))*+-->|<\?(?:[^?]++|\?(?!>))*+\?>|<)*+\])*+>"
)
_INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PROTECTED = frozenset({"code", "kbd", "samp", "var"})
_OPAQUE = frozenset({"script", "style"})

_Kind = Literal["text", "start", "end", "empty", "other", "border", "cdata"]


@dataclass(slots=True)
class _Element:
    """An element, or the document itself, before it is known what is inside."""

    name: str = ""
    parent: int = -1
    mixed: bool = False
    inline: bool = False


@dataclass(slots=True)
class _Event:
    kind: _Kind
    start: int
    end: int
    element: int = 0


@dataclass(slots=True)
class _Tree:
    events: list[_Event] = field(default_factory=list)
    elements: list[_Element] = field(default_factory=lambda: [_Element()])


def _refuse(document: str, position: int, rule: str) -> InvalidTextError:
    line = document.count("\n", 0, position) + 1
    return InvalidTextError(
        "text", f"must be well-formed XML ({rule}, line {line})", document[position : position + 40]
    )


def _scan(document: str) -> _Tree:
    """Return the events of a document, after checking that it is well-formed."""
    if (invalid := _INVALID.search(document)) is not None:
        raise _refuse(document, invalid.start(), "a character that XML does not allow")
    tree = _Tree()
    open_elements = [0]
    cursor = 0
    while cursor < len(document):
        tag = document.find("<", cursor)
        end = len(document) if tag < 0 else tag
        if cursor < end:
            _check_text(document, cursor, end)
            if not document[cursor:end].isspace():
                tree.elements[open_elements[-1]].mixed = True
            tree.events.append(_Event("text", cursor, end, open_elements[-1]))
        if tag < 0:
            break
        cursor = _markup(document, tag, tree, open_elements)
    if len(open_elements) > 1:
        name = tree.elements[open_elements[-1]].name
        raise _refuse(document, len(document), f"the element {name[:40]} does not end")
    return tree


def _check_text(document: str, start: int, end: int) -> None:
    if (wrong := document.find("]]>", start, end)) >= 0:
        raise _refuse(document, wrong, "]]> in text")
    cursor = start
    while (cursor := document.find("&", cursor, end)) >= 0:
        match = _REFERENCE.match(document, cursor, end)
        if match is None:
            raise _refuse(document, cursor, "an & that begins no reference")
        cursor = match.end()


def _markup(document: str, start: int, tree: _Tree, open_elements: list[int]) -> int:
    """Read what begins with the "<" at ``start``; return its end."""
    following = document[start + 1 : start + 2]
    above = open_elements[-1]
    if following == "/":
        match = _END.match(document, start)
        if match is None or len(open_elements) < 2 or tree.elements[above].name != match[1]:
            raise _refuse(document, start, "an end tag that ends nothing")
        open_elements.pop()
        tree.events.append(_Event("end", start, match.end(), above))
        return match.end()
    if following in ("!", "?"):
        return _declaration(document, start, tree, above)
    match = _START.match(document, start)
    if match is None:
        raise _refuse(document, start, "a < that begins no tag")
    _check_attributes(document, match)
    tree.elements.append(_Element(match[1], above))
    element = len(tree.elements) - 1
    tree.events.append(_Event("empty" if match[3] else "start", start, match.end(), element))
    if not match[3]:
        open_elements.append(element)
    return match.end()


def _check_attributes(document: str, tag: re.Match[str]) -> None:
    if not tag[2]:
        return
    seen = set()
    for match in _ATTRIBUTE.finditer(document, *tag.span(2)):
        if match[1] in seen:
            raise _refuse(document, match.start(), "an attribute twice")
        seen.add(match[1])
        _check_references(document, *match.span(match.lastindex or 2))


def _check_references(document: str, start: int, end: int) -> None:
    while (start := document.find("&", start, end)) >= 0:
        match = _REFERENCE.match(document, start, end)
        if match is None:
            raise _refuse(document, start, "an & that begins no reference")
        start = match.end()


def _declaration(document: str, start: int, tree: _Tree, above: int) -> int:
    """Read a comment, a CDATA section, a processing instruction or the document type; return its end."""
    for opening, closing in (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")):
        if not document.startswith(opening, start):
            continue
        found = document.find(closing, start + len(opening))
        if found < 0:
            raise _refuse(document, start, f"{opening} without {closing}")
        end = found + len(closing)
        content = document[start + len(opening) : found]
        if opening == "<!--" and ("--" in content or content.endswith("-")):
            raise _refuse(document, start, "-- in a comment")
        if opening == "<?" and not re.match(_NAME, content):
            raise _refuse(document, start, "a processing instruction without a name")
        if opening == "<![CDATA[":
            if content and not content.isspace():
                tree.elements[above].mixed = True
            tree.events.append(_Event("cdata", start, end, above))
        else:
            tree.events.append(
                _Event("border" if content[:4].lower() in ("xml", "xml ") else "other", start, end, above)
            )
        return end
    match = _DOCTYPE.match(document, start)
    if match is None or above != 0:
        raise _refuse(document, start, "a declaration that is none")
    tree.events.append(_Event("border", start, match.end(), above))
    return match.end()


class _XmlReader:
    """Tells a builder about the events of one document."""

    def __init__(self, builder: UnitBuilder, tree: _Tree, options: MarkupOptions) -> None:
        self._builder = builder
        self._document = builder.document
        self._tree = tree
        self._ignored = {*options.ignore_tags, *_PROTECTED}
        self._handles: dict[int, Handle] = {}
        self._literal = [False]
        self._silent = -1
        self._skips = False
        split = set(options.splitting_tags)
        joined = set(options.non_splitting_tags)
        for element in tree.elements[1:]:
            parent = tree.elements[element.parent]
            element.inline = parent.mixed or parent.inline
            if element.name in split:
                element.inline = False
            elif element.name in joined:
                element.inline = True

    def read(self) -> None:
        for event in self._tree.events:
            self._event(event)
        self._builder.border()

    def _event(self, event: _Event) -> None:
        if event.kind == "border":
            self._builder.border()
        elif event.kind == "start":
            self._start(event)
        elif event.kind == "end":
            self._end(event)
        elif self._silent >= 0 and self._skips:
            return
        elif event.kind == "text":
            self._text(event.start, event.end)
        elif event.kind == "cdata":
            self._cdata(event)
        elif event.kind == "empty" and not self._tree.elements[event.element].inline:
            if self._silent < 0:
                self._builder.border()
        elif self._silent < 0:
            self._builder.empty(event.start, event.end)

    def _text(self, start: int, end: int) -> None:
        literal = self._literal[-1]
        for reference, after, decoded in xml_references(self._document, start, end):
            self._builder.text(start, reference, literal=literal)
            if decoded:
                self._builder.character(decoded, reference, after)
            else:
                self._builder.empty(reference, after)
            start = after
        self._builder.text(start, end, literal=literal)

    def _cdata(self, event: _Event) -> None:
        start, end = event.start + len("<![CDATA["), event.end - len("]]>")
        content = self._document[start:end]
        if "<" in content or "&" in content or ">" in content:
            if self._silent < 0:
                self._builder.empty(event.start, event.end)
            return
        handle = self._builder.open(event.start, start, verbatim=True)
        self._builder.text(start, end, literal=self._literal[-1])
        self._builder.close(handle, end, event.end, verbatim=True)

    def _start(self, event: _Event) -> None:
        element = self._tree.elements[event.element]
        attributes = (
            {
                match[1]: match[match.lastindex or 2]
                for match in _ATTRIBUTE.finditer(self._document, event.start, event.end)
            }
            if self._document.find("=", event.start, event.end) >= 0
            else {}
        )
        space = attributes.get("xml:space")
        self._literal.append(space == "preserve" if space in ("preserve", "default") else self._literal[-1])
        if self._silent >= 0:
            return
        if not element.inline:
            self._builder.border()
        opaque = element.name in _OPAQUE
        if opaque or element.name in self._ignored or attributes.get("translate") == "no":
            self._silent = event.element
            self._skips = opaque or not element.inline
            if element.inline:
                self._builder.begin_protected(event.start)
        elif element.inline:
            self._handles[event.element] = self._builder.open(event.start, event.end)

    def _end(self, event: _Event) -> None:
        element = self._tree.elements[event.element]
        self._literal.pop()
        if self._silent == event.element:
            self._silent = -1
            if element.inline:
                self._builder.end_protected(event.end)
        elif self._silent < 0 and element.inline:
            self._builder.close(self._handles.pop(event.element), event.start, event.end)
        if not element.inline and self._silent < 0:
            self._builder.border()


def read_xml(document: str, options: MarkupOptions) -> list[UnitRecord]:
    """Return the units of an XML document or fragment.

    Raises:
        InvalidTextError: it is not well-formed.
    """
    builder = UnitBuilder(document, escape_xml)
    _XmlReader(builder, _scan(document), options).read()
    return builder.records
