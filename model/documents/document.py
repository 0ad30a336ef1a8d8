"""What an opened document offers: its texts, and its bytes again with other texts in them. It knows no file format."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from model.errors import ConfigurationError, InvalidDocumentError

DocumentFormat = Literal["text", "html", "xml", "markdown"]
Edit = tuple[int, int, str]
"""Start, end and replacement of a piece of a decoded file."""
Raw = Callable[[int, int], str]
"""Returns a piece of a decoded file, with the edits inside it already made."""


@dataclass(frozen=True)
class DocumentText:
    """A text of a document that is to be translated, and the markup in which the translation must come back."""

    text: str
    format: DocumentFormat = "text"
    """``xml`` is a fragment without a root, such as ``Hello <r1>world</r1><x2/>``."""


@dataclass(frozen=True)
class DocumentLimits:
    """What a document may be at most; more is refused before it is read, or as soon as it shows."""

    max_bytes: int = 20 * 2**20
    """Bytes of the file."""
    max_unpacked_bytes: int = 200 * 2**20
    """Bytes of all members of an archive together, unpacked."""
    max_members: int = 5_000
    """Files in an archive."""
    max_ratio: int = 200
    """Bytes of an unpacked member for each packed one; small members may exceed it."""
    max_elements: int = 1_000_000
    """Tags, texts and comments of one XML file; nodes of one YAML file."""
    max_depth: int = 200
    """Elements inside one another."""
    max_texts: int = 100_000
    """Texts to translate."""
    max_characters: int = 5_000_000
    """Characters of all those texts, and of a decoded plain file."""
    max_pages: int = 2_000
    """Pages of a PDF file."""

    def __post_init__(self) -> None:
        """Check every limit.

        Raises:
            ConfigurationError: a limit is not positive.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(field.name, "must be a positive integer", value)


class Document:
    """A file, opened: :attr:`texts` to translate, and :meth:`render` to write it again with their translations."""

    def __init__(
        self,
        texts: Sequence[DocumentText],
        suffix: str,
        media_type: str,
        write: Callable[[Sequence[str]], bytes],
    ) -> None:
        self.texts = tuple(texts)
        """What is to be translated, in an order that stays the same for the same bytes."""
        self.suffix = suffix
        """The rendered file's suffix with its dot."""
        self.media_type = media_type
        """The rendered file's media type."""
        self._write = write

    def render(self, translations: Sequence[str]) -> bytes:
        """Return the file with ``translations`` in the places of :attr:`texts`, one for each.

        Everything else stays as it is, byte for byte (inside an archive: every member). A translation that equals its
        text changes nothing, except in formats that keep source and target side by side, where it becomes the target.

        Raises:
            InvalidDocumentError: a translation has characters that the file's encoding or format cannot hold, or other
                tags than its text.
        """
        if len(translations) != len(self.texts):
            raise invalid(f"must get {len(self.texts)} translations", len(translations))
        for translation in translations:
            if not isinstance(translation, str):
                raise invalid("must get strings as translations", translation)
        return self._write(translations)


Opened = tuple[Sequence[DocumentText], Callable[[Sequence[str]], bytes]]
"""What the opener of a format returns: the texts, and the function that writes the file with their translations."""


@dataclass(frozen=True)
class Slot:
    """A place in a decoded file whose texts are translated together."""

    end: int
    """Slots stand in the order of their ends, so that inner ones come before those around them."""
    texts: tuple[DocumentText, ...]
    write: Callable[[Sequence[str], Raw], list[Edit]]
    """Returns the edits for translations, in order."""
    bilingual: bool = False
    """Source and target stand side by side, so the target is written even where it equals the source."""


class SlottedText:
    """A decoded file with its slots."""

    def __init__(self, text: str, slots: Iterable[Slot]) -> None:
        self.text = text
        self.slots = sorted(slots, key=lambda slot: slot.end)

    @property
    def texts(self) -> list[DocumentText]:
        """The texts of all slots."""
        return [text for slot in self.slots for text in slot.texts]

    def render(self, translations: Sequence[str]) -> str:
        """Return the decoded file with ``translations`` written into the slots."""
        edits: list[Edit] = []

        def raw(start: int, end: int) -> str:
            first = last = len(edits)
            while first and edits[first - 1][0] >= start:
                first -= 1
                if edits[first][1] > end:
                    last = first
            return splice(self.text, edits[first:last], start, end)

        position = 0
        for slot in self.slots:
            mine = translations[position : position + len(slot.texts)]
            position += len(slot.texts)
            if slot.bilingual or any(new != old.text for new, old in zip(mine, slot.texts, strict=True)):
                made = slot.write(mine, raw)
                while made and edits and edits[-1][0] >= made[0][0]:
                    edits.pop()  # inner edits, which the outer one has taken in
                edits += made
        return splice(self.text, edits, 0, len(self.text))


def splice(text: str, edits: Iterable[Edit], start: int, end: int) -> str:
    """Return ``text[start:end]`` with ``edits``, which are in order and do not overlap, made."""
    pieces = []
    for edit_start, edit_end, replacement in edits:
        pieces += [text[start:edit_start], replacement]
        start = edit_end
    return "".join([*pieces, text[start:end]])


def is_translatable(text: str) -> bool:
    """Tell whether there is a letter in ``text``; numbers, dates in digits and symbols need no translation."""
    return any(unicodedata.category(character)[0] == "L" for character in text)


def invalid(rule: str, value: object) -> InvalidDocumentError:
    """Return the error of this room: ``document`` breaks ``rule``."""
    return InvalidDocumentError("document", rule, value)


def check_texts(texts: Sequence[DocumentText], limits: DocumentLimits) -> None:
    """Raise InvalidDocumentError if there are more texts or characters than ``limits`` allow."""
    if len(texts) > limits.max_texts:
        raise invalid(f"must have at most {limits.max_texts} texts", len(texts))
    characters = sum(len(text.text) for text in texts)
    if characters > limits.max_characters:
        raise invalid(f"must have at most {limits.max_characters} characters of text", characters)
