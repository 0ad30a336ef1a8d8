"""Cuts HTML into tags, comments and text with their offsets, as a browser would; knows nothing of their meaning.

Anything is accepted, and the time is linear in the length: a tag or comment that does not end is met at most once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

TokenKind = Literal["text", "start", "end", "comment", "doctype"]

# A ">" inside a quoted value does not end a tag; a quote only begins a value right after "=" (HTML standard, 13.2.5).
_TAG = re.compile(
    r"<(/?+)([a-zA-Z][^\s/>]*+)(?:[^>=]++|=\s*+(?:\"[^\"]*+\"|'[^']*+')?+)*+>",
)
_NAME = re.compile(r"</?+([a-zA-Z][^\s/>]*+)")
_UNFINISHED = re.compile(
    r"</?+[a-zA-Z][^\s<]*+(?:\s++[^\s=<]++\s*+=\s*+(?:\"[^\"]*+(?:\"|\Z)|'[^']*+(?:'|\Z)|[^\s\"'<]++))*+\s*+\Z"
)
_ATTRIBUTE = re.compile(r"""([^\s/>=][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]*+)))?+""")

RAW_TEXT = frozenset({"script", "style", "iframe", "noembed", "noframes", "xmp", "textarea", "title"})
"""Elements in which there are no tags."""


@dataclass(frozen=True, slots=True)
class HtmlToken:
    """A piece of HTML; names are in lower case."""

    kind: TokenKind
    start: int
    end: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute with a value; ``start`` and ``end`` are the value's, without its quotes."""

    name: str
    start: int
    end: int
    quote: str


def attributes(document: str, start: int, end: int) -> Iterator[Attribute]:
    """Yield the attributes of the start tag ``document[start:end]``; offsets are the document's."""
    name = _NAME.match(document, start, end)
    if name is None:
        return
    for match in _ATTRIBUTE.finditer(document, name.end(), end):
        group = match.lastindex or 1
        quote = ("", '"', "'", "")[group - 1]
        span = match.span(group) if group > 1 else (match.end(), match.end())
        yield Attribute(match[1].lower(), *span, quote)


class HtmlTokens:
    """One pass over a document or a part of it."""

    def __init__(self, document: str, start: int, end: int) -> None:
        """Cut ``document[start:end]``."""
        self._document = document
        self._start = start
        self._end = end
        self._last_end = document.rfind(">", start, end)
        self._strict = True
        self._missing: set[str] = set()

    def __iter__(self) -> Iterator[HtmlToken]:
        """Yield tokens that cover all of it, in order."""
        document, end = self._document, self._end
        cursor = text = self._start
        while (tag := document.find("<", cursor, end)) >= 0:
            token = self._markup(tag)
            if token is None:
                cursor = tag + 1
                continue
            if text < tag:
                yield HtmlToken("text", text, tag)
            yield token
            cursor = text = token.end
            if token.kind == "start" and token.name in RAW_TEXT:
                cursor = text = self._raw_text_end(token)
                if token.end < cursor:
                    yield HtmlToken("text", token.end, cursor)
        if text < end:
            yield HtmlToken("text", text, end)

    def _markup(self, start: int) -> HtmlToken | None:
        """Return what begins with the "<" at ``start``; None if that is text."""
        document = self._document
        if document.startswith("<!--", start):
            if document.startswith(("<!-->", "<!--->"), start):
                return HtmlToken("comment", start, document.index(">", start) + 1)
            return HtmlToken("comment", start, self._find("-->", start + 4))
        if document.startswith("<![CDATA[", start):
            return HtmlToken("comment", start, self._find("]]>", start))
        if document.startswith("<?", start):
            return HtmlToken("comment", start, self._find("?>", start))
        following = document[start + 1 : start + 2]
        if following == "!" or (following == "/" and not document[start + 2 : start + 3].isascii()):
            kind: TokenKind = "doctype" if document[start + 2 : start + 9].lower() == "doctype" else "comment"
            return HtmlToken(kind, start, self._find(">", start))
        if following == "/" and not document[start + 2 : start + 3].isalpha():
            return HtmlToken("comment", start, self._find(">", start)) if start < self._last_end else None
        return self._tag(start)

    def _tag(self, start: int) -> HtmlToken | None:
        document = self._document
        name = _NAME.match(document, start, self._end)
        if name is None:
            return None
        kind: TokenKind = "end" if document[start + 1] == "/" else "start"
        if start > self._last_end:
            # A browser drops a tag that the document's end cuts off; a lone "<" before a letter is more likely text.
            cut = _UNFINISHED.match(document, start, self._end)
            return HtmlToken(kind, start, self._end, name[1].lower()) if cut else None
        if self._strict:
            match = _TAG.match(document, start, self._end)
            if match is not None:
                return HtmlToken(kind, start, match.end(), name[1].lower())
            # Its quotes are out of step to the end of the document, so that no later tag is trusted with them.
            self._strict = False
        return HtmlToken(kind, start, document.index(">", start) + 1, name[1].lower())

    def _find(self, ending: str, start: int) -> int:
        """Return the end of the first ``ending``, or of the first ``>``, or of everything."""
        if ending not in self._missing:
            found = self._document.find(ending, start, self._end)
            if found >= 0:
                return found + len(ending)
            self._missing.add(ending)
        if ending in ("-->", ">") or start > self._last_end:
            return self._end
        return self._document.index(">", start) + 1

    def _raw_text_end(self, token: HtmlToken) -> int:
        """Return where the text of an element without tags inside ends."""
        if token.name in self._missing:
            return self._end
        closing = re.compile(rf"</{token.name}(?=[\s/>])", re.IGNORECASE).search(self._document, token.end, self._end)
        if closing is not None:
            return closing.start()
        self._missing.add(token.name)
        return self._end
