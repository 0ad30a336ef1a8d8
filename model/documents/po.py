"""Catalogues of gettext: ``msgid`` to ``msgstr``, plurals included; comments and finished entries stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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

_WIDTH = 76
"""Characters of a wrapped line, as gettext's own tools write."""
_LINE = re.compile(r"[^\r\n]++(?P<newline>\r\n|\r|\n|\Z)|\r\n|\r|\n")
_ENTRY_LINE = re.compile(
    r"(?P<keyword>msgctxt|msgid_plural|msgid|msgstr(?:[ \t]*\[[ \t]*(?P<index>\d{1,2})[ \t]*\])?)?[ \t]*"
    r'(?P<string>"(?:[^"\\]|\\.)*+")[ \t]*'
)
_CHARSET = re.compile(rb"Content-Type:[^\r\n\"]{0,80}charset=([\w.:-]{1,40})", re.IGNORECASE)
_NPLURALS = re.compile(r"^Plural-Forms:.*?nplurals\s*=\s*(\d{1,2})", re.IGNORECASE | re.MULTILINE)
_ONE = re.compile(r"^Plural-Forms:.*?plural\s*=[^;\n]*?\(?\bn\s*==\s*1\b\)?\s*\?\s*(\d)", re.IGNORECASE | re.MULTILINE)
"""The form for exactly one thing, where it is stated plainly; Arabic, for example, has it second."""
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_UNESCAPED = {"\\": "\\\\", '"': '\\"', **{value: f"\\{name}" for name, value in _ESCAPED.items()}}
_SPECIAL = re.compile(r'[\\"\n\t\r\a\b\f\v]')


@dataclass
class _Field:
    """A string of an entry, from its first to its last quotation mark."""

    start: int
    end: int
    value: str
    pieces: int = 1
    """Quoted pieces it is written in."""


@dataclass
class _Entry:
    """An entry with its fields by keyword; those of ``msgstr`` by number, -1 for the only one."""

    fuzzy: bool = False
    fields: dict[str, _Field] = field(default_factory=dict)
    targets: dict[int, _Field] = field(default_factory=dict)

    @property
    def is_header(self) -> bool:
        return "msgctxt" not in self.fields and self.fields["msgid"].value == ""


def open_po(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - one signature for all openers
    """Open a catalogue or a template of one; entries that are translated and not fuzzy have no text here."""
    declared = _CHARSET.search(data[:8192])
    name = declared[1].decode("ascii") if declared else None
    file = decode(data, None if name in (None, "CHARSET") else name, default="utf-8")
    entries = list(_entries(file.text))
    if not entries and any(line.strip() and not line.startswith("#") for line in file.text.splitlines()):
        raise invalid("must have entries", file.text[:40])
    header = next((entry.targets[-1].value[:4096] for entry in entries if entry.is_header and -1 in entry.targets), "")
    newline = "\r\n" if "\r\n" in file.text else "\n"
    slots = [slot for entry in entries if not entry.is_header for slot in _slots(entry, header, newline)]
    slotted = SlottedText(file.text, slots)
    return slotted.texts, lambda new: file.encode(slotted.render(new))


def _entries(text: str) -> Iterator[_Entry]:
    """Yield every entry that is not obsolete.

    Raises:
        InvalidDocumentError: a line that is neither a comment nor part of an entry, or an entry that lacks something.
    """
    entry = _Entry()
    current: _Field | None = None
    for line in _LINE.finditer(text):
        content = text[line.start() : line.end()].strip()
        start = line.start() + len(line[0]) - len(line[0].lstrip())
        if not content or content.startswith("#"):
            current = None
            if content and entry.targets:
                yield _complete(entry, content)
                entry = _Entry()
            entry.fuzzy |= content.startswith("#,") and "fuzzy" in re.split(r"[,\s]+", content)
            continue
        found = _ENTRY_LINE.fullmatch(text, start, start + len(content))
        if found is None:
            raise invalid("must have comments, keywords with strings and strings only", content)
        value = _unescape(found["string"])
        keyword = found["keyword"]
        if keyword is None:
            if current is None:
                raise invalid("must have a keyword before each string", content)
            current.value += value
            current.end = found.end("string")
            current.pieces += 1
            continue
        if entry.targets and keyword in ("msgctxt", "msgid"):
            yield _complete(entry, content)
            entry = _Entry()
        current = _Field(found.start("string"), found.end("string"), value)
        _add(entry, keyword, found["index"], current)
    if entry.fields or entry.targets:
        yield _complete(entry, "end of the file")


def _add(entry: _Entry, keyword: str, index: str | None, value: _Field) -> None:
    """Put a field into its entry; keywords have an order, and each occurs once."""
    if keyword.startswith("msgstr"):
        number = -1 if index is None else int(index)
        if number in entry.targets or (number < 0) == ("msgid_plural" in entry.fields):
            raise invalid("must have each msgstr once, and numbered ones for plurals only", keyword)
        entry.targets[number] = value
        return
    order = ("msgctxt", "msgid", "msgid_plural")
    later = order[order.index(keyword) :]
    if entry.targets or any(name in entry.fields for name in later):
        raise invalid("must have msgctxt, msgid, msgid_plural and msgstr in this order", keyword)
    entry.fields[keyword] = value


def _complete(entry: _Entry, where: str) -> _Entry:
    """Return ``entry`` if it has what an entry needs."""
    if "msgid" not in entry.fields or not entry.targets:
        raise invalid("must have a msgid and a msgstr in every entry", where)
    return entry


def _slots(entry: _Entry, header: str, newline: str) -> Iterator[Slot]:
    """Yield the slot of an entry that is to be translated."""
    singular = entry.fields["msgid"]
    plural = entry.fields.get("msgid_plural")
    if plural is None:
        target = entry.targets[-1]
        if (entry.fuzzy or not target.value) and is_translatable(singular.value):
            yield _slot(entry, [(singular, target, "")], newline)
        return
    found = _NPLURALS.search(header)
    count = int(found[1]) if found else max(entry.targets) + 1
    stated = _ONE.search(header)
    one = int(stated[1]) if stated else 0
    last = max(entry.targets.values(), key=lambda each: each.end)
    wanted: list[tuple[_Field, _Field, str]] = []
    for number in range(count):
        source = singular if number == one and count > 1 else plural
        existing = entry.targets.get(number)
        if existing is None:
            wanted.append((source, _Field(last.end, last.end, ""), f"{newline}msgstr[{number}] "))
        elif entry.fuzzy or not existing.value:
            wanted.append((source, existing, ""))
    wanted = [each for each in wanted if is_translatable(each[0].value)]
    if wanted:
        wanted.sort(key=lambda each: each[1].start)
        yield _slot(entry, wanted, newline)


def _slot(entry: _Entry, wanted: Sequence[tuple[_Field, _Field, str]], newline: str) -> Slot:
    """Return the slot that writes translations of sources into targets, each after some characters."""
    sources = [source for source in entry.fields.values() if any(source is each for each, _, _ in wanted)]
    texts = tuple(DocumentText(source.value.strip()) for source in sources)

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:  # noqa: ARG001 - one signature for all slots
        edits: list[Edit] = []
        for source, target, before in wanted:
            index = next(at for at, each in enumerate(sources) if each is source)
            before_text, _, after_text = source.value.partition(texts[index].text)
            value = before_text + translations[index] + after_text  # gettext wants equal line breaks at both ends
            edits.append((target.start, target.end, before + _quoted(value, source.pieces > 1, newline)))
        return edits

    return Slot(max(target.end for _, target, _ in wanted), texts, write, bilingual=True)


def _unescape(string: str) -> str:
    """Return the characters of a quoted string."""

    def character(found: re.Match[str]) -> str:
        if found[3] is None:
            number = int(found[1], 8) if found[1] else int(found[2], 16)
            if not 0 < number < 128:
                raise invalid("must have escapes of ASCII characters only", found[0])
            return chr(number)
        if found[3] not in _ESCAPED and found[3] not in "\\\"?'":
            raise invalid("must have known escapes only", found[0])
        return _ESCAPED.get(found[3], found[3])

    return _ESCAPE.sub(character, string[1:-1])


def _quoted(value: str, wrapped: bool, newline: str) -> str:
    """Return ``value`` as a string of a catalogue; ``wrapped``: its source has several lines."""
    if bad := re.search("[\0\ud800-\udfff]", value):
        raise invalid("must get translations without zero bytes and lone surrogates", bad[0])
    if not wrapped:
        return f'"{_escape(value)}"'
    lines = []
    for paragraph in re.findall(r"[^\n]*\n|[^\n]+", value):
        line = ""
        for word in re.findall(r"[^ ]* +|[^ ]+", _escape(paragraph)):
            if line and len(line) + len(word) > _WIDTH:
                lines.append(line)
                line = ""
            line += word
        lines.append(line)
    return newline.join(['""', *(f'"{line}"' for line in lines)])


def _escape(value: str) -> str:
    return _SPECIAL.sub(lambda found: _UNESCAPED[found[0]], value)
