"""Reads HTML into units: which elements are borders, inline, protected or skipped; cuts no tags and writes nothing.

What people who send HTML to a translation service expect, and get here:
- Text between the borders of blocks is a unit; ``<br>`` is a border as well. Elements that are not known, custom ones
  too, are inline.
- ``alt``, ``title``, ``placeholder``, ``aria-label``, the ``content`` of the metas ``description``, ``og:title``,
  ``og:description``, ``twitter:title`` and ``twitter:description``, and the ``value`` of an ``<input>`` that is a
  button are units of their own. No other attribute is touched.
- ``translate="no"``, the class ``notranslate``, ``<code>``, ``<kbd>``, ``<samp>``, ``<var>``, ``<tt>`` and the
  caller's ``ignore_tags`` are protected inside a sentence and skipped as blocks; ``translate="yes"`` inside does not
  end that.
- Scripts, styles, frames, SVG, MathML, comments and processing instructions are never read.
- Whitespace is one space, as a browser shows it, but literal in ``<pre>`` and ``<textarea>``.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.text.markup.escaping import escape_html, html_references
from model.text.markup.html_tokens import Attribute, HtmlToken, HtmlTokens, attributes
from model.text.markup.options import MarkupOptions
from model.text.markup.units import Handle, UnitBuilder, UnitRecord

_BLOCK_NAMES = (
    "address article aside base blockquote body br button caption center col colgroup dd details dialog dir div dl dt "
    "fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li link "
    "listing main menu meta nav noframes noscript ol optgroup option p plaintext pre search section select summary "
    "table tbody td template textarea tfoot th thead title tr ul xmp"
)
BLOCKS = frozenset(_BLOCK_NAMES.split())
VOID = frozenset(
    {
        "area",
        "base",
        "br",
        "col",
        "embed",
        "frame",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    }
)
OPAQUE = frozenset({"svg", "math", "script", "style", "iframe", "noembed", "noframes", "xmp"})
PROTECTED = frozenset({"code", "kbd", "samp", "var", "tt"})
LITERAL = frozenset({"pre", "textarea", "listing"})
_TEXT_ATTRIBUTES = frozenset({"alt", "title", "placeholder", "aria-label"})
_TEXT_METAS = frozenset({"description", "og:title", "og:description", "twitter:title", "twitter:description"})
_BUTTONS = frozenset({"submit", "button", "reset"})
_CLOSED_BY = {
    "li": {"li"},
    "dt": {"dt", "dd"},
    "dd": {"dt", "dd"},
    "td": {"td", "th"},
    "th": {"td", "th"},
    "tr": {"tr", "td", "th"},
    "option": {"option"},
    "optgroup": {"option", "optgroup"},
}
"""Blocks whose end tags may be left out: what a start tag closes, besides ``<p>``."""
_KEEPS_PARAGRAPH = frozenset({"br", "button", "option", "optgroup", "template", "noscript", "link", "meta", "base"})


@dataclass(slots=True)
class _Open:
    """An element on the stack."""

    name: str
    block: bool
    literal: bool
    handle: Handle | None = None
    protects: bool = False
    skips: bool = False


class HtmlReader:
    """Tells a builder about the HTML in a part of its document."""

    def __init__(self, builder: UnitBuilder, options: MarkupOptions) -> None:
        """Report to ``builder``; the names in ``options`` may be in any case."""
        self._builder = builder
        self._document = builder.document
        self._ignored = {name.lower() for name in options.ignore_tags}
        split = {name.lower() for name in options.splitting_tags}
        joined = {name.lower() for name in options.non_splitting_tags} - split
        self._blocks = (BLOCKS | split) - joined
        self._stack: list[_Open] = []
        self._positions: dict[str, list[int]] = {}
        self._last_block = [-1]
        self._silent: _Open | None = None

    def read(self, start: int, end: int) -> None:
        """Read ``document[start:end]`` as a whole, with a border before and after it."""
        self._builder.border()
        for token in HtmlTokens(self._document, start, end):
            self.token(token)
        while self._stack:
            self._pop(end)
        self._builder.border()

    def token(self, token: HtmlToken) -> None:
        """Read one token."""
        if token.kind == "text":
            self._text(token)
        elif token.kind == "start":
            self._start(token)
        elif token.kind == "end":
            self._close(token)
        elif token.kind == "doctype":
            self._builder.border()
        elif self._silent is None:
            self._builder.empty(token.start, token.end)

    def _text(self, token: HtmlToken) -> None:
        if self._silent is not None and self._silent.skips:
            return
        literal = bool(self._stack) and self._stack[-1].literal
        cursor = token.start
        for start, end, decoded in html_references(self._document, token.start, token.end):
            self._builder.text(cursor, start, literal=literal)
            self._builder.character(decoded, start, end)
            cursor = end
        self._builder.text(cursor, token.end, literal=literal)

    def _start(self, token: HtmlToken) -> None:
        name = token.name
        block = name in self._blocks
        if block:
            self._imply_ends(name, token.start)
        raw = self._document[token.start : token.end].lower()
        ignored = name in self._ignored or name in PROTECTED
        if "translate" in raw:
            ignored = ignored or self._not_translated(token)
        opaque = name in OPAQUE
        outermost = self._silent is None
        if outermost and not ignored and not opaque and ("=" in raw):
            self._attributes(token, raw)
        if block and outermost:
            self._builder.border()
        if name in VOID or (raw.endswith("/>") and opaque):
            if outermost and not block:
                self._builder.empty(token.start, token.end)
            return
        literal = name in LITERAL or (bool(self._stack) and self._stack[-1].literal)
        opened = _Open(name, block, literal)
        if outermost and (ignored or opaque):
            self._silent = opened
            opened.skips = block or opaque
            opened.protects = not block
            if not block:
                self._builder.begin_protected(token.start)
        elif outermost and not block:
            opened.handle = self._builder.open(token.start, token.end)
        self._push(opened)

    def _not_translated(self, token: HtmlToken) -> bool:
        for attribute in attributes(self._document, token.start, token.end):
            value = self._document[attribute.start : attribute.end].lower()
            if attribute.name == "translate" and value == "no":
                return True
            if attribute.name == "class" and "notranslate" in value.split():
                return True
        return False

    def _close(self, token: HtmlToken) -> None:
        name = token.name
        block = name in self._blocks
        positions = self._positions.get(name)
        if not positions or (not block and positions[-1] < self._last_block[-1]):
            if self._silent is not None:
                return
            if block:
                self._builder.border()
            else:
                self._builder.empty(token.start, token.end)
            return
        while self._stack[-1].name != name:
            self._pop(token.start)
        self._pop(token.start, token.end)

    def _imply_ends(self, name: str, start: int) -> None:
        """Close the blocks whose end tags were left out before the start tag of ``name``."""
        closes = _CLOSED_BY.get(name, set())
        while self._last_block[-1] >= 0:
            above = self._stack[self._last_block[-1]].name
            if above not in closes and (above != "p" or name in _KEEPS_PARAGRAPH):
                break
            while self._stack[-1].name != above:
                self._pop(start)
            self._pop(start)

    def _push(self, opened: _Open) -> None:
        if opened.block:
            self._last_block.append(len(self._stack))
        self._positions.setdefault(opened.name, []).append(len(self._stack))
        self._stack.append(opened)

    def _pop(self, start: int, end: int | None = None) -> None:
        """Close the innermost element with the end tag ``document[start:end]``, or without one."""
        closed = self._stack.pop()
        self._positions[closed.name].pop()
        if closed.block:
            self._last_block.pop()
        if self._silent is closed:
            self._silent = None
            if closed.protects:
                self._builder.end_protected(start if end is None else end)
        elif self._silent is None and closed.handle is not None:
            self._builder.close(closed.handle, start, start if end is None else end)
        if closed.block and self._silent is None:
            self._builder.border()

    def _attributes(self, token: HtmlToken, raw: str) -> None:
        """Report the attributes of a start tag that are text for people."""
        if not any(name in raw for name in (*_TEXT_ATTRIBUTES, "content", "value")):
            return
        found = {
            attribute.name: attribute for attribute in reversed([*attributes(self._document, token.start, token.end)])
        }
        for attribute in sorted(found.values(), key=lambda each: each.start):
            if attribute.start < attribute.end and self._is_text(token.name, attribute, found):
                self._attribute(attribute)

    def _is_text(self, element: str, attribute: Attribute, all_of_them: dict[str, Attribute]) -> bool:
        def value(name: str) -> str:
            other = all_of_them.get(name)
            return "" if other is None else self._document[other.start : other.end].strip().lower()

        if attribute.name == "content":
            return element == "meta" and bool({value("name"), value("property")} & _TEXT_METAS)
        if attribute.name == "value":
            return element == "input" and value("type") in _BUTTONS
        return attribute.name in _TEXT_ATTRIBUTES

    def _attribute(self, attribute: Attribute) -> None:
        pieces = []
        cursor = attribute.start
        for start, end, decoded in html_references(self._document, attribute.start, attribute.end, attribute=True):
            if cursor < start:
                pieces.append((self._document[cursor:start], cursor, start))
            pieces.append((decoded, start, end))
            cursor = end
        if cursor < attribute.end:
            pieces.append((self._document[cursor : attribute.end], cursor, attribute.end))
        self._builder.attribute(attribute.start, attribute.end, attribute.quote, pieces)


def read_html(document: str, options: MarkupOptions) -> list[UnitRecord]:
    """Return the units of an HTML document or fragment; any text is accepted."""
    builder = UnitBuilder(document, escape_html)
    HtmlReader(builder, options).read(0, len(document))
    return builder.records
