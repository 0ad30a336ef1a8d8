"""One model's view of text: tokens with markers for one pair of languages, word alignment, quality; it decodes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.pipeline.markers import MarkedText
from model.text.languages import LanguageDetector
from model.text.tokenizer import Tokenizer
from model.transformer import Transformer
from model.translation import SegmentTranslation

PLACEHOLDERS = "placeholders"
"""Marker of a model that was trained with placeholder tokens."""
TERMS = "terms"
"""Marker of a model that was trained with term annotations (Dinu et al. 2019)."""


@dataclass(frozen=True)
class Reader:
    """A model, and the languages of one text."""

    network: Transformer
    tokenizer: Tokenizer
    detector: LanguageDetector
    source: str
    target: str
    markers: frozenset[str]

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

    def fits(self, text: str) -> bool:
        """Whether the network can take a text at once."""
        # By characters first, so that a hostile text costs no more than a few passes over it.
        limit = self.max_source_length
        return len(text) <= 16 * limit and len(self.tokenizer.encode_source(text, self.target)) <= limit

    def encode_source(self, marked: str) -> list[int]:
        """Return the tokens of a source text with markers."""
        return self.tokenizer.encode_source(marked, self.target)

    def encode_target(self, text: str) -> list[int]:
        """Return the tokens of a target text."""
        return self.tokenizer.encode_target(text)

    def encode_prefix(self, prefix: str, pieces: Sequence[str]) -> list[int]:
        """Return the tokens of a target's beginning, which may hold some of the source's protected pieces."""
        return self.tokenizer.encode_target(prefix)

    def placeholder_phrase(self, number: int, piece: str) -> tuple[int, ...]:
        """Return the tokens that a target must have for a protected piece to be in it."""
        return tuple(self.tokenizer.encode_target(piece))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of target tokens."""
        return self.tokenizer.decode(token_ids)

    def decode_marked(self, token_ids: Sequence[int]) -> str:
        """Return the text of target tokens, with markers in it."""
        return self.tokenizer.decode(token_ids)

    def examine(
        self, result: SegmentTranslation, source: MarkedText, target: MarkedText, *, quality: bool
    ) -> SegmentTranslation:
        """Return the result with its word alignment, and the words' quality if asked."""
        return result
