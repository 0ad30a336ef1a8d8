"""A model for the tests of generation: logits from a seeded random table, cheap, exact, and the same in every batch.

The logits depend on the source and on every token of the target so far, in order, so that any mistake in moving rows
changes them. `next_logits` computes them without cache or batch, for references written independently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer import Transformer

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL = (PAD, UNK, BOS)
TABLE_ROWS = 1999


class TableCache:
    """What a real cache must remember, as one number a row for the source and one for the target so far."""

    def __init__(self, sources: Tensor) -> None:
        self.sources = sources
        self.states = torch.zeros_like(sources)
        self.lengths = torch.zeros_like(sources)

    @property
    def num_rows(self) -> int:
        return len(self.sources)

    def select_rows(self, rows: Tensor) -> None:
        self.sources = self.sources[rows]
        self.select_beams(rows)

    def select_beams(self, rows: Tensor) -> None:
        self.states = self.states[rows]
        self.lengths = self.lengths[rows]

    def extend(self, other: TableCache) -> None:
        self.sources = torch.cat([self.sources, other.sources])
        self.states = torch.cat([self.states, other.states])
        self.lengths = torch.cat([self.lengths, other.lengths])


class TableModel(nn.Module):
    """Has the methods of Transformer that decoding uses; ``sharpness`` scales the logits."""

    def __init__(self, vocab_size: int, seed: int, sharpness: float = 2.0, max_target_length: int = 64) -> None:
        super().__init__()
        self.config = ModelConfig(vocab_size=vocab_size, max_source_length=64, max_target_length=max_target_length)
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(TABLE_ROWS, vocab_size, generator=generator) * sharpness)
        self.steps = 0
        self.row_steps = 0
        self.eval()

    def encode(self, source_ids: Tensor, source_mask: Tensor) -> Tensor:
        """Return (B, S, 1): token times position, so that padding can be told from tokens by the mask alone."""
        positions = torch.arange(1, source_ids.shape[1] + 1)
        return ((source_ids + 7) * positions * source_mask).double()[:, :, None]

    def start_cache(self, encoder_output: Tensor, source_mask: Tensor, capacity: int = 32) -> TableCache:
        assert encoder_output.shape[:2] == source_mask.shape
        assert capacity > 0
        return TableCache(encoder_output.sum((1, 2)).long())

    def decode_step(self, token_ids: Tensor, cache: TableCache) -> Tensor:
        assert len(token_ids) == cache.num_rows
        self.steps += 1
        self.row_steps += cache.num_rows
        cache.states = (cache.states * 31 + token_ids + 1) % TABLE_ROWS
        cache.lengths = cache.lengths + 1
        return self.table[(cache.states + 97 * cache.sources) % TABLE_ROWS]

    def next_logits(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
        """Return the logits of the token after ``target_ids``, by the definition, without cache."""
        source = sum((token_id + 7) * position for position, token_id in enumerate(source_ids, start=1))
        state = 0
        for token_id in (self.config.decoder_start_id, *target_ids):
            state = (state * 31 + token_id + 1) % TABLE_ROWS
        return cast(list[float], self.table[(state + 97 * source) % TABLE_ROWS].tolist())

    def next_log_probs(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
        """Return their log-softmax."""
        return log_softmax(self.next_logits(source_ids, target_ids))

    def token_log_probs(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token of a target."""
        return [
            self.next_log_probs(source_ids, target_ids[:position])[token_id]
            for position, token_id in enumerate(target_ids)
        ]

    def all_targets(self, source_ids: Sequence[int], limit: int) -> Iterator[tuple[tuple[int, ...], list[float]]]:
        """Yield every target without special tokens that ends within ``limit`` tokens, and its token_log_probs."""
        words = [token_id for token_id in range(self.config.vocab_size) if token_id not in (*SPECIAL, EOS)]
        for length in range(limit):
            for target in itertools.product(words, repeat=length):
                yield target, self.token_log_probs(source_ids, [*target, EOS])


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Return log-probabilities in plain Python."""
    highest = max(logits)
    log_sum = highest + math.log(math.fsum(math.exp(logit - highest) for logit in logits))
    return [logit - log_sum for logit in logits]


def as_transformer(model: TableModel) -> Transformer:
    """Return the table under the type that decoding asks for."""
    return cast(Transformer, model)
