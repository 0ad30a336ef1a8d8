"""What the pipeline needs of a tokeniser, whichever model it belongs to; nothing is tokenised here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from model.text.offsets import Span

Side = Literal["source", "target"]
"""Which of a model's two languages a text is in: some models have a vocabulary for each."""


class TextTokenizer(Protocol):
    """Text to token ids and back, with the special tokens by which a model knows its languages."""

    vocab_size: int
    pad_id: int
    unk_id: int
    bos_id: int
    eos_id: int
    source_languages: tuple[str, ...]
    """Codes of the languages that texts may be in."""
    target_languages: tuple[str, ...]
    """Codes of the languages that they may become."""
    languages: tuple[str, ...]
    """Codes of those in either, each once."""

    @property
    def serialized(self) -> bytes:
        """Everything that it consists of, as bytes."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text, and the unknown token's."""

    @property
    def begins_word(self) -> tuple[bool, ...]:
        """For each id, whether a text's word never goes on with it."""

    def save(self, folder: Path) -> None:
        """Write its files into a checkpoint's folder."""

    def encode_source(self, text: str, target: str, source: str | None = None) -> list[int]:
        """Return the tokens of a source text, special tokens included."""

    def frame_source(self, pieces: Sequence[int], target: str, source: str | None = None) -> list[int]:
        """Put the special tokens of a source around its pieces."""

    def num_leading(self, target: str, source: str | None = None) -> int:
        """Return how many tokens of a source stand before its first piece."""

    def decoder_prefix(self, target: str) -> tuple[int, ...]:
        """Return the tokens that every target of a language begins with, after the start token."""

    def encode_target(self, text: str) -> list[int]:
        """Return the pieces of a target text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of target tokens."""

    def encode_source_marked(self, marked: str, target: str) -> list[int]:
        """Return the tokens of a source text in which markers stand for control tokens."""

    def encode_target_marked(self, marked: str) -> list[int]:
        """Return the pieces of a target text in which markers stand for control tokens."""

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Return the text of target tokens, with markers for control tokens."""

    def encode_with_spans(
        self, text: str, *, marked: bool = False, side: Side = "target"
    ) -> tuple[list[int], list[Span]]:
        """Return the pieces of a text and the span of each in it."""

    def decode_with_spans(self, ids: Sequence[int], *, marked: bool = False) -> tuple[str, list[Span]]:
        """Return the text of target tokens and the span of each in it."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the vocabulary entry of each id, as it is to be shown to people."""
