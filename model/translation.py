"""The result of translating one text; how it is made is the pipeline's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.text.alignment import WordAlignment
from model.text.glossary import GlossaryHit
from model.text.guard import FindingCode
from model.text.languages import Detection

WarningCode = Literal["cut", "length", "decoded_again", "pieces"] | FindingCode
"""A sentence was too long and cut; its translation reached the token limit; was decoded again with other settings; was
put together from pieces around what must stay as it is; or the guard still doubts it, see
:class:`~model.text.guard.Finding`."""


@dataclass(frozen=True)
class TranslationWarning:
    """A part of the text that could not be translated normally."""

    code: WarningCode
    """What happened."""
    message: str
    """The same for people."""
    start: int
    """Where the part begins in its unit's text, in characters; a plain text is one unit."""
    end: int
    """Where it ends."""
    unit: int = 0
    """Index of the unit: 0 in plain text, one a block of markup."""


@dataclass(frozen=True)
class WordQuality:
    """How likely one word of a translation is right."""

    start: int
    """Where it begins in the segment's translation, in characters."""
    end: int
    """Where it ends."""
    quality: float
    """Estimated probability that the word is right, from 0 to 1."""


@dataclass(frozen=True)
class SegmentTranslation:
    """One sentence, or a piece of a long one, and its translation."""

    start: int
    """Where it begins in its unit's text, in characters; a plain text is one unit."""
    end: int
    """Where it ends: ``unit_text[start:end] == source``."""
    source: str
    """The source."""
    text: str
    """The translation; equal to the source where there was nothing to translate, such as digits alone."""
    score: float
    """Score of the best hypothesis, see :class:`~model.generation.hypothesis.Hypothesis`; 0 if nothing was decoded."""
    token_ids: tuple[int, ...] = ()
    """Its target tokens, without start and end tokens."""
    token_scores: tuple[float, ...] = ()
    """Log-probability of each token, and of the end token, where the request asked for them."""
    alternatives: tuple[str, ...] = ()
    """The other hypotheses' texts, best first."""
    finish_reason: Literal["end", "length"] = "end"
    """Whether the model ended the segment, or its token limit did."""
    unit: int = 0
    """Index of its unit: 0 in plain text, one a block of markup."""
    target_start: int = 0
    """Where the translation begins in the unit's translation, in characters."""
    target_end: int = 0
    """Where it ends."""
    log_prob: float = 0.0
    """Summed log-probability of the tokens."""
    num_tokens: int = 0
    """Tokens that were decoded for it, the end token included; 0 if it was not decoded."""
    num_source_tokens: int = 0
    """Tokens that the encoder saw."""
    protected: tuple[tuple[int, int, int], ...] = ()
    """(start, end) in ``text`` of what was kept as it is, and which of the source's protected spans it is."""
    alignment: WordAlignment | None = None
    """Which words stand for which, where the request asked for it."""
    alternative_alignments: tuple[WordAlignment | None, ...] = ()
    """The same of each alternative, where inline markup must be placed in it."""
    quality: float | None = None
    """Estimated probability that a word of it is right, where the request asked for it."""
    words: tuple[WordQuality, ...] = ()
    """The same for each word."""
    glossary_hits: tuple[GlossaryHit, ...] = ()
    """What became of the glossary's terms in it; offsets in the unit's text."""
    warnings: tuple[TranslationWarning, ...] = ()
    """What went wrong, or nearly."""


@dataclass(frozen=True)
class Translation:
    """One translated text."""

    text: str
    """The translation; everything between segments is as in the source."""
    source: str
    """Code of the source language."""
    target: str
    """Code of the target language."""
    detected: Detection | None
    """The detected source language, where none was given and the text has letters."""
    segments: tuple[SegmentTranslation, ...]
    """The translated parts, in order."""
    alternatives: tuple[str, ...]
    """Other translations of the whole text, best first, each different from ``text``."""
    score: float
    """Mean log-probability of a target token; 0 if nothing was decoded."""
    finish_reason: Literal["end", "length"]
    """``"length"`` if the token limit ended any segment."""
    warnings: tuple[TranslationWarning, ...]
    """Parts that could not be translated normally."""
    source_tokens: int
    """Tokens that the encoder saw."""
    target_tokens: int
    """Tokens that were decoded for the best hypotheses, end tokens included."""
    glossary_hits: tuple[GlossaryHit, ...] = ()
    """The glossary's terms in the source: used, or skipped and why."""
    quality: float | None = None
    """Estimated probability that a word of the translation is right, where the request asked for it."""
