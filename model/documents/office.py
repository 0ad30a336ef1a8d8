"""Word, PowerPoint and Excel files: paragraphs and cells with their runs, links and fields. It lays nothing out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from model.documents.archive import Archive
from model.documents.document import DocumentLimits, DocumentText, Edit, Opened, Raw, Slot, SlottedText, invalid
from model.documents.encodings import DecodedFile, decode_xml
from model.documents.inline import Atom, Fragment, Run, make_fragment
from model.documents.xml_tokens import Token, XmlFile, escape

_TRANSLATED_FIELDS = frozenset({"HYPERLINK", "TOC"})
"""Fields whose shown text is prose; that of others (page numbers, dates, references) is computed by the program."""
_NOISE = re.compile(
    r"<\w+:(?:lang|noProof)\b[^>]*/>|\s(?:\w+:)?(?:lang|altLang|dirty|err|smtClean|noProof)=\"[^\"]*\"|\s+(?=/?>)"
)
"""What the spelling checker writes into properties; it makes no difference to a reader."""

_LEADING = frozenset({"w:smartTagPr", "w:fldData"})
"""Properties of elements around runs; the schema has them first."""
_EMPTY = re.compile(r"^<(\S+?)(?:/>|></\1>)$")
"""Properties without a property in them, which are as good as none."""


@dataclass(frozen=True)
class Dialect:
    """What the elements of a paragraph are called in one of the three languages."""

    paragraph: str
    prefix: str
    wrappers: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    """Elements whose paragraphs are not part of the visible text."""
    floating: frozenset[str] = frozenset()
    preserves_space: bool = True


_WORD = Dialect(
    "w:p",
    "w",
    frozenset({"w:hyperlink", "w:ins", "w:smartTag", "w:fldSimple", "w:dir", "w:bdo", "w:moveTo", "w:sdt"}),
    frozenset({"w:del", "w:moveFrom"}),
    frozenset({"w:proofErr", "w:lastRenderedPageBreak"}),
)
_DRAWING = Dialect("a:p", "a", preserves_space=False)
_DIALECTS = {
    dialect.paragraph: dialect
    for dialect in (_WORD, _DRAWING, Dialect("s:si", "s"), Dialect("s:is", "s"), Dialect("s:text", "s"))
}
_CHARTS = r"(?:charts/chart|diagrams/(?:data|drawing))\d*\.xml"
_DOCX = re.compile(rf"word/(?:(?:document|header|footer|footnotes|endnotes|comments)\d*\.xml|{_CHARTS})")
_PPTX = re.compile(rf"ppt/(?:(?:slides/slide|notesSlides/notesSlide)\d+\.xml|{_CHARTS})")
_XLSX = re.compile(
    rf"xl/(?:sharedStrings\.xml|worksheets/sheet\d+\.xml|comments\d*\.xml|drawings/drawing\d+\.xml|{_CHARTS})"
)


def open_docx(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a Word document: text, headers, footers, notes, comments, text boxes, charts."""
    return _open(data, limits, "word/document.xml", _DOCX)


def open_pptx(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a presentation: slides, speaker's notes, charts."""
    return _open(data, limits, "ppt/presentation.xml", _PPTX)


def open_xlsx(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a workbook: strings in cells, comments, charts; sheet names and headings of tables stay."""
    return _open(data, limits, "xl/workbook.xml", _XLSX)


def _open(data: bytes, limits: DocumentLimits, main: str, names: re.Pattern[str]) -> Opened:
    archive = Archive(data, limits)
    archive.read(main)
    if b"macroEnabled" in archive.read("[Content_Types].xml"):
        raise invalid("must have no macros", main)
    kept = _table_headings(archive, limits)
    parts: list[tuple[str, DecodedFile, SlottedText]] = []
    for name, content in archive.members.items():
        if names.fullmatch(name):
            file = decode_xml(content)
            parts.append((name, file, SlottedText(file.text, _slots(XmlFile(file.text, limits), kept))))

    def write(translations: Sequence[str]) -> bytes:
        changed, position = {}, 0
        for name, file, slotted in parts:
            count = len(slotted.texts)
            rendered = slotted.render(translations[position : position + count])
            changed[name] = file.encode(rendered, references=True)
            position += count
        return archive.replace(changed)

    return [text for _, _, slotted in parts for text in slotted.texts], write


def _table_headings(archive: Archive, limits: DocumentLimits) -> frozenset[str]:
    """Return the names of table columns: Excel finds a workbook damaged where cell and name differ."""
    kept = set()
    for name, content in archive.members.items():
        if re.fullmatch(r"xl/tables/table\d+\.xml", name):
            xml = XmlFile(decode_xml(content).text, limits)
            kept |= {
                escape(xml.attributes(token).get("name", "")) for token in xml.tokens if token.name == "s:tableColumn"
            }
    return frozenset(kept)


def _slots(xml: XmlFile, kept: frozenset[str]) -> list[Slot]:
    """Return a slot for every paragraph with words."""
    slots, index = [], 0
    while index < len(xml.tokens):
        token = xml.tokens[index]
        if token.kind == "open" and token.name in _WORD.skipped:
            index = token.partner
        elif token.kind == "open" and token.name in _DIALECTS:
            fragment = make_fragment(_fields(_Paragraph(xml, index, _DIALECTS[token.name]).atoms, xml))
            if fragment is not None and fragment.text not in kept:
                slots.append(_slot(xml.tokens[index].end, xml.tokens[token.partner].start, fragment))
        index += 1
    return slots


def _slot(start: int, end: int, fragment: Fragment) -> Slot:
    """Return the slot for the inside of a paragraph."""

    def write(translations: Sequence[str], raw: Raw) -> list[Edit]:
        return [(start, end, fragment.write(translations[0], raw))]

    return Slot(end, (DocumentText(fragment.text, "xml"),), write)


class _Paragraph:
    """Cuts the inside of a paragraph into pieces."""

    def __init__(self, xml: XmlFile, index: int, dialect: Dialect) -> None:
        self.xml, self.dialect = xml, dialect
        self.atoms: list[Atom] = []
        tag = xml.raw(xml.tokens[index])
        prefix = re.match(r"<(?:([^\s/>:]+):)?", tag)
        written = f"{prefix[1]}:" if prefix and prefix[1] else ""
        space = ' xml:space="preserve"' if dialect.preserves_space else ""
        self._text_tags = (f"<{written}t{space}>", f"</{written}t>")
        self._inside(index)

    def _inside(self, index: int) -> None:
        """Take the pieces of a paragraph, or of an element around some of them."""
        d, xml = self.dialect, self.xml
        for child in xml.children(index):
            token = xml.tokens[child]
            if token.kind == "open" and token.name == f"{d.prefix}:r":
                self._run(child)
            elif token.kind == "open" and token.name in d.wrappers and (inner := self._inner(child)) is not None:
                close = xml.tokens[xml.close(inner)]
                self.atoms.append(Atom("open", spans=((token.start, self._words_start(inner)),)))
                self._inside(inner)
                self.atoms.append(Atom("close", spans=((close.start, xml.tokens[xml.close(child)].end),)))
            elif token.kind == "open" and token.name == f"{d.prefix}:t":
                self._text(child, Run("", "", "", *self._text_tags))
            elif token.kind not in ("text", "cdata") and token.name not in _LEADING:
                self._opaque(child, None, ordered=True)

    def _words_start(self, index: int) -> int:
        """Return where an element's own properties, which must stay in front, end."""
        end = self.xml.tokens[index].end
        for child in self.xml.children(index):
            if self.xml.tokens[child].name in _LEADING:
                end = self.xml.tokens[self.xml.close(child)].end
        return end

    def _inner(self, index: int) -> int | None:
        """Return the element that holds a wrapper's runs: itself, or the content of a content control."""
        token = self.xml.tokens[index]
        if token.name == "w:fldSimple":
            words = self.xml.attributes(token).get("instr", "").split()
            return index if words[:1] and words[0].upper() in _TRANSLATED_FIELDS else None
        if token.name == "w:sdt":
            inner = [child for child in self.xml.children(index) if self.xml.tokens[child].name == "w:sdtContent"]
            return inner[0] if inner and self.xml.tokens[inner[0]].kind == "open" else None
        return index

    def _run(self, index: int) -> None:
        xml, prefix = self.xml, self.dialect.prefix
        token = xml.tokens[index]
        properties = ""
        children = list(xml.children(index))
        for child in children:
            if xml.tokens[child].name == f"{prefix}:rPr":
                properties = xml.text[xml.tokens[child].start : xml.tokens[xml.close(child)].end]
                break
        key = _NOISE.sub("", properties)
        closing = xml.raw(xml.tokens[token.partner])
        run = Run(xml.raw(token) + properties, closing, "r" + _EMPTY.sub("", key), *self._text_tags)
        for child in children:
            name, kind = xml.tokens[child].name, xml.tokens[child].kind
            if name == f"{prefix}:t":
                self._text(child, run)
            elif name != f"{prefix}:rPr" and kind not in ("text", "cdata"):
                self._opaque(child, run, ordered=name in ("w:fldChar", "w:instrText"))

    def _text(self, index: int, run: Run) -> None:
        if text := self.xml.text_of(index):
            self.atoms.append(Atom("text", run, text))

    def _opaque(self, index: int, run: Run | None, *, ordered: bool) -> None:
        token = self.xml.tokens[index]
        span = (token.start, self.xml.tokens[self.xml.close(index)].end)
        floating = token.name in self.dialect.floating
        self.atoms.append(Atom("opaque", run, spans=(span,), ordered=ordered, floating=floating, name=token.name))


def _fields(atoms: Sequence[Atom], xml: XmlFile) -> list[Atom]:
    """Make of every complete field one piece: around its text if that is prose, and without text otherwise."""
    made: list[Atom] = []
    starts: list[int] = []
    for atom in atoms:
        kind = _field_mark(atom, xml)
        if kind == "begin":
            starts.append(len(made))
        made.append(atom)
        if kind == "end" and starts:
            start = starts.pop()
            made[start:] = _field(made[start:], xml)
    return made


def _field(atoms: list[Atom], xml: XmlFile) -> list[Atom]:
    """Return the pieces of one field, from its begin to its end, joined."""
    depth = 0
    for atom in atoms:
        depth += (atom.kind == "open") - (atom.kind == "close")
        if depth < 0:
            return atoms
    if depth:
        return atoms
    code = "".join(xml.text[a:b] for atom in atoms if atom.name == "w:instrText" for a, b in atom.spans)
    words = re.sub(r"<[^>]*>", "", code).split()
    separate = next((at for at, atom in enumerate(atoms) if _field_mark(atom, xml) == "separate"), None)
    if separate is not None and words[:1] and words[0].upper() in _TRANSLATED_FIELDS:
        opening = Atom("open", inner=tuple(atoms[: separate + 1]))
        return [opening, *atoms[separate + 1 : -1], Atom("close", inner=(atoms[-1],))]
    return [Atom("opaque", inner=tuple(atoms), ordered=True)]


def _field_mark(atom: Atom, xml: XmlFile) -> str:
    """Return ``begin``, ``separate`` or ``end`` for such a piece of a field."""
    if atom.name != "w:fldChar":
        return ""
    start, end = atom.spans[0]
    return xml.attributes(Token("empty", start, end)).get("fldCharType", "")
