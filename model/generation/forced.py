"""Forced decoding: what the network thinks of given targets, all positions at once; nothing is searched here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig
from model.errors import InvalidRequestError
from model.transformer import Transformer

FloatArray = NDArray[np.float32]
IdArray = NDArray[np.int64]
Pair = tuple[Sequence[int], Sequence[int]]
"""Source tokens, special tokens included, and target tokens without start and end token."""

MAX_PADDED_TOKENS = 4096
"""Source and target positions, padding included, that go through the network together."""


@dataclass(frozen=True)
class ForcedDecoding:
    """What the network computed for one source of S tokens and one target of T tokens.

    Step t = 0 ... T is the one that predicts target token t; the last predicts the end token. The decoder's input at
    step 0 is the start token, and at step t target token t - 1. Only a target as long as the network can take has no
    step for the end token: where T + 1 is written below, it has T.
    """

    token_log_probs: tuple[float, ...]
    """(T + 1) natural-logarithm probability of each target token and then of the end token."""
    cross_attention: FloatArray | None = None
    """(layers, H, T + 1, S) weights over the source at each step; None unless asked for."""
    encoder_attention: FloatArray | None = None
    """(layers, H, S, S); None unless asked for."""
    decoder_attention: FloatArray | None = None
    """(layers, H, T + 1, T + 1) over the decoder's inputs; None unless asked for."""
    top_tokens: IdArray | None = None
    """(T + 1, k) the most probable tokens of each step, best first; None unless asked for."""
    top_log_probs: FloatArray | None = None
    """(T + 1, k) their log-probabilities."""
    logits: FloatArray | None = None
    """(T + 1, V) of each step; None unless asked for."""

    @property
    def log_prob(self) -> float:
        """The target's log-probability, end token included."""
        return sum(self.token_log_probs)


def force_decode(
    model: Transformer,
    pairs: Sequence[Pair],
    *,
    cross_attention: bool = True,
    self_attention: bool = False,
    num_top: int = 0,
    logits: bool = False,
) -> list[ForcedDecoding]:
    """Compute log-probabilities and attention weights of given targets (teacher forcing).

    Several threads may do this with one network, also while others decode with it: nothing of it is changed.

    Args:
        model: in evaluation mode, on its device and in its number format.
        pairs: sources and targets, padded together as far as they fit.
        cross_attention: whether to return the cross-attention's weights.
        self_attention: whether to return those of the encoder's and the decoder's self-attention.
        num_top: how many of each step's most probable tokens to return.
        logits: whether to return all logits.

    Raises:
        InvalidRequestError: a source or target does not fit the model, or has what are no token ids.
    """
    assert not model.training, "scoring needs model.eval(), otherwise dropout is active"
    for source_ids, target_ids in pairs:
        _validate(model.config, source_ids, target_ids)
    results: dict[int, ForcedDecoding] = {}
    with torch.inference_mode():
        for chunk in _chunks(pairs):
            passed = _Pass(model, [pairs[index] for index in chunk], cross_attention, self_attention)
            for row, index in enumerate(chunk):
                results[index] = passed.result(row, num_top, logits)
    return [results[index] for index in range(len(pairs))]


class _Pass:
    """One pass of pairs through the network, padded to the longest of them."""

    def __init__(self, model: Transformer, pairs: Sequence[Pair], cross: bool, own: bool) -> None:
        config, device = model.config, next(model.parameters()).device
        self._model = model
        self._sources = [list(source_ids) for source_ids, _ in pairs]
        limit = config.max_target_length
        self._targets = [[*target_ids, config.eos_id][:limit] for _, target_ids in pairs]
        inputs = [[config.decoder_start_id, *target_ids][:limit] for _, target_ids in pairs]
        self._encoder: list[Tensor] = []
        self._decoder: list[Tensor] = []
        self._cross: list[Tensor] = []
        source_ids = _padded(self._sources, config.pad_id, device)  # (B, S)
        lengths = torch.tensor([len(source) for source in self._sources], device=device)
        source_mask = torch.arange(source_ids.shape[1], device=device) < lengths[:, None]  # (B, S) True = token
        encoder_output = model.encode(source_ids, source_mask, self._encoder if own else None)
        vectors = model.target_embedding(_padded(inputs, config.pad_id, device))  # (B, T, D)
        records = (self._decoder, self._cross) if cross or own else None
        self._states = model.decoder(vectors, encoder_output, source_mask, records)  # (B, T, D)
        self._wants = cross, own

    def result(self, row: int, num_top: int, with_logits: bool) -> ForcedDecoding:
        """Return what was computed for one pair, without its padding."""
        target, length = self._targets[row], len(self._sources[row])
        steps = len(target)
        logits = self._model.logits(self._states[row, :steps]).float()  # (T + 1, V)
        log_probs = logits.log_softmax(-1)
        chosen = log_probs.gather(1, torch.tensor(target, device=logits.device)[:, None])[:, 0]
        top = log_probs.topk(min(num_top, log_probs.shape[1])) if num_top else None
        cross, own = self._wants
        return ForcedDecoding(
            tuple(chosen.tolist()),
            cross_attention=_weights(self._cross, row, steps, length) if cross else None,
            encoder_attention=_weights(self._encoder, row, length, length) if own else None,
            decoder_attention=_weights(self._decoder, row, steps, steps) if own else None,
            top_tokens=None if top is None else top.indices.cpu().numpy(),
            top_log_probs=None if top is None else top.values.cpu().numpy(),
            logits=logits.cpu().numpy() if with_logits else None,
        )


def _weights(layers: Sequence[Tensor], row: int, queries: int, keys: int) -> FloatArray:
    """Return (layers, H, queries, keys) of one row of the batch."""
    weights: FloatArray = torch.stack([layer[row, :, :queries, :keys] for layer in layers]).float().cpu().numpy()
    return weights


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows], device=device)


def _chunks(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Yield indices of pairs to be padded together: of similar length, and not too many."""
    chunk: list[int] = []
    longest_source = longest_target = 0
    for index in sorted(range(len(pairs)), key=lambda each: (len(pairs[each][1]), len(pairs[each][0]))):
        source_ids, target_ids = pairs[index]
        longest_source = max(longest_source, len(source_ids))
        longest_target = max(longest_target, len(target_ids) + 1)
        if chunk and (len(chunk) + 1) * (longest_source + longest_target) > MAX_PADDED_TOKENS:
            yield chunk
            chunk, longest_source, longest_target = [], len(source_ids), len(target_ids) + 1
        chunk.append(index)
    if chunk:
        yield chunk


def _validate(config: ModelConfig, source_ids: Sequence[int], target_ids: Sequence[int]) -> None:
    if not 1 <= len(source_ids) <= config.max_source_length:
        raise InvalidRequestError("source_ids", f"must have 1 to {config.max_source_length} tokens", len(source_ids))
    if len(target_ids) > config.max_target_length:
        rule = f"must have at most {config.max_target_length} tokens"
        raise InvalidRequestError("target_ids", rule, len(target_ids))
    for name, token_ids in (("source_ids", source_ids), ("target_ids", target_ids)):
        if not all(0 <= token_id < config.vocab_size for token_id in token_ids):
            raise InvalidRequestError(name, f"must be token ids from 0 to {config.vocab_size - 1}", list(token_ids))
