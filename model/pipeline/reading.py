"""One model's view of text: tokens with markers for one pair of languages, alignment, quality; it decodes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from model.generation.forced import ForcedDecoding, force_decode
from model.generation.quality import Calibration, word_qualities
from model.pipeline.markers import MarkedText
from model.text.alignment import FloatArray, WordAlignment, align_words, piece_attention
from model.text.languages import LanguageDetector
from model.text.tokenizer import MARKERS
from model.text.tokenizer import PLACEHOLDERS as PLACEHOLDER_CHARACTERS
from model.text.tokenizing import TextTokenizer
from model.transformer import Transformer
from model.translation import SegmentTranslation, WordQuality

PLACEHOLDERS = "placeholders"
"""Marker of a model that was trained with placeholder tokens."""
TERMS = "terms"
"""Marker of a model that was trained with term annotations (Dinu et al. 2019)."""


@dataclass(frozen=True)
class Reader:
    """A model, and the languages of one text."""

    network: Transformer
    tokenizer: TextTokenizer
    detector: LanguageDetector
    source: str
    target: str
    markers: frozenset[str]
    calibration: Calibration

    @property
    def knows_placeholders(self) -> bool:
        """Whether the model was trained with placeholder tokens."""
        return PLACEHOLDERS in self.markers

    @property
    def knows_terms(self) -> bool:
        """Whether the model was trained with term annotations."""
        return TERMS in self.markers

    @property
    def max_source_length(self) -> int:
        """Most source tokens that the network takes."""
        return self.network.config.max_source_length

    @property
    def decoder_prefix(self) -> tuple[int, ...]:
        """Tokens that every target of the language begins with."""
        return self.tokenizer.decoder_prefix(self.target)

    @property
    def is_reversible(self) -> bool:
        """Whether the model translates in the other direction too."""
        tokenizer = self.tokenizer
        return self.source in tokenizer.target_languages and self.target in tokenizer.source_languages

    def fits(self, text: str) -> bool:
        """Whether the network can take a text at once."""
        # By characters first, so that a hostile text costs no more than a few passes over it.
        limit = self.max_source_length
        return len(text) <= 16 * limit and len(self.encode_source(text)) <= limit

    def encode_source(self, text: str, *, marked: bool = False) -> list[int]:
        """Return the tokens of a source text, with markers or without."""
        if marked:
            return self.tokenizer.encode_source_marked(text, self.target)
        return self.tokenizer.encode_source(text, self.target, self.source)

    def can_mark(self, text: str) -> bool:
        """Whether markers can be put into a text: it must not have such characters of its own."""
        return not any(marker in text for marker in MARKERS)

    def encode_target(self, text: str) -> list[int]:
        """Return the tokens of a target text."""
        return self.tokenizer.encode_target(text)

    def encode_prefix(self, prefix: str, pieces: Sequence[str]) -> list[int]:
        """Return the tokens of a target's beginning, which may hold some of the source's protected pieces.

        They begin with those that every target of the language begins with.
        """
        begin = self.decoder_prefix
        if not (self.knows_placeholders and pieces):
            return [*begin, *self.tokenizer.encode_target(prefix)]
        for number, piece in enumerate(pieces):
            prefix = prefix.replace(piece, PLACEHOLDER_CHARACTERS[number], 1)
        return [*begin, *self.tokenizer.encode_target_marked(prefix)]

    def placeholder_phrase(self, number: int) -> tuple[int, ...]:
        """Return the tokens that a target must have for a protected piece to be in it."""
        ids = self.tokenizer.encode_target_marked(PLACEHOLDER_CHARACTERS[number])
        return tuple(token_id for token_id in ids if token_id in self.tokenizer.special_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of target tokens."""
        return self.tokenizer.decode(token_ids)

    def decode_marked(self, token_ids: Sequence[int]) -> str:
        """Return the text of target tokens, with markers in it."""
        return self.tokenizer.decode_marked(token_ids)

    def examine(
        self, result: SegmentTranslation, source: MarkedText, target: MarkedText, *, quality: bool
    ) -> SegmentTranslation:
        """Return the result with its word alignment, and the words' quality if asked.

        The target is tokenised anew and scored by forced decoding, so that any target can be examined, whoever wrote
        it; the network translates it back for the alignment in the other direction.

        Args:
            result: a translated segment.
            source: what the model read.
            target: what the model wrote, or what stands for it.
            quality: whether to estimate the words' quality.
        """
        marked, limit = bool(source.spans), self.network.config.max_target_length
        source_ids, source_spans = self.tokenizer.encode_with_spans(source.text, marked=marked, side="source")
        target_ids, target_spans = self.tokenizer.encode_with_spans(target.text, marked=marked)
        pairs = [self._pair(source_ids, target_ids, self.source, self.target)]
        if not target_ids or len(pairs[0][0]) > self.max_source_length or len(pairs[0][1]) >= limit:
            return result
        if self.is_reversible:
            pair = self._pair(target_ids, source_ids, self.target, self.source)
            if len(pair[0]) <= self.max_source_length and len(pair[1]) < limit:
                pairs.append(pair)
        forward, *backward = force_decode(self.network, pairs)
        attention = self._attention(forward, target_ids, source_ids, self.source, self.target)
        reverse = None
        if backward:
            reverse = self._attention(backward[0], source_ids, target_ids, self.target, self.source)
        aligned = align_words(source.text, target.text, source_spans, target_spans, attention, reverse)
        result = dataclasses.replace(result, alignment=_original(aligned, source, target))
        if not quality:
            return result
        log_probs = forward.token_log_probs[len(self.decoder_prefix) :]
        rates = word_qualities(aligned.target_words, target_spans, log_probs, self.calibration)
        words = tuple(
            WordQuality(*target.original(*word), quality=round(rate, 4))
            for word, rate in zip(aligned.target_words, rates, strict=True)
        )
        return dataclasses.replace(result, words=words, quality=round(sum(rates) / len(rates), 4) if rates else None)

    def _pair(
        self, source_ids: Sequence[int], target_ids: Sequence[int], source: str, target: str
    ) -> tuple[list[int], list[int]]:
        """Put the special tokens around the pieces of a source and of a target."""
        framed = self.tokenizer.frame_source(source_ids, target, source)
        return framed, [*self.tokenizer.decoder_prefix(target), *target_ids]

    def _attention(
        self, decoding: ForcedDecoding, target_ids: Sequence[int], source_ids: Sequence[int], source: str, target: str
    ) -> FloatArray:
        """Return the weights (T, S) between pieces alone: special tokens are no part of the texts."""
        assert decoding.cross_attention is not None, "it was asked for"
        leading, prefix = self.tokenizer.num_leading(target, source), len(self.tokenizer.decoder_prefix(target))
        weights = piece_attention(decoding.cross_attention, prefix + len(target_ids))
        return weights[prefix:, leading : leading + len(source_ids)]


def _original(aligned: WordAlignment, source: MarkedText, target: MarkedText) -> WordAlignment:
    """Return the alignment with the spans of what the marked texts stand for."""
    return dataclasses.replace(
        aligned,
        source_words=tuple(source.original(*word) for word in aligned.source_words),
        target_words=tuple(target.original(*word) for word in aligned.target_words),
    )
