"""The shapes of the native face's glossaries, as they stand in its documentation; rules of entries are the model's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.schemas import StrictRequest

EntryFormat = Literal["tsv", "csv"]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class DictionaryRequest(StrictRequest):
    """Wanted translations of terms from one language to another."""

    source: str = Field(description="Language of the terms.", examples=["fr"])
    target: str = Field(description="Language of their translations.", examples=["en"])
    entries: list[Pair] | str = Field(
        description="Pairs of a term and its translation, or a text with one entry a line.",
        examples=[[["chat", "cat"]]],
    )
    format: EntryFormat = Field(default="tsv", description="Of entries that are a text.")


class GlossaryRequest(StrictRequest):
    """A new glossary."""

    name: str
    dictionaries: list[DictionaryRequest] = Field(min_length=1, description="One for each pair of languages.")


class GlossaryUpdate(StrictRequest):
    """Changes of a glossary: all of them, or when one is refused, none."""

    name: str | None = Field(default=None, description="The new name; null leaves it.")
    dictionaries: list[DictionaryRequest] = Field(default=[], description="Added, where a pair of languages is new.")
    merge: bool = Field(
        default=True,
        description="Where a pair is not new: add entries and replace those of the same term, or replace all of them.",
    )


class DictionaryReply(BaseModel):
    """A dictionary without its entries."""

    source: str
    target: str
    entry_count: int


class GlossaryReply(BaseModel):
    """A glossary without its entries."""

    id: str
    name: str
    created: datetime
    dictionaries: list[DictionaryReply]


class GlossariesReply(BaseModel):
    """The caller's glossaries, the oldest first."""

    glossaries: list[GlossaryReply]


class DictionaryEntriesReply(BaseModel):
    """A dictionary with its entries."""

    source: str
    target: str
    entries: list[tuple[str, str]]


class GlossaryEntriesReply(BaseModel):
    """The dictionaries of a glossary with their entries."""

    dictionaries: list[DictionaryEntriesReply]
