"""A given text and translation under the lens: scored, continued word by word, or explained; it searches nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.errors import InvalidOptionError, InvalidTextError
from model.explanation import Explanation
from model.generation.alternatives import next_words
from model.generation.forced import force_decode
from model.generation.quality import word_qualities
from model.options import TextOptions
from model.pipeline.markers import MarkedText, mark_source, restore_target
from model.pipeline.preparation import PlainText, PreparedSegment, prepare
from model.pipeline.reading import Reader
from model.text.alignment import WordAlignment, find_words
from model.text.languages import Detection
from model.translation import SegmentTranslation, WordQuality

DEFAULT_ALTERNATIVES = 8
_WHOLE = TextOptions(splitting="none")


@dataclass(frozen=True)
class ScoredToken:
    """One token of a given translation."""

    id: int
    """Number in the vocabulary."""
    piece: str
    """Entry of the vocabulary."""
    start: int
    """Where its characters begin in the translation; for the end token, the translation's end."""
    end: int
    """Where they end."""
    log_prob: float
    """Its natural-logarithm probability, given the source and the tokens before it."""


@dataclass(frozen=True)
class ScoredTranslation:
    """What a model thinks of a given translation."""

    source: str
    """Code of the source language."""
    target: str
    """Code of the target language."""
    detected: Detection | None
    """The detected source language, where none was given."""
    tokens: tuple[ScoredToken, ...]
    """All tokens, the end token included."""
    num_source_tokens: int
    """Tokens that the encoder saw."""
    alignment: WordAlignment | None = None
    """Which words stand for which, where asked for."""
    quality: float | None = None
    """Estimated probability that a word is right, where asked for."""
    words: tuple[WordQuality, ...] = ()
    """The same for each word."""

    @property
    def log_prob(self) -> float:
        """The translation's natural-logarithm probability."""
        return sum(token.log_prob for token in self.tokens)

    @property
    def score(self) -> float:
        """Mean log-probability of a token."""
        return self.log_prob / len(self.tokens)


@dataclass(frozen=True)
class WordAlternative:
    """A word that could come next in a translation."""

    word: str
    """The word; nothing where the translation could end here."""
    probability: float
    """Of exactly this word after the prefix."""
    prefix: str
    """The prefix with the word behind it."""


@dataclass(frozen=True)
class WordAlternatives:
    """The words that could come next in a translation, best first."""

    source: str
    """Code of the source language."""
    target: str
    """Code of the target language."""
    detected: Detection | None
    """The detected source language, where none was given."""
    alternatives: tuple[WordAlternative, ...]


@dataclass(frozen=True)
class ExplainedTranslation:
    """A translation and what the network computes on its way to it."""

    source: str
    """Code of the source language."""
    target: str
    """Code of the target language."""
    detected: Detection | None
    """The detected source language, where none was given."""
    shape: dict[str, int]
    """Sizes of the network, named as in :class:`~model.config.ModelConfig`."""
    explanation: Explanation


def score_translation(
    reader: Reader, text: str, translation: str, detected: Detection | None, *, alignment: bool, quality: bool
) -> ScoredTranslation:
    """Score a given translation by forced decoding, as one segment, whatever sentences it has.

    Args:
        reader: the model's view of the pair of languages.
        text: the source.
        translation: the target.
        detected: the detected source language, to be reported.
        alignment: whether to align the words.
        quality: whether to estimate the words' quality.

    Raises:
        InvalidTextError: one of the two does not fit the model.
    """
    tokenizer, config = reader.tokenizer, reader.network.config
    source_ids = reader.encode_source(text)
    _check_length("text", text, len(source_ids), reader.max_source_length)
    target_ids, spans = tokenizer.encode_with_spans(translation)
    prefix = reader.decoder_prefix
    _check_length("translation", translation, len(prefix) + len(target_ids) + 1, config.max_target_length)
    [decoding] = force_decode(reader.network, [(source_ids, [*prefix, *target_ids])], cross_attention=False)
    log_probs = decoding.token_log_probs[len(prefix) :]  # the language token was no choice
    ids = [*target_ids, config.eos_id]
    places = [*spans, (len(translation), len(translation))]
    tokens = tuple(
        ScoredToken(token_id, piece, start, end, log_prob)
        for token_id, piece, (start, end), log_prob in zip(ids, tokenizer.pieces(ids), places, log_probs, strict=True)
    )
    scored = ScoredTranslation(reader.source, reader.target, detected, tokens, len(source_ids))
    if alignment:
        whole = SegmentTranslation(0, len(text), text, translation, score=0.0)
        examined = reader.examine(whole, MarkedText(text, ()), MarkedText(translation, ()), quality=False)
        scored = dataclasses.replace(scored, alignment=examined.alignment or WordAlignment((), (), ()))
    if not quality:
        return scored
    words = find_words(translation)
    rates = word_qualities(words, spans, log_probs, reader.calibration)
    return dataclasses.replace(
        scored,
        words=tuple(WordQuality(*word, round(rate, 4)) for word, rate in zip(words, rates, strict=True)),
        quality=round(sum(rates) / len(rates), 4) if rates else None,
    )


def find_alternatives(
    reader: Reader, text: str, prefix: str, detected: Detection | None, *, count: int, banned: Sequence[int]
) -> WordAlternatives:
    """Return the words that the model could write after a translation's beginning.

    Args:
        reader: the model's view of the pair of languages.
        text: the source, taken as one segment.
        prefix: the translation up to the word in question; empty for the first one.
        detected: the detected source language, to be reported.
        count: how many words.
        banned: tokens that no translation may have.

    Raises:
        InvalidTextError: the source does not fit the model.
        InvalidRequestError: the prefix does not.
        InvalidOptionError: ``count`` is out of its range.
    """
    segment = _whole_segment(reader, text)
    pieces = segment.pieces()
    marked = mark_source(segment, reader.knows_placeholders and reader.can_mark(segment.text), ())
    source_ids = reader.encode_source(marked.text, marked=bool(marked.spans))
    _check_length("text", text, len(source_ids), reader.max_source_length)
    kept = prefix.rstrip()
    prefix_ids = reader.encode_prefix(kept, pieces if marked.spans else [])
    begins_word = np.array(reader.tokenizer.begins_word)
    found = next_words(reader.network, source_ids, prefix_ids, begins_word, count=count, banned=banned)

    def read(token_ids: Sequence[int]) -> str:
        if not marked.spans:
            return reader.decode(token_ids)
        return restore_target(reader.decode_marked(token_ids), pieces).text

    shown = read(prefix_ids)
    alternatives: dict[str, WordAlternative] = {}
    for each in found:
        grown = read([*prefix_ids, *each.token_ids])
        word = grown[len(shown) :].strip()
        whole = kept + grown[len(shown) :] if grown.startswith(shown) else grown
        if word or not each.token_ids:  # a piece that stands for no character at all is no word
            alternatives.setdefault(word, WordAlternative(word, math.exp(each.log_prob), whole))
    return WordAlternatives(reader.source, reader.target, detected, tuple(alternatives.values()))


def require_two_languages(source: str, target: str) -> None:
    """Raise InvalidOptionError if both languages are the same: there is no translation to look at."""
    if source == target:
        raise InvalidOptionError("target", f"must be another language than the source, which is {source}", target)


def _whole_segment(reader: Reader, text: str) -> PreparedSegment:
    """Return a text as one segment, its placeholders found."""
    prepared = prepare(PlainText(text), reader.source, reader.target, _WHOLE, lambda _: True)
    if len(prepared.segments) != 1:
        rule = "must have words, and no more protected pieces than the model has placeholders"
        raise InvalidTextError("text", rule, text)
    return prepared.segments[0]


def _check_length(name: str, text: str, length: int, limit: int) -> None:
    if length > limit:
        raise InvalidTextError(name, f"must have at most {limit} tokens", text)
