"""The shapes of documents on the native face, and DeepL's; no rule is checked here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

DocumentState = Literal["queued", "translating", "done", "error"]


class DocumentReply(BaseModel):
    """A document and how far it is."""

    id: str
    name: str = Field(description="File name, without folders.")
    state: DocumentState
    source: str | None = Field(description="Language of its texts; null if there was nothing to tell it by.")
    target: str
    model: str
    characters: int = Field(description="Of all its texts.")
    translated_characters: int = Field(description="Of the texts that are done.")
    seconds_remaining: int | None = Field(description="Estimate from the speed so far; null before there is one.")
    error: str | None = Field(description="Why there is no result.")
    created_at: str = Field(description="In UTC.")
    expires_at: str | None = Field(description="When it will be deleted, once it is over.")
    result: str | None = Field(description="Path of the result, once it is there.")


class DocumentsReply(BaseModel):
    """The documents of the caller's key, the newest first."""

    documents: list[DocumentReply]


class DeepLDocument(BaseModel):
    """What a caller needs to ask for a document."""

    document_id: str
    document_key: str


class DeepLDocumentStatus(BaseModel):
    """How far a document is."""

    document_id: str
    status: DocumentState
    seconds_remaining: int | None = None
    billed_characters: int | None = None
    error_message: str | None = None
    message: str | None = None
