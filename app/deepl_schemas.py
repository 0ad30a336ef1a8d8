"""The shapes of DeepL's requests and replies, as they stand in the documentation; no rule is checked here.

Requests are only documented: DeepL's own messages need their own checks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class DeepLError(BaseModel):
    """An error."""

    message: str
    detail: str | None = Field(default=None, description="Only of glossaries.")


class DeepLTranslateRequest(BaseModel):
    """Parameters of /v2/translate; others are ignored."""

    text: list[str] = Field(examples=[["J'aime les chats."]])
    target_lang: str = Field(examples=["EN-GB"])
    source_lang: str | None = Field(default=None, description="Missing: detected for each text.")
    context: str | None = Field(default=None, description="Accepted, of no effect.")
    split_sentences: Literal["0", "1", "nonewlines"] = Field(
        default="1", description="0: each text is one sentence. nonewlines is the same as 1: line breaks separate."
    )
    preserve_formatting: bool = Field(default=False, description="Accepted, of no effect: formatting is preserved.")
    formality: Literal["default", "more", "less", "prefer_more", "prefer_less"] = Field(
        default="default", description="No language has more and less, so these are refused."
    )
    model_type: Literal["quality_optimized", "prefer_quality_optimized", "latency_optimized"] | None = Field(
        default=None, description="Accepted, of no effect: there is one model for all."
    )
    glossary_id: str | None = Field(default=None, description="Needs source_lang.")
    glossary_ids: list[str] = Field(default=[], max_length=5, description="In order; the first that has a term wins.")
    tag_handling: Literal["xml", "html"] | None = None
    tag_handling_version: Literal["v1", "v2"] | None = Field(default=None, description="Accepted, of no effect.")
    outline_detection: bool = Field(default=True, description="Accepted, of no effect.")
    non_splitting_tags: list[str] = []
    splitting_tags: list[str] = []
    ignore_tags: list[str] = []
    show_billed_characters: bool = Field(default=True, description="Accepted; they are always shown.")


class DeepLTranslation(BaseModel):
    """One translated text."""

    detected_source_language: str
    text: str
    billed_characters: int
    model_type_used: str | None = None


class DeepLTranslateReply(BaseModel):
    """The translations, in the order of the texts."""

    translations: list[DeepLTranslation]


class DeepLLanguage(BaseModel):
    """A language that can be translated from or to."""

    language: str
    name: str
    supports_formality: bool | None = Field(default=None, description="Only of target languages.")


class DeepLV3Language(BaseModel):
    """A language and what can be done with it."""

    lang: str
    name: str
    usable_as_source: bool
    usable_as_target: bool
    status: Literal["stable"] = "stable"
    features: dict[str, dict[str, str]]


class DeepLFeature(BaseModel):
    """A feature, and which of the two languages must have it."""

    name: str
    needs_source_support: bool | None = None
    needs_target_support: bool | None = None


class DeepLResource(BaseModel):
    """A part of the service."""

    name: str
    features: list[DeepLFeature]


class DeepLUsage(BaseModel):
    """What a key has used of its quota this month."""

    character_count: int
    character_limit: int
    start_time: str
    end_time: str


class DeepLLanguagePair(BaseModel):
    """Languages of a dictionary."""

    source_lang: str
    target_lang: str


class DeepLLanguagePairs(BaseModel):
    """Languages that a dictionary may have."""

    supported_languages: list[DeepLLanguagePair]


class DeepLDictionaryRequest(DeepLLanguagePair):
    """A new dictionary."""

    entries: str = Field(examples=["chat\tcat"])
    entries_format: Literal["tsv", "csv"]


class DeepLGlossaryRequest(DeepLDictionaryRequest):
    """A new glossary of one dictionary."""

    name: str


class DeepLGlossary(DeepLLanguagePair):
    """A glossary of one dictionary."""

    glossary_id: str
    name: str
    ready: bool = True
    creation_time: str
    entry_count: int


class DeepLGlossaries(BaseModel):
    """The caller's glossaries of one dictionary."""

    glossaries: list[DeepLGlossary]


class DeepLMultilingualRequest(BaseModel):
    """A new glossary, or changes of one."""

    name: str
    dictionaries: list[DeepLDictionaryRequest]


class DeepLMultilingualUpdate(BaseModel):
    """Changes of a glossary: the entries of its dictionaries are merged."""

    name: str | None = None
    dictionaries: list[DeepLDictionaryRequest] = []


class DeepLDictionary(DeepLLanguagePair):
    """A dictionary without its entries."""

    entry_count: int


class DeepLMultilingualGlossary(BaseModel):
    """A glossary."""

    glossary_id: str
    name: str
    creation_time: str
    dictionaries: list[DeepLDictionary]


class DeepLMultilingualGlossaries(BaseModel):
    """The caller's glossaries."""

    glossaries: list[DeepLMultilingualGlossary]


class DeepLDictionaryEntries(DeepLLanguagePair):
    """A dictionary with its entries."""

    entries: str
    entries_format: Literal["tsv"] = "tsv"


class DeepLEntriesReply(BaseModel):
    """Dictionaries with their entries."""

    dictionaries: list[DeepLDictionaryEntries]
