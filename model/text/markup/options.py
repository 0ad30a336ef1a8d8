"""What a caller may say about the elements of a document; nothing is read or decided here."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal

from model.errors import InvalidOptionError

MarkupFormat = Literal["html", "xml", "markdown"]
"""The formats that ``parse_markup`` reads."""

MAX_NAMES = 1000
"""Most names in one option."""
_NAME = re.compile(r"[^\s<>/=\"'&]{1,200}")


@dataclass(frozen=True)
class MarkupOptions:
    """Elements that are treated differently from what their format says.

    Names are those of the document; in HTML and in the HTML of Markdown their case does not matter. A name in several
    options is ignored first, then splits, then does not split.
    """

    ignore_tags: tuple[str, ...] = ()
    """Elements whose content is not translated."""
    splitting_tags: tuple[str, ...] = ()
    """Elements that begin a new unit, and end it."""
    non_splitting_tags: tuple[str, ...] = ()
    """Elements that never do."""

    def __post_init__(self) -> None:
        """Raise ``InvalidOptionError`` for anything that is not a tuple of names."""
        for field in fields(self):
            names = getattr(self, field.name)
            if not isinstance(names, tuple) or len(names) > MAX_NAMES:
                raise InvalidOptionError(field.name, f"must be a tuple of at most {MAX_NAMES} names", names)
            for name in names:
                if not isinstance(name, str) or not _NAME.fullmatch(name):
                    raise InvalidOptionError(field.name, "must hold names of elements", name)
