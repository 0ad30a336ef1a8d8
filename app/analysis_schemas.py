"""The shapes of requests and replies that look at one translation: scored, completed, continued, explained."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from app.schemas import AlignedWords, DetectedLanguage, GenerationOptions, RatedWord, StrictRequest, Usage


class LanguagePair(StrictRequest):
    """The languages of a request, and who translates."""

    source: str | None = Field(default=None, description='Language of the text; "auto" or null detects it.')
    target: str = Field(description="Language of the translation.", examples=["en"])
    model: str | None = Field(
        default=None, description="Name of a model of /v1/models; null: the first that has the languages."
    )
    deadline_ms: int | None = Field(default=None, description="Give up after this time, in milliseconds.")


class ScorePair(StrictRequest):
    """A text and a translation of it, whoever wrote it."""

    text: str
    translation: str


class ScoreRequest(LanguagePair):
    """Translations to be scored."""

    pairs: list[ScorePair] = Field(examples=[[{"text": "J'aime les chats.", "translation": "I like cats."}]])
    return_alignment: bool = Field(default=False, description="Return which words stand for which.")
    return_quality: bool = Field(default=False, description="Return how likely each word is right.")


class TokenScore(BaseModel):
    """One token of a translation."""

    id: int
    piece: str
    start: int = Field(description="Where its characters begin in the translation.")
    end: int
    log_prob: float = Field(description="Its natural-logarithm probability, given the source and the tokens before it.")


class ScoreReply(BaseModel):
    """What the model thinks of one translation."""

    index: int = Field(description="Which of the request's pairs it is.")
    source: str
    target: str
    detected: DetectedLanguage | None = Field(description="The detected source, if the request left it open.")
    log_prob: float = Field(description="Natural-logarithm probability of the whole translation.")
    score: float = Field(description="The same for a token, on average.")
    tokens: list[TokenScore] = Field(description="All tokens; the last one is the end token.")
    alignment: list[AlignedWords] | None = Field(description="Only with return_alignment.")
    quality: float | None = Field(description="Mean over the words; only with return_quality.")
    words: list[RatedWord] | None = Field(description="Only with return_quality.")


class ScoresReply(BaseModel):
    """The scores, in the order of the pairs."""

    scores: list[ScoreReply]
    usage: Usage
    model: str


class CompleteRequest(LanguagePair):
    """A translation that was begun."""

    text: str = Field(examples=["J'aime les chats."])
    prefix: str = Field(default="", description="What the translation must begin with.", examples=["I love"])
    options: GenerationOptions = Field(default_factory=lambda: GenerationOptions())


class CompleteReply(BaseModel):
    """The whole translation."""

    text: str = Field(description="The prefix and what follows.")
    source: str
    target: str
    detected: DetectedLanguage | None
    alternatives: list[str] = Field(description="Other translations with this beginning, best first.")
    score: float | None = Field(description="Log-probability per token; null if nothing had to be translated.")
    finish_reason: str
    model: str


class AlternativesRequest(LanguagePair):
    """A place in a translation."""

    text: str = Field(examples=["J'aime les chats."])
    prefix: str = Field(default="", description="The translation up to the place.", examples=["I"])
    num_alternatives: int = Field(default=8, description="How many words to return.")


class AlternativeWord(BaseModel):
    """A word that could stand there."""

    word: str = Field(description="Empty where the translation could end.")
    probability: float = Field(ge=0, le=1)
    prefix: str = Field(description="What to hand to /v1/complete to go on with this word.")


class AlternativesReply(BaseModel):
    """The most probable words, best first."""

    alternatives: list[AlternativeWord]
    source: str
    target: str
    detected: DetectedLanguage | None
    model: str


class ExplainRequest(LanguagePair):
    """A short text whose way through the network is wanted."""

    text: str = Field(examples=["J'aime l'apprentissage automatique."])
    translation: str | None = Field(default=None, description="Its translation; null: the model makes it.")
    options: GenerationOptions = Field(
        default_factory=lambda: GenerationOptions(), description="How to decode where the model translates."
    )
    temperature: float = Field(default=1.0, description="Divides the logits of the reshaped distribution.")
    top_k: int = Field(default=0, description="The reshaped distribution keeps the k most probable; 0 means all.")
    top_p: float = Field(default=1.0, description="It keeps the smallest set that has this probability.")
    num_candidates: int = Field(default=8, description="Candidates to show of each step.")
    num_dimensions: int = Field(default=16, description="First dimensions of vectors to show.")


class ExplainReply(BaseModel):
    """What the network computes, as plain numbers."""

    source: str
    target: str
    detected: DetectedLanguage | None
    model: str
    shape: dict[str, int] = Field(description="Sizes of the network.")
    explanation: dict[str, Any] = Field(
        description="Tokens, vectors, positions, attention weights of every layer and head, and the decoder's steps."
    )
