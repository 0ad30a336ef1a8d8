"""Documents with markup: their translatable text out, and translations back in with every tag in its place."""

from __future__ import annotations

from model.text.markup.document import MarkupDocument, parse_markup
from model.text.markup.options import MarkupFormat, MarkupOptions
from model.text.markup.units import Inline, TargetSegment, Unit

__all__ = ["Inline", "MarkupDocument", "MarkupFormat", "MarkupOptions", "TargetSegment", "Unit", "parse_markup"]
