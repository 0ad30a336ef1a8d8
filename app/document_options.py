"""The options of a document's texts as JSON and back, glossaries included; it says nothing of what they mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson

from model import Glossary, MarkupOptions, Protection, TextOptions


def write_options(options: TextOptions) -> str:
    """Return options as JSON, with the glossaries' entries, so that they stay what they were for this document."""
    kept = {name: asdict(getattr(options, name)) for name in ("markup", "protection")}
    glossaries = [asdict(glossary) for glossary in options.glossaries]
    return orjson.dumps(
        {**kept, "glossaries": glossaries, "splitting": options.splitting, "guard": options.guard}
    ).decode()


def read_options(text: str) -> TextOptions:
    """Return the options that :func:`write_options` wrote."""
    kept: dict[str, Any] = orjson.loads(text)
    return TextOptions(
        markup=MarkupOptions(**{name: tuple(values) for name, values in kept["markup"].items()}),
        protection=Protection(**{name: tuple(values) for name, values in kept["protection"].items()}),
        glossaries=tuple(
            Glossary(**{**glossary, "entries": tuple(map(tuple, glossary["entries"]))})
            for glossary in kept["glossaries"]
        ),
        splitting=kept["splitting"],
        guard=kept["guard"],
    )
