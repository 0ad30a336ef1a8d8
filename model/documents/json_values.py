"""String values of JSON files; keys, numbers and the layout stay as they are, and no meaning is read into keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

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
from model.documents.encodings import decode

_PIECE = re.compile(r'"(?P<string>(?:[^"\\]|\\.)*+)"(?P<key>\s*+:)?|[\[\]{}]', re.DOTALL)
_NO_WORDS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?//\S+|www\.\S+|mailto:\S+|[^\s@]+@[^\s@]+\.\w+|\#[0-9a-fA-F]{3,8}"
    r"|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\d{4}-\d\d-\d\d(?:T\S*)?|(?:\.{0,2}/)[^\s/]+(?:/[^\s/]*)*"
    r"|\w+_\w+|[a-z]+[A-Z]\w*|\w+(?:[.:]\w+)+"
)
"""Strings that are addresses, colours, identifiers, dates or paths as a whole."""


def has_words(text: str) -> bool:
    """Tell whether a value is for people: it has letters, no lone surrogates, and is no address, path or identifier."""
    if not is_translatable(text) or re.search("[\ud800-\udfff]", text):
        return False
    return not _NO_WORDS.fullmatch(text.strip())


def open_json(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a JSON file."""
    return _open(data, limits, skip_attributes=False)


def open_arb(data: bytes, limits: DocumentLimits) -> Opened:
    """Open an Application Resource Bundle, in which values of keys that begin with ``@`` describe other values."""
    return _open(data, limits, skip_attributes=True)


def _open(data: bytes, limits: DocumentLimits, *, skip_attributes: bool) -> Opened:
    file = decode(data, default="utf-8")
    _check(file.text, limits)
    ascii_only = file.text.isascii() and "\\u" in file.text
    slots = [
        _slot(start, end, value, ascii_only)
        for start, end, value in _values(file.text, skip_attributes)
        if has_words(value)
    ]
    slotted = SlottedText(file.text, slots)
    return slotted.texts, lambda new: file.encode(slotted.render(new))


def _check(text: str, limits: DocumentLimits) -> None:
    """Let Python's own parser read the file."""

    def refuse(constant: str) -> None:
        raise invalid("must be valid JSON", constant)

    depth = 0
    for found in _PIECE.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > limits.max_depth:
            raise invalid(f"must have at most {limits.max_depth} JSON values inside one another", depth)
    try:
        json.loads(text, parse_int=len, parse_float=len, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise invalid(f"must be valid JSON ({error})", text[:40]) from None


def _values(text: str, skip_attributes: bool) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and value of every string that is no key."""
    depth = 0
    attribute = False
    for found in _PIECE.finditer(text):
        if found["string"] is None:
            depth += 1 if found[0] in "[{" else -1
        elif found["key"] is not None:
            if depth == 1:
                attribute = skip_attributes and found["string"].startswith("@")
        elif not attribute:
            yield found.start(), found.end(), json.loads(found[0])


def _slot(start: int, end: int, value: str, ascii_only: bool) -> Slot:
    """Return the slot of one string literal."""

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:
        literal = json.dumps(translations[0], ensure_ascii=ascii_only)
        return [(start, end, literal.replace("/", "\\/") if "\\/" in raw(start, end) else literal)]

    return Slot(end, (DocumentText(value),), write)
