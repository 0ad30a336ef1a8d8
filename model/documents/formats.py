"""Which formats there are, and which file of this room opens each; that file is imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from model.documents.document import Document, DocumentLimits, check_texts, invalid


class FormatInfo(NamedTuple):
    """What people and protocols call a format."""

    name: str
    media_type: str


_OFFICE = "application/vnd.openxmlformats-officedocument."
_OPEN = "application/vnd.oasis.opendocument."
_RENDERED = {".pdf": (".txt", "text/plain")}
"""Suffix and media type of what is written, where that is not what was read."""
_FORMATS: dict[str, tuple[str, str, str, str]] = {
    ".txt": ("Plain text", "text/plain", "plain", "open_text"),
    ".md": ("Markdown", "text/markdown", "plain", "open_markdown"),
    ".html": ("HTML", "text/html", "plain", "open_html"),
    ".htm": ("HTML", "text/html", "plain", "open_html"),
    ".xhtml": ("XHTML", "application/xhtml+xml", "plain", "open_html"),
    ".json": ("JSON", "application/json", "json_values", "open_json"),
    ".arb": ("Application Resource Bundle", "application/json", "json_values", "open_arb"),
    ".yaml": ("YAML", "application/yaml", "yaml_values", "open_yaml"),
    ".yml": ("YAML", "application/yaml", "yaml_values", "open_yaml"),
    ".srt": ("SubRip subtitles", "application/x-subrip", "subtitles", "open_srt"),
    ".vtt": ("WebVTT subtitles", "text/vtt", "subtitles", "open_vtt"),
    ".ass": ("Advanced SubStation Alpha subtitles", "text/x-ssa", "subtitles", "open_ass"),
    ".ssa": ("SubStation Alpha subtitles", "text/x-ssa", "subtitles", "open_ass"),
    ".po": ("Gettext catalogue", "text/x-gettext-translation", "po", "open_po"),
    ".pot": ("Gettext template", "text/x-gettext-translation-template", "po", "open_po"),
    ".xlf": ("XLIFF", "application/xliff+xml", "xliff", "open_xliff"),
    ".xliff": ("XLIFF", "application/xliff+xml", "xliff", "open_xliff"),
    ".docx": ("Word document", _OFFICE + "wordprocessingml.document", "office", "open_docx"),
    ".pptx": ("PowerPoint presentation", _OFFICE + "presentationml.presentation", "office", "open_pptx"),
    ".xlsx": ("Excel workbook", _OFFICE + "spreadsheetml.sheet", "office", "open_xlsx"),
    ".odt": ("OpenDocument text", _OPEN + "text", "odf", "open_odt"),
    ".odp": ("OpenDocument presentation", _OPEN + "presentation", "odf", "open_odp"),
    ".ods": ("OpenDocument spreadsheet", _OPEN + "spreadsheet", "odf", "open_ods"),
    ".epub": ("EPUB book", "application/epub+zip", "epub", "open_epub"),
    ".pdf": ("PDF (text only)", "application/pdf", "pdf", "open_pdf"),
}
"""Suffix to name, media type, file of this room and function in it."""

DOCUMENT_FORMATS: Mapping[str, FormatInfo] = MappingProxyType(
    {suffix: FormatInfo(name, media_type) for suffix, (name, media_type, _, _) in _FORMATS.items()}
)
"""Every suffix that :func:`open_document` knows, with the format's name for people and its media type."""


def open_document(data: bytes, name: str, limits: DocumentLimits | None = None) -> Document:
    """Open a file by the suffix of its ``name``; ``limits`` are :class:`DocumentLimits` by default.

    Raises:
        InvalidDocumentError: an unknown suffix, or a file that is damaged, unsafe, encrypted or beyond the limits.
    """
    limits = limits or DocumentLimits()
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix in (".docm", ".dotm", ".pptm", ".xlsm", ".potm", ".xltm"):
        raise invalid("must have no macros", name)
    if suffix not in _FORMATS:
        raise invalid(f"must have one of the suffixes {', '.join(sorted(_FORMATS))}", name)
    if len(data) > limits.max_bytes:
        raise invalid(f"must have at most {limits.max_bytes} bytes", len(data))
    _, media_type, home, function = _FORMATS[suffix]
    opener = getattr(importlib.import_module(f"model.documents.{home}"), function)
    try:
        texts, write = opener(data, limits)
    except RecursionError:
        raise invalid("must not be nested so deeply", name) from None
    check_texts(texts, limits)
    return Document(texts, *_RENDERED.get(suffix, (suffix, media_type)), write)
