"""A paragraph with runs, links and other elements inside, as one text with numbered tags, and back to its own XML.

It knows neither Word nor any other format: those say what the pieces of a paragraph are. What a translator sees is
``Hello <r1>world</r1><x2/>!``: ``r`` is text with properties of its own, ``w`` an element around text (a link), ``x``
something without text. What stands before the first and after the last words is not shown at all and stays there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from model.documents.document import Raw, invalid, is_translatable
from model.documents.xml_tokens import escape, unescape

Span = tuple[int, int]
_TAG = re.compile(r"<(/?)([rwx])(\d+)\s*(/?)>")


@dataclass(frozen=True)
class Run:
    """What is written around a piece of text."""

    opening: str
    """Start tag and properties, as in the file."""
    closing: str
    key: str
    """Runs with equal keys look the same to a reader."""
    text_opening: str = ""
    text_closing: str = ""


PLAIN = Run("", "", "")
"""Text that stands directly in its paragraph."""


@dataclass(frozen=True)
class Atom:
    """A piece of a paragraph: text, an opaque element, or the opening or closing of an element around other pieces."""

    kind: Literal["text", "opaque", "open", "close"]
    run: Run | None = None
    """The run around the piece; an opaque element may stand between runs and has none then."""
    text: str = ""
    spans: tuple[Span, ...] = ()
    """Places in the file of what is kept; of one element, or of several that stay together."""
    ordered: bool = False
    """Beginnings and ends of ranges, which must not change places with one another."""
    floating: bool = False
    """Without a place among the words (a mark of the spelling checker): moves to the paragraph's end."""
    name: str = ""
    inner: tuple[Atom, ...] = ()
    """Instead of ``spans``: pieces that stay together."""


@dataclass
class Fragment:
    """A paragraph's text with numbered tags, and what each number stands for."""

    text: str = ""
    base: Run = PLAIN
    runs: dict[int, Run] = field(default_factory=dict)
    opaque: dict[int, list[Atom]] = field(default_factory=dict)
    around: dict[int, tuple[Atom, Atom]] = field(default_factory=dict)
    before: list[Atom] = field(default_factory=list)
    after: list[Atom] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """There are no tags."""
        return not (self.runs or self.opaque or self.around)

    def write(self, translation: str, raw: Raw) -> str:
        """Return the paragraph's XML with ``translation``, whose tags are those of :attr:`text`, inside.

        Raises:
            InvalidDocumentError: other tags, tags not nested, or characters that XML does not have.
        """
        pieces = _parse(translation)
        sent, received = (
            Counter(piece for piece in each if isinstance(piece, tuple)) for each in (_parse(self.text), pieces)
        )
        if sent != received:
            raise invalid("must get back the tags of its texts, each exactly once", translation)
        writer = _Writer(raw)
        writer.atoms(self.before)
        ordered = iter(sorted(n for n, atoms in self.opaque.items() if any(atom.ordered for atom in atoms)))
        stack: list[Run] = [self.base]
        for piece in pieces:
            if isinstance(piece, str):
                writer.text(stack[-1], piece)
                continue
            closing, letter, number = piece
            if letter == "x":
                is_ordered = any(atom.ordered for atom in self.opaque[number])
                writer.atoms(self.opaque[next(ordered) if is_ordered else number])
            elif letter == "w":
                writer.atoms([self.around[number][closing]])
            elif closing:
                stack.pop()
            else:
                stack.append(self.runs[number])
        writer.atoms(self.after)
        return writer.finish()


class _Writer:
    """Writes pieces one after another and opens and closes runs between them."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._written: list[str] = []
        self._run: Run | None = None

    def _enter(self, run: Run | None) -> None:
        if self._run is not None and (run is None or run.key != self._run.key):
            self._written.append(self._run.closing)
            self._run = None
        if run is not None and self._run is None:
            self._written.append(run.opening)
            self._run = run

    def text(self, run: Run, text: str) -> None:
        if text:
            self._enter(run)
            self._written += [run.text_opening, escape(text), run.text_closing]

    def atoms(self, atoms: Sequence[Atom]) -> None:
        for atom in atoms:
            if atom.inner:
                self.atoms(atom.inner)
            elif atom.kind == "text":
                self.text(atom.run or PLAIN, atom.text)
            else:
                self._enter(atom.run)
                self._written += [self._raw(start, end) for start, end in atom.spans]

    def finish(self) -> str:
        self._enter(None)
        return "".join(self._written)


def make_fragment(atoms: Sequence[Atom]) -> Fragment | None:
    """Return the fragment for a paragraph's pieces, or None if there is nothing to translate."""
    fragment = Fragment()
    floating = [atom for atom in atoms if atom.floating]
    atoms = _trimmed([atom for atom in atoms if not atom.floating], fragment)
    fragment.after = [*fragment.after, *floating]
    if not is_translatable("".join(atom.text for atom in atoms if atom.kind == "text")):
        return None
    _name_pieces(atoms, fragment)
    return fragment


def _trimmed(atoms: Sequence[Atom], fragment: Fragment) -> Sequence[Atom]:
    """Take what stands before the first and after the last words, and elements around all of them, out of the text."""
    first, last = 0, len(atoms)
    while first < last:
        if atoms[first].kind == "opaque":
            first += 1
        elif atoms[last - 1].kind == "opaque":
            last -= 1
        elif atoms[first].kind == "open" and _closing(atoms, first) == last - 1:
            first, last = first + 1, last - 1
        else:
            break
    fragment.before, fragment.after = list(atoms[:first]), list(atoms[last:])
    return atoms[first:last]


def _closing(atoms: Sequence[Atom], index: int) -> int:
    """Return the index of the piece that closes the element opened at ``index``."""
    depth = 0
    for position in range(index, len(atoms)):
        depth += (atoms[position].kind == "open") - (atoms[position].kind == "close")
        if depth == 0:
            return position
    raise invalid("must have elements that close inside their paragraph", atoms[index].name)


def _name_pieces(atoms: Sequence[Atom], fragment: Fragment) -> None:
    """Give every piece its tag and write the text."""
    lengths: Counter[str] = Counter()
    first: dict[str, Run] = {}
    for atom in atoms:
        if atom.kind == "text" and atom.run is not None:
            lengths[atom.run.key] += len(atom.text)
            first.setdefault(atom.run.key, atom.run)
    base = max(lengths, key=lambda key: lengths[key])
    fragment.base = first[base]
    written: list[str] = []
    opened: list[tuple[int, Atom]] = []
    current: tuple[int, str] | None = None
    waiting: list[Atom] = []
    number = 0

    def flush() -> None:
        nonlocal number
        if waiting:
            number += 1
            fragment.opaque[number] = list(waiting)
            written.append(f"<x{number}/>")
            waiting.clear()

    def leave() -> None:
        nonlocal current
        if current is not None:
            written.append(f"</r{current[0]}>")
            current = None

    for atom in atoms:
        if atom.kind == "opaque":
            waiting.append(atom)
        elif atom.kind == "text":
            assert atom.run is not None
            key = atom.run.key
            if current is not None and key != current[1]:
                leave()
            flush()
            if current is None and key != base:
                number += 1
                fragment.runs[number] = atom.run
                current = (number, key)
                written.append(f"<r{number}>")
            written.append(_escape(atom.text))
        else:
            leave()
            flush()
            if atom.kind == "open":
                number += 1
                opened.append((number, atom))
                written.append(f"<w{number}>")
            else:
                closed, opening = opened.pop()
                fragment.around[closed] = (opening, atom)
                written.append(f"</w{closed}>")
    leave()
    flush()
    fragment.text = "".join(written)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _parse(translation: str) -> list[str | tuple[int, str, int]]:
    """Cut a translation into texts and tags (1 for a closing one, letter, number); tags must nest."""
    pieces: list[str | tuple[int, str, int]] = []
    stack: list[tuple[str, str]] = []
    position = 0
    for found in _TAG.finditer(translation):
        pieces.append(_plain(translation[position : found.start()]))
        position = found.end()
        closing, letter, number, empty = found.groups()
        if letter == "x" and not empty:
            raise invalid("must get back empty tags as empty tags", found[0])
        if letter != "x" and empty:
            pieces += [(0, letter, int(number)), (1, letter, int(number))]
            continue
        if closing:
            if not stack or stack.pop() != (letter, number):
                raise invalid("must get back tags that nest", translation)
        elif letter != "x":
            stack.append((letter, number))
        pieces.append((int(bool(closing)), letter, int(number)))
    pieces.append(_plain(translation[position:]))
    if stack:
        raise invalid("must get back tags that nest", translation)
    return pieces


def _plain(text: str) -> str:
    """Return the characters of a text between tags."""
    if "<" in text:
        raise invalid("must get back the tags of its texts, each exactly once", text)
    try:
        return unescape(text)
    except ValueError:
        raise invalid("must get back well-formed XML texts", text) from None
