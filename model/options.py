"""What a caller may ask of one text beside its languages and how it is decoded; nothing here is carried out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from model.errors import InvalidOptionError
from model.text.glossary import Glossary
from model.text.markup.options import MarkupOptions
from model.text.protection import Protection

TextFormat = Literal["text", "html", "xml", "markdown"]
Splitting = Literal["sentences", "lines", "none"]

MAX_GLOSSARIES = 5
"""Glossaries of one request; where two have the same entry, the first one's counts."""


@dataclass(frozen=True)
class TextOptions:
    """How one text is read, what of it must survive, and what is reported beside the translation.

    Raises:
        InvalidOptionError: an option is out of its range.
    """

    format: TextFormat = "text"
    """What the text is: plain, or markup of which only the words are translated."""
    markup: MarkupOptions = field(default_factory=MarkupOptions)
    """Which elements of markup are left alone, split or not."""
    protection: Protection = field(default_factory=Protection)
    """What survives as it is: placeholders, addresses, and what the caller names."""
    glossaries: tuple[Glossary, ...] = ()
    """Wanted translations of terms; an earlier glossary wins."""
    splitting: Splitting = "sentences"
    """What is translated at once: a sentence, a line, or the whole text."""
    guard: bool = True
    """Decode doubtful segments again with other settings, and keep what is better."""
    alignment: bool = False
    """Also return which words of the translation stand for which words of the source."""
    quality: bool = False
    """Also return how likely each word of the translation is right."""

    def __post_init__(self) -> None:
        for name, kind in (("format", TextFormat), ("splitting", Splitting)):
            allowed, value = get_args(kind), getattr(self, name)
            if value not in allowed:
                raise InvalidOptionError(name, f"must be one of {', '.join(allowed)}", value)
        num_glossaries = len({glossary.id for glossary in self.glossaries})  # each may have several language pairs
        if num_glossaries > MAX_GLOSSARIES:
            raise InvalidOptionError("glossaries", f"must be at most {MAX_GLOSSARIES}", num_glossaries)
