"""The shapes of requests and replies of the native face, as they stand in its documentation; no rule of generation.

Ranges of generation options are checked by GenerationConfig alone, so that there is one rule and one wording.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from model import GenerationConfig, InvalidOptionError

_DEFAULTS = GenerationConfig()

TextFormat = Literal["text", "html", "xml", "markdown"]


def _as_list(value: Any) -> Any:
    """Let a single text stand for a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[
    list[str],
    BeforeValidator(_as_list),
    WithJsonSchema({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class StrictRequest(BaseModel):
    """A body that we receive: exact types, no unknown names."""

    model_config = ConfigDict(strict=True, extra="forbid")


class GenerationOptions(StrictRequest):
    """How to decode; names, meanings and defaults are those of GenerationConfig."""

    beam_size: int | None = Field(
        default=None,
        description="Hypotheses kept at each step. Default: 1 with sampling, otherwise 4 or num_hypotheses.",
    )
    num_hypotheses: int = Field(
        default=1, description="How many translations to return; all but the best are alternatives."
    )
    patience: float = Field(
        default=_DEFAULTS.patience, description="Beam search ends after beam_size times this hypotheses."
    )
    length_penalty: float = Field(
        default=_DEFAULTS.length_penalty, description="Exponent of the length that divides a summed log-probability."
    )
    sampling: bool = Field(default=False, description="Draw tokens at random instead of searching; needs beam_size 1.")
    temperature: float = Field(default=_DEFAULTS.temperature, description="Divides the logits before sampling.")
    top_k: int = Field(default=_DEFAULTS.top_k, description="Sample among the k most probable tokens; 0 means all.")
    top_p: float = Field(
        default=_DEFAULTS.top_p, description="Sample among the smallest set that has this probability."
    )
    seed: int | None = Field(default=None, description="The same seed gives the same text.")
    repetition_penalty: float = Field(
        default=_DEFAULTS.repetition_penalty,
        description="Makes tokens that were already generated less likely if above 1.",
    )
    no_repeat_ngram_size: int = Field(
        default=_DEFAULTS.no_repeat_ngram_size, description="Forbid repeating any n-gram of this size; 0 means off."
    )
    min_new_tokens: int = Field(default=_DEFAULTS.min_new_tokens, description="Fewest tokens of a segment.")
    max_new_tokens: int | None = Field(
        default=None, description="Most tokens of a segment; null: max_length_ratio decides."
    )
    max_length_ratio: float = Field(
        default=_DEFAULTS.max_length_ratio, description="Most target tokens per source token of a segment, plus 10."
    )
    banned_tokens: list[int] = Field(default=[], description="Token ids that must not be generated.")
    return_token_scores: bool = Field(default=False, description="Return the log-probability of every token.")

    def config(self) -> GenerationConfig:
        """Return the options as the engine takes them.

        Raises:
            InvalidOptionError: an option is out of its range, named as in the body.
        """
        values = self.model_dump()
        if self.beam_size is None:
            values["beam_size"] = 1 if self.sampling else max(_DEFAULTS.beam_size, self.num_hypotheses)
        values["banned_tokens"] = tuple(self.banned_tokens)
        try:
            return GenerationConfig(**values)
        except InvalidOptionError as exception:
            name = exception.name
            if name == "beam_size" and self.beam_size is None:
                name = "num_hypotheses"  # which is what made the beam too large
            raise InvalidOptionError(f"options.{name}", exception.rule, values[name]) from None


class TextItem(StrictRequest):
    """A text with a language of its own."""

    text: str
    source: str | None = Field(default=None, description="Its language; null: that of the request.")


TextItems = Annotated[
    list[str | TextItem],
    BeforeValidator(_as_list),
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"oneOf": [{"type": "string"}, {"$ref": "#/components/schemas/TextItem"}]}},
            ]
        }
    ),
]


class ProtectOptions(StrictRequest):
    """What must come back as it is; it does so exactly once."""

    presets: list[str] | None = Field(
        default=None, description="Kinds of placeholders and addresses to look for; null: all, []: none."
    )
    patterns: list[str] = Field(default=[], description="Regular expressions of more of them.")
    literals: list[str] = Field(default=[], description="Words or phrases, such as names of products.")


class TermEntry(StrictRequest):
    """A term and its wanted translation, for this request alone."""

    source: str
    target: str


class TranslateRequest(StrictRequest):
    """Texts to translate."""

    texts: TextItems = Field(
        description="One text or a list of texts; an object gives a text a language of its own.",
        examples=[["J'aime les chats."]],
    )
    source: str | None = Field(
        default=None, description='Language of the texts; "auto" or null detects it for each text.'
    )
    target: str | None = Field(default=None, description="Language to translate to.", examples=["en"])
    targets: list[str] | None = Field(default=None, description="Several languages, in the place of target.")
    model: str | None = Field(
        default=None, description="Name of a model of /v1/models; null: the first that has the languages."
    )
    format: TextFormat = Field(default="text", description="How to read the texts.")
    ignore_tags: list[str] = Field(default=[], description="Elements whose content stays as it is.")
    splitting_tags: list[str] = Field(default=[], description="Elements that begin a new block.")
    non_splitting_tags: list[str] = Field(default=[], description="Elements that never begin a new block.")
    splitting: Literal["sentences", "lines", "none"] = Field(
        default="sentences", description="What is translated at once."
    )
    protect: ProtectOptions = Field(default_factory=lambda: ProtectOptions())
    glossaries: list[str] = Field(default=[], description="Ids of glossaries; an earlier one wins.")
    terms: list[TermEntry] = Field(default=[], description="Wanted translations, which win over the glossaries.")
    guard: bool = Field(default=True, description="Decode doubtful segments again, and keep what is better.")
    return_alignment: bool = Field(default=False, description="Return which words stand for which.")
    return_quality: bool = Field(default=False, description="Return how likely each word is right.")
    stream: bool = Field(
        default=False, description="Answer with server-sent events, each segment as soon as it is final."
    )
    target_prefix: str | None = Field(default=None, description="Text that every translation must begin with.")
    deadline_ms: int | None = Field(default=None, description="Give up after this time, in milliseconds.")
    options: GenerationOptions = Field(default_factory=lambda: GenerationOptions())


class DetectRequest(StrictRequest):
    """Texts whose language is wanted."""

    texts: Texts = Field(description="One text or a list of texts.", examples=[["Je t'aime"]])


class DetectedLanguage(BaseModel):
    """A language and how sure the detector is of it."""

    language: str
    confidence: float = Field(ge=0, le=1, description="Between 0 and 1.")


class AlignedWords(BaseModel):
    """A word of the source and a word of the translation that stand for each other, in characters of the segment."""

    source_start: int
    source_end: int
    target_start: int
    target_end: int


class RatedWord(BaseModel):
    """A word of the translation, in characters of the segment's translation, and how likely it is right."""

    start: int
    end: int
    quality: float = Field(ge=0, le=1)


class SegmentReply(BaseModel):
    """A sentence, or a part of a long one, and its translation."""

    unit: int = Field(description="Block of the markup that it belongs to; 0 in plain text.")
    start: int = Field(description="Where it starts in its block's text, in characters (code points).")
    end: int = Field(description="Where it ends: in plain text, text[start:end] is the source.")
    target_start: int = Field(description="Where its translation starts in the block's translation.")
    target_end: int
    source: str
    text: str
    alternatives: list[str] = Field(description="Other translations of it, best first.")
    score: float = Field(description="Mean log-probability of its tokens, as the length penalty has it.")
    token_ids: list[int] | None = Field(default=None, description="Only with return_token_scores.")
    token_scores: list[float] | None = Field(
        default=None, description="Log-probability of each token, end token included."
    )
    alignment: list[AlignedWords] | None = Field(default=None, description="Only with return_alignment.")
    quality: float | None = Field(
        default=None, description="Estimated probability that a word of it is right; only with return_quality."
    )
    words: list[RatedWord] | None = Field(default=None, description="The same for each word.")


class WarningReply(BaseModel):
    """Something about the text that could not be translated normally."""

    code: str
    message: str
    start: int
    end: int
    unit: int


class GlossaryHitReply(BaseModel):
    """A term of a glossary that is in the text, and what became of it."""

    source: str
    target: str
    start: int
    end: int
    status: Literal["used", "inflected", "skipped"]
    reason: str
    glossary: str = Field(description="Id of its glossary; empty for a term of the request.")


class TranslationReply(BaseModel):
    """One translated text."""

    index: int = Field(description="Which of the request's texts it is.")
    text: str
    source: str
    target: str
    via: str | None = Field(
        default=None, description="The language between two models, where no model has the pair; null otherwise."
    )
    detected: DetectedLanguage | None = Field(
        default=None, description="The detected source, if the request left it open."
    )
    alternatives: list[str] = Field(description="Other translations, best first.")
    score: float | None = Field(description="Log-probability per token; null if nothing had to be translated.")
    segments: list[SegmentReply]
    finish_reason: Literal["end", "length", "unchanged"] = Field(
        description='"length": a segment reached its limit; "unchanged": nothing had to be translated.'
    )
    warnings: list[WarningReply]
    quality: float | None = Field(default=None, description="Mean over the words; only with return_quality.")
    glossary_hits: list[GlossaryHitReply]


class Usage(BaseModel):
    """What a request cost."""

    characters: int
    source_tokens: int
    target_tokens: int


class TranslateReply(BaseModel):
    """The translations, in the order of the texts; with several targets, all texts for the first one come first."""

    translations: list[TranslationReply]
    usage: Usage
    model: str


class DetectReply(BaseModel):
    """For each text its possible languages, best first; none for a text without letters."""

    detections: list[list[DetectedLanguage]]


class LanguageReply(BaseModel):
    """A language that can be translated from."""

    code: str
    name: str
    targets: list[str] = Field(description="Codes that it can be translated to.")


class LanguagesReply(BaseModel):
    """All languages of the loaded models."""

    languages: list[LanguageReply]


class LoadModelRequest(StrictRequest):
    """A model to load, or to put in the place of one."""

    path: str = Field(description="Its folder, below the folder of the setting models_directory.", examples=["fr-de"])
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="What to call it; null: its own name. One with this name is swapped.",
    )


class ModelReply(BaseModel):
    """A model."""

    name: str
    languages: list[str]
    source_languages: list[str]
    target_languages: list[str]
    default: bool
    state: Literal["loaded", "loading", "unloading", "unloaded"] = Field(
        description="Whether it is in memory; one that is not is loaded when a request needs it."
    )
    memory_bytes: int = Field(description="Estimated memory of its weights; 0 if that is not known.")
    last_used_at: str | None = Field(description="When a request last had it, in UTC; null before the first.")
    info: dict[str, Any] = Field(description="Facts such as parameters, number format and device.")


class ModelsReply(BaseModel):
    """All models, the default one first."""

    models: list[ModelReply]


class ProblemReply(BaseModel):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, str]]


class LibreTranslateRequest(BaseModel):
    """LibreTranslate's parameters of /translate; only documentation, since its own messages need its own checks."""

    q: str | list[str]
    source: str = Field(examples=["auto"])
    target: str = Field(examples=["en"])
    format: Literal["text", "html"] = "text"
    alternatives: int = Field(default=0, ge=0)
    api_key: str = ""


class LibreTranslateSuggestRequest(BaseModel):
    """LibreTranslate's parameters of /suggest; only documentation."""

    q: str
    s: str
    source: str
    target: str
    api_key: str = ""


class LibreTranslateDetectRequest(BaseModel):
    """LibreTranslate's parameters of /detect; only documentation."""

    q: str | list[str]
    api_key: str = ""
