"""The text of PDF files as paragraphs; a translation is a plain text, for a PDF file cannot be written again."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from model.documents.document import DocumentLimits, DocumentText, Opened, invalid, is_translatable
from model.errors import InvalidDocumentError

_ENDS = re.compile("[.!?:;\u2026\u3002\uff01\uff1f][\"'\u201d\u2019\u00bb)\\]]*$")
_HYPHEN = re.compile(r"\w[-\u00ad\u2010]$")
_BULLET = re.compile(r"(?:[-\u2013\u2014\u2022\u25aa\u25e6*]|\(?\d{1,3}[.)])\s")
_SHORT = 0.75
"""A line of less than this part of the page's longest, and with the end of a sentence, ends a paragraph."""


def open_pdf(data: bytes, limits: DocumentLimits) -> Opened:
    """Open a PDF file; its paragraphs are the texts, and rendering returns them in UTF-8 with blank lines between.

    Raises:
        InvalidDocumentError: damaged, encrypted, without any text (a scan), or beyond the limits.
    """
    paragraphs = make_paragraphs(_read_pages(data, limits))
    if not paragraphs:
        raise invalid("must have text, not only pictures of it", f"{len(data)} bytes")
    texts = [DocumentText(paragraph) for paragraph in paragraphs if is_translatable(paragraph)]

    def write(translations: Sequence[str]) -> bytes:
        new = iter(translations)
        written = [next(new) if is_translatable(paragraph) else paragraph for paragraph in paragraphs]
        try:
            return ("\n\n".join(written) + "\n").encode()
        except UnicodeEncodeError as error:
            raise invalid("must get translations without lone surrogates", error.object[error.start]) from None

    return texts, write


def _read_pages(data: bytes, limits: DocumentLimits) -> list[str]:
    """Return the text of every page, lines as they are on the page."""
    from pypdf import PdfReader

    steps = 0

    def count(*_operation: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > limits.max_elements:
            raise invalid(f"must have at most {limits.max_elements} drawing operations", steps)

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted:
            raise invalid("must not be encrypted", "/Encrypt")
        if len(reader.pages) > limits.max_pages:
            raise invalid(f"must have at most {limits.max_pages} pages", len(reader.pages))
        pages: list[str] = []
        unpacked = characters = 0
        for page in reader.pages:
            contents = page.get_contents()
            unpacked += len(contents.get_data()) if contents is not None else 0
            if unpacked > limits.max_unpacked_bytes:
                raise invalid(f"must have at most {limits.max_unpacked_bytes} bytes unpacked", unpacked)
            text = page.extract_text(visitor_operand_before=count)
            if steps > limits.max_elements:  # inside a form, the library swallows the error
                raise invalid(f"must have at most {limits.max_elements} drawing operations", steps)
            pages.append(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
            characters += len(pages[-1])
            if characters > limits.max_characters:
                raise invalid(f"must have at most {limits.max_characters} characters of text", characters)
    except InvalidDocumentError:
        raise
    except Exception as error:  # a damaged file makes the library raise errors of every kind
        raise invalid(f"must be an undamaged PDF file ({type(error).__name__})", data[:8]) from None
    return pages


def make_paragraphs(pages: Sequence[str]) -> list[str]:
    """Join the lines of pages into paragraphs.

    A paragraph ends at a blank line, before an item of a list, and after a line that ends a sentence and is short. A
    hyphen at the end of a line goes if the next line begins with a small letter. A paragraph may go on on the next
    page.
    """
    paragraphs: list[str] = []
    for page in pages:
        lines = [line.strip() for line in page.replace("\0", "").split("\n")]
        longest = max(map(len, lines), default=0)
        is_first, ended = True, True
        for line in lines:
            if not line:
                ended = True
                continue
            goes_on = bool(paragraphs) and not _ENDS.search(paragraphs[-1]) and line[0].islower()
            if paragraphs and (goes_on if is_first else not ended and not _BULLET.match(line)):
                paragraphs[-1] = _join(paragraphs[-1], line)
            else:
                paragraphs.append(line)
            is_first, ended = False, _ENDS.search(line) is not None and len(line) < _SHORT * longest
    return paragraphs


def _join(before: str, line: str) -> str:
    """Join two lines of a paragraph."""
    if _HYPHEN.search(before) and line[0].islower():
        return before[:-1] + line
    return f"{before} {line}"
