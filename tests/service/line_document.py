"""A stand-in for the model's file formats: the lines of a text are its texts, and some words make trouble."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fastapi import FastAPI
from starlette.testclient import TestClient

from app.document_store import DocumentRecord
from model import InvalidDocumentError

SUFFIX = ".lines"


@dataclass(frozen=True)
class LineText:
    """A line, or what stands for a fragment of HTML: one with a tag."""

    text: str

    @property
    def format(self) -> Literal["text", "html", "xml", "markdown"]:
        """HTML if there is a tag in it."""
        return "html" if "<" in self.text else "text"


@dataclass(frozen=True)
class LineDocument:
    """Lines with a count before them, so that a rendered file tells itself from its source."""

    texts: Sequence[LineText]
    suffix: str = SUFFIX
    media_type: str = "text/x-lines"

    def render(self, translations: Sequence[str]) -> bytes:
        """Return the translated lines, or fail where one says so."""
        assert len(translations) == len(self.texts)
        if any("UNWRITABLE" in text for text in translations):
            raise InvalidDocumentError("document", "must be writable", "UNWRITABLE")
        return "\n".join([str(len(translations)), *translations]).encode()


@dataclass
class LineReader:
    """Opens documents; counts how often, and may wait."""

    opened: list[str] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    """Waited for by a file that says WAIT."""

    def __call__(self, data: bytes, name: str) -> LineDocument:
        """Open a file, or refuse it."""
        self.opened.append(name)
        text = data.decode()
        if "WAIT" in text:
            assert self.go_on.wait(timeout=60)
        if "BOMB" in text:
            raise InvalidDocumentError("document", "must unpack to at most 1000 bytes", 10**9)
        if "CRASH" in text:
            raise RuntimeError("secret detail")
        return LineDocument([LineText(line) for line in text.split("\n")])


def use_lines(application: FastAPI) -> LineReader:
    """Let an application read lines instead of the model's formats; call it before the application starts."""
    reader = LineReader()
    documents = application.state.service.documents
    documents.open_document, documents.formats = reader, (SUFFIX, ".txt")
    return reader


def wait_until_over(client: TestClient, document_id: str) -> DocumentRecord | None:
    """Wait until a document is done, has failed, or is gone."""
    documents = client.app.state.service.documents  # type: ignore[attr-defined]
    assert client.portal is not None
    record = client.portal.call(documents.find, document_id.lower())
    assert record is not None
    over: DocumentRecord | None = client.portal.call(documents.wait, record)
    return over
