"""String values of YAML files; keys, comments, anchors, tags and quoting styles stay, and no aliases are followed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from model.documents.document import (
    DocumentLimits,
    DocumentText,
    Edit,
    Opened,
    Raw,
    Slot,
    SlottedText,
    invalid,
)
from model.documents.encodings import decode
from model.documents.json_values import has_words

_STRING = "tag:yaml.org,2002:str"
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What must be escaped; YAML 1.1 takes U+0085, U+2028 and U+2029 for line breaks."""
_NOT_PLAIN = re.compile(r"[-?:,\[\]{}#&*!|>'\"%@`=\s]|\.\.\.|.*(?::(?:\s|\Z)|\s\#|\s\Z|[\t\n])", re.DOTALL)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_RESOLVER = yaml.SafeLoader("")
_MIN_WIDTH = 40


@dataclass(frozen=True)
class _Scalar:
    """A string value and the place of its literal."""

    start: int
    end: int
    value: str
    style: str
    """``'``, ``"``, ``|``, ``>`` or nothing."""
    in_flow: bool
    tagged: bool
    """It has a tag, so it is a string however it looks."""


def open_yaml(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a YAML file with any number of documents.

    Raises:
        InvalidDocumentError: not valid YAML, too deep or too large, or with an alias of nothing.
    """
    file = decode(data, default="utf-8")
    scalars = _scalars(file.text, limits)
    wanted = [index for index, scalar in enumerate(scalars) if has_words(scalar.value)]

    def slotted(quote_all: bool) -> SlottedText:
        return SlottedText(file.text, [_slot(scalars[index], file.text, quote_all) for index in wanted])

    styled = slotted(False)

    def write(translations: Sequence[str]) -> bytes:
        values = [scalar.value for scalar in scalars]
        for index, text, new in zip(wanted, styled.texts, translations, strict=True):
            if new != text.text:
                before, _, after = _parts(scalars[index])
                values[index] = before + new + after
        for each in (styled, slotted(True)):
            rendered = each.render(translations)
            if rendered == file.text or _reads_as(rendered, values, limits):
                return file.encode(rendered)
        raise invalid("must get translations that its YAML can hold", "")

    return styled.texts, write


def _reads_as(text: str, values: Sequence[str], limits: DocumentLimits) -> bool:
    """Tell whether the strings of a rendered file are those that it should have."""
    try:
        return [scalar.value for scalar in _scalars(text, limits)] == values
    except ValueError:
        return False


def _parts(scalar: _Scalar) -> tuple[str, str, str]:
    """Return the empty lines before a block, its text and the line breaks at its end; other scalars are all text."""
    if scalar.style not in ("|", ">"):
        return "", scalar.value, ""
    text = scalar.value.strip("\n")
    before, _, after = scalar.value.partition(text)
    return before, text, after


def _scalars(text: str, limits: DocumentLimits) -> list[_Scalar]:
    """Return all string values that are no keys."""
    try:
        return list(_strings(text, limits))
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())[:200]
        raise invalid(f"must be valid YAML ({message})", text[:40]) from None
    except (ValueError, OverflowError, IndexError, AttributeError, TypeError) as error:
        if hasattr(error, "rule"):
            raise
        raise invalid("must be valid YAML", text[:40]) from None


@dataclass
class _Level:
    """A collection that is open."""

    is_mapping: bool
    in_flow: bool
    is_key: bool
    """The collection is part of a key."""
    count: int = 0


class _Loader(yaml.SafeLoader):
    """A reader of events that remembers where scalars begin; its events begin at anchors and tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.starts: dict[int, int] = {}
        """Ends to beginnings."""

    def get_token(self) -> yaml.Token:
        token: yaml.Token = super().get_token()  # type: ignore[no-untyped-call]
        if isinstance(token, yaml.ScalarToken):
            self.starts[token.end_mark.index] = token.start_mark.index
        return token


def _strings(text: str, limits: DocumentLimits) -> Iterator[_Scalar]:
    loader = _Loader(text)
    levels: list[_Level] = []
    anchors: set[str] = set()
    nodes = 0
    while loader.check_event():
        event = loader.get_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.DocumentStartEvent):
            anchors.clear()
        elif isinstance(event, yaml.CollectionEndEvent):
            levels.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        nodes += 1
        if nodes > limits.max_elements:
            raise invalid(f"must have at most {limits.max_elements} YAML nodes", nodes)
        is_key = False
        if levels:
            is_key = levels[-1].is_key or (levels[-1].is_mapping and levels[-1].count % 2 == 0)
            levels[-1].count += 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise invalid("must have anchors for all aliases", event.anchor)
            continue
        if event.anchor is not None:
            anchors.add(event.anchor)
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append(_Level(isinstance(event, yaml.MappingStartEvent), bool(event.flow_style), is_key))
            if len(levels) > limits.max_depth:
                raise invalid(f"must have at most {limits.max_depth} YAML values inside one another", len(levels))
        elif isinstance(event, yaml.ScalarEvent) and not is_key and _is_string(event):
            assert event.end_mark is not None
            end = event.end_mark.index
            in_flow = any(level.in_flow for level in levels)
            yield _Scalar(
                loader.starts.get(end, end), end, event.value, event.style or "", in_flow, event.tag is not None
            )


def _is_string(event: yaml.ScalarEvent) -> bool:
    """Tell whether a scalar is a string by YAML's own rules."""
    if event.tag is not None:
        return event.tag in (_STRING, "!")
    return bool(event.style) or _resolves_to_string(event.value)


def _resolves_to_string(value: str) -> bool:
    resolved = _RESOLVER.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
    return bool(resolved == _STRING)


def _slot(scalar: _Scalar, text: str, quote_all: bool) -> Slot:
    """Return the slot of one scalar; ``quote_all``: double quotes whatever its style."""
    before, shown, after = _parts(scalar)

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:  # noqa: ARG001 - one signature for all slots
        new = translations[0]
        if scalar.style in ("|", ">"):
            quoted = _double(before + new + after) if quote_all or not _fits(scalar.style, new) else None
            return [_block(scalar, text, new, quoted)]
        literal = None if quote_all else _inline(scalar, new)
        return [(scalar.start, scalar.end, _double(new) if literal is None else literal)]

    return Slot(scalar.end, (DocumentText(shown),), write)


def _inline(scalar: _Scalar, new: str) -> str | None:
    """Return ``new`` in the style of a plain or single-quoted scalar, or None where that style cannot hold it."""
    if scalar.style == '"' or _UNPRINTABLE.search(new) or "\n" in new:
        return None
    if scalar.style == "'":
        return "'" + new.replace("'", "''") + "'"
    if not new or _NOT_PLAIN.match(new) or (scalar.in_flow and re.search(r"[,\[\]{}:?]", new)):
        return None
    return new if scalar.tagged or _resolves_to_string(new) else None


def _double(new: str) -> str:
    """Return ``new`` as a double-quoted scalar on one line."""
    if found := re.search("[\ud800-\udfff]", new):
        raise invalid("must get translations without lone surrogates", found[0])

    def escaped(found: re.Match[str]) -> str:
        number = ord(found[0])
        return _ESCAPES.get(found[0]) or (f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")

    return '"' + re.sub(rf'[\\"\n\t]|{_UNPRINTABLE.pattern}', escaped, new) + '"'


def _fits(style: str, new: str) -> bool:
    """Tell whether a block of ``style`` can hold ``new`` under the header that it has."""
    lines = new.split("\n")
    indented = any(line[:1].isspace() for line in (lines if style == ">" else lines[:1]))
    return bool(lines[0] and lines[-1].strip()) and not indented and not _UNPRINTABLE.search(new)


def _block(scalar: _Scalar, text: str, new: str, quoted: str | None) -> Edit:
    """Return the edit of a block: its lines only, or the whole block where it is ``quoted`` instead."""
    source = text[scalar.start : scalar.end]
    header = re.match(r"[|>][-+0-9]*([^\r\n]*)(\r\n|\r|\n)(?:[ \t]*(?:\r\n|\r|\n))*", source)
    assert header is not None
    body = source[header.end() :].rstrip()
    start, end = scalar.start + header.end(), scalar.start + header.end() + len(body)
    if quoted is not None:
        return scalar.start, end, quoted + header[1].rstrip()
    first = scalar.value.lstrip("\n")
    indent = len(body) - len(body.lstrip(" ")) - (len(first) - len(first.lstrip(" ")))
    lines = new.split("\n")
    if scalar.style == ">":
        width = max([_MIN_WIDTH, *(len(line) - indent for line in body.splitlines())])
        lines = [piece for line in lines for piece in (*_folded(line, width), "")][:-1]
    written = header[2].join(" " * indent + line if line else line for line in lines)
    return start, end, written


def _folded(line: str, width: int) -> list[str]:
    """Cut a line of a folded block at single spaces, so that it reads as one line again."""
    pieces: list[str] = []
    for word in re.split(r"(?<=\S) (?=\S)", line):
        if pieces and len(pieces[-1]) + 1 + len(word) <= width:
            pieces[-1] += " " + word
        else:
            pieces.append(word)
    return pieces
