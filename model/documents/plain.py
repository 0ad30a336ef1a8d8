"""Text files, Markdown and HTML: the whole file is one text, whose markup is read elsewhere. Only bytes matter here."""

from __future__ import annotations

from model.documents.document import DocumentFormat, DocumentLimits, DocumentText, Opened, is_translatable
from model.documents.encodings import DecodedFile, decode, decode_html


def open_text(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - one signature for all openers
    """Open a plain text."""
    return _whole(data, decode(data), "text")


def open_markdown(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - as above
    """Open a Markdown text."""
    return _whole(data, decode(data), "markdown")


def open_html(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - as above
    """Open a page; characters that its encoding lacks are written as character references."""
    return _whole(data, decode_html(data), "html")


def _whole(data: bytes, file: DecodedFile, format: DocumentFormat) -> Opened:
    """Make the whole file one text, or none if there is not a letter in it."""
    if not is_translatable(file.text):
        return [], lambda _translations: data
    return [DocumentText(file.text, format)], lambda new: file.encode(new[0], references=format == "html")
