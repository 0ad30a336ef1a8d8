"""The network for decoding in slots: fused projections, keys and values in static memory; it searches nothing.

It computes what the Transformer does. Besides the letters of ``model.transformer``: N slots, each with one source; K
beams of a slot, its query rows; C columns, one for each target position; R = N * K rows. A = H * head_dim.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.transformer import Transformer
from model.transformer.attention import MultiHeadAttention
from model.transformer.decoder import DecoderLayer
from model.transformer.embedding import Embedding
from model.transformer.encoder import EncoderLayer, Residual
from model.transformer.feed_forward import FeedForward

BLOCK = 64
"""The vocabulary is filled up to a multiple of it: blocks whose maxima are taken, and rows that matrix units like."""


class _Placing:
    """Brings copies of weights to the device and number format of decoding."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def tensor(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, self.dtype)

    def norm(self, norm: nn.Module | None) -> nn.Module | None:
        """Return a copy, without gradients."""
        return None if norm is None else copy.deepcopy(norm).to(self.device, self.dtype).requires_grad_(False)

    def linear(self, layers: Sequence[nn.Linear]) -> _Linear:
        """Join linear layers that read the same input."""
        weight = torch.cat([self.tensor(layer.weight) for layer in layers])
        biases = [self.tensor(layer.bias) for layer in layers if layer.bias is not None]
        return _Linear(weight, torch.cat(biases) if biases else None)


class _Linear:
    """One product for one or several layers."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class _Residual:
    """A residual connection with its norm before the sub-layer or after the sum."""

    def __init__(self, residual: Residual, placing: _Placing) -> None:
        self._norm = cast(nn.Module, placing.norm(residual.norm))
        self._before = residual.before

    def enter(self, states: Tensor) -> Tensor:
        """Return what the sub-layer reads."""
        return cast(Tensor, self._norm(states)) if self._before else states

    def leave(self, states: Tensor, output: Tensor) -> Tensor:
        """Return the states behind the sub-layer, whose output is given."""
        states = states + output
        return states if self._before else cast(Tensor, self._norm(states))


class _TokenVectors:
    """Token ids to the vectors that enter the encoder or the decoder."""

    def __init__(self, embedding: Embedding, table: Tensor, placing: _Placing) -> None:
        self._table, self._scale = table, embedding.scale
        self._norm = placing.norm(embedding.norm)
        self._positions: Tensor | None = None
        if embedding.positions is not None:
            first = placing.tensor(embedding.positions.weight[embedding.positions.offset :])
            # One row more: a slot whose target has reached the greatest length still computes, and is not looked at.
            self._positions = F.pad(first, (0, 0, 0, 1))

    def __call__(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Return (N, T, D) for ids (N, T) at ``positions``, (T,) or (N, 1)."""
        states = F.embedding(token_ids, self._table) * self._scale
        if self._positions is not None:
            states = states + F.embedding(positions, self._positions)
        return states if self._norm is None else cast(Tensor, self._norm(states))


class _FeedForward:
    """The feed-forward layer, both projections of a gated one in one product."""

    def __init__(self, layer: FeedForward, residual: Residual, placing: _Placing) -> None:
        self._activation = layer.activation
        self._gated = layer.gate_proj is not None
        self._in_proj = placing.linear([layer.in_proj] + ([] if layer.gate_proj is None else [layer.gate_proj]))
        self._out_proj = placing.linear([layer.out_proj])
        self._residual = _Residual(residual, placing)

    def __call__(self, states: Tensor) -> Tensor:
        """Transform each position of (N, T, D), residual connection and norm included."""
        inner = self._in_proj(self._residual.enter(states))
        if self._gated:
            inner, gate = inner.chunk(2, dim=-1)
            inner = self._activation(inner) * gate
        else:
            inner = self._activation(inner)
        return self._residual.leave(states, self._out_proj(inner))


class _Attention:
    """One attention with its residual connection; keys and values are computed here for self-attention only."""

    def __init__(self, attention: MultiHeadAttention, residual: Residual, placing: _Placing, *, own_keys: bool) -> None:
        self._num_heads, self._head_dim, self._scale = attention.num_heads, attention.head_dim, attention.scale
        parts = [attention.q_proj, attention.k_proj, attention.v_proj] if own_keys else [attention.q_proj]
        self._in_proj = placing.linear(parts)
        self._out_proj = placing.linear([attention.out_proj])
        self._residual = _Residual(residual, placing)

    def project(self, states: Tensor) -> Tensor:
        """Return (N, T, 3 or 1, H, head_dim) for states (N, T, D): queries, and keys and values where they are ours."""
        num_slots, length, _ = states.shape
        projected = self._in_proj(self._residual.enter(states))
        return projected.view(num_slots, length, -1, self._num_heads, self._head_dim)

    def mix(self, states: Tensor, queries: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Return the states behind this attention, (N, T, D).

        Args:
            states: (N, T, D) those before it.
            queries: (N, T, H, head_dim).
            keys_values: (N, S, 2, H, head_dim).
            mask: added to the scaled products, broadcastable to (N, H, T, S).
        """
        keys, values = keys_values.select(2, 0).transpose(1, 2), keys_values.select(2, 1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, scale=self._scale
        )  # (N, H, T, head_dim)
        return self._residual.leave(states, self._out_proj(mixed.transpose(1, 2).flatten(2)))


class _EncoderLayer:
    """Self-attention, then feed-forward, over whole sources."""

    def __init__(self, layer: EncoderLayer, placing: _Placing) -> None:
        self._attention = _Attention(layer.self_attention, layer.self_attention_residual, placing, own_keys=True)
        self._feed_forward = _FeedForward(layer.feed_forward, layer.feed_forward_residual, placing)

    def __call__(self, states: Tensor, mask: Tensor) -> Tensor:
        """Transform states (N, S, D); the mask is added, (N, 1 or H, 1 or S, S)."""
        parts = self._attention.project(states)
        states = self._attention.mix(states, parts.select(2, 0), parts.narrow(2, 1, 2), mask)
        return self._feed_forward(states)


class _DecoderLayer:
    """Self-attention over the columns, cross-attention to the source, feed-forward; one step."""

    def __init__(self, layer: DecoderLayer, placing: _Placing) -> None:
        self._self = _Attention(layer.self_attention, layer.self_attention_residual, placing, own_keys=True)
        self._cross = _Attention(layer.cross_attention, layer.cross_attention_residual, placing, own_keys=False)
        self._feed_forward = _FeedForward(layer.feed_forward, layer.feed_forward_residual, placing)

    def __call__(
        self, states: Tensor, cache: Tensor, entries: Tensor, mask: Tensor, cross: Tensor, cross_mask: Tensor
    ) -> Tensor:
        """Transform one position of each beam, (N, K, D), and write its keys and values into the cache.

        Args:
            states: (N, K, D).
            cache: (all slots, entries of a slot, 2, H, head_dim).
            entries: (R,) where to write, counted over all slots.
            mask: (N, 1 or H, K, width), added; the first ``width`` entries of the first N slots are looked at.
            cross: (N, S, 2, H, head_dim).
            cross_mask: (N, 1, 1, S), added.
        """
        parts = self._self.project(states)
        cache.flatten(0, 1).index_copy_(0, entries, parts.narrow(2, 1, 2).flatten(0, 1))
        seen = cache.narrow(0, 0, len(states)).narrow(1, 0, mask.shape[-1])
        states = self._self.mix(states, parts.select(2, 0), seen, mask)
        queries = self._cross.project(states).select(2, 0)
        states = self._cross.mix(states, queries, cross, cross_mask)
        return self._feed_forward(states)


class GraphNetwork:
    """Encoder, one step of the decoder, and the output layer; several batches can share one."""

    def __init__(self, model: Transformer, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the weights of a network, which stays as it is.

        Args:
            model: in evaluation mode.
            device: where to compute.
            dtype: number format of weights and activations; logits become float32.
        """
        assert not model.training, "decoding needs model.eval(), otherwise dropout is active"
        self.config, self.device, self.dtype = model.config, device, dtype
        placing = _Placing(device, dtype)
        filling = -self.config.vocab_size % BLOCK
        self.padded_vocab_size = self.config.vocab_size + filling
        with torch.no_grad():
            target_table = F.pad(placing.tensor(model.target_embedding.weight), (0, 0, 0, filling))
            source_table = target_table
            if not self.config.tie_source_target:
                source_table = placing.tensor(model.source_embedding.weight)
            self._source_vectors = _TokenVectors(model.encoder.embedding, source_table, placing)
            self._target_vectors = _TokenVectors(model.decoder.embedding, target_table, placing)
            self._encoder_layers = [_EncoderLayer(cast(EncoderLayer, each), placing) for each in model.encoder.layers]
            decoder_layers = [cast(DecoderLayer, each) for each in model.decoder.layers]
            self._decoder_layers = [_DecoderLayer(each, placing) for each in decoder_layers]
            self._encoder_norm, self._decoder_norm = placing.norm(model.encoder.norm), placing.norm(model.decoder.norm)
            cross = [each.cross_attention for each in decoder_layers]
            self._cross_proj = placing.linear([part for each in cross for part in (each.k_proj, each.v_proj)])
            self._encoder_bias = placing.norm(model.encoder.relative_bias)
            self._distance_bias = self._biases_by_distance(model, placing)
            self._output_proj = self._output_layer(model, target_table, placing)

    def _biases_by_distance(self, model: Transformer, placing: _Placing) -> Tensor | None:
        """Return the decoder's relative bias (distances, H), for a key so many positions before the query."""
        if model.decoder.relative_bias is None:
            return None
        distances = torch.arange(self.config.max_target_length + 1, device=model.decoder.relative_bias.weight.device)
        bias = model.decoder.relative_bias(distances[:, None], torch.zeros_like(distances)[:, None])
        return placing.tensor(bias[:, :, 0, 0])

    def _output_layer(self, model: Transformer, target_table: Tensor, placing: _Placing) -> _Linear:
        """Return the output projection; tokens that only fill up the last block have logits of minus infinity."""
        config = self.config
        weight = target_table
        if model.output_weight is not None:
            weight = F.pad(placing.tensor(model.output_weight), (0, 0, 0, self.padded_vocab_size - config.vocab_size))
        bias = weight.new_zeros(self.padded_vocab_size)
        if model.output_bias is not None:
            bias[: config.vocab_size] = placing.tensor(model.output_bias)
        bias[config.vocab_size :] = -math.inf
        return _Linear(weight, bias)

    def encode(self, source_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode padded sources (N, S) of ``lengths`` (N,).

        Returns:
            Keys and values for the cross-attention of all layers (N, S, layers, 2, H, head_dim), and its mask (N, S):
            0 for tokens, minus infinity for padding.
        """
        num_sources, longest = source_ids.shape
        positions = torch.arange(longest, device=self.device)
        mask = torch.zeros(num_sources, longest, dtype=self.dtype, device=self.device)
        mask.masked_fill_(positions >= lengths[:, None], -math.inf)
        self_mask = mask[:, None, None, :]
        if self._encoder_bias is not None:
            self_mask = self_mask + self._encoder_bias(positions[None], positions[None])  # (N, H, S, S)
        states = self._source_vectors(source_ids, positions)
        for layer in self._encoder_layers:
            states = layer(states, self_mask)
        if self._encoder_norm is not None:
            states = self._encoder_norm(states)
        shape = (num_sources, longest, len(self._decoder_layers), 2, self.config.num_heads, -1)
        return self._cross_proj(states).view(shape), mask

    def decode(
        self,
        tokens: Tensor,
        lengths: Tensor,
        caches: Sequence[Tensor],
        entries: Tensor,
        ancestry: Tensor,
        cross: Tensor,
        cross_mask: Tensor,
    ) -> Tensor:
        """Decode one position of all beams, and return the logits (R, filled-up vocabulary).

        Args:
            tokens: (N, K) each beam's newest token.
            lengths: (N,) how many target tokens the slot's beams have, which is this position.
            caches: for each layer (all slots, entries of a slot, 2, H, head_dim); beam k's entry of column c is entry
                ``c * K + k`` of its slot.
            entries: (R,) where to write, counted over all slots.
            ancestry: (N, K, C * K), 0 for the entries that a beam descends from, minus infinity for others; the width
                says how many columns are looked at.
            cross: (N, S, layers, 2, H, head_dim).
            cross_mask: (N, S).
        """
        num_beams = tokens.shape[1]
        states = self._target_vectors(tokens, lengths[:, None])  # (N, K, D)
        mask = ancestry[:, None]  # (N, 1, K, C * K)
        if self._distance_bias is not None:
            columns = torch.arange(ancestry.shape[2] // num_beams, device=self.device)
            distances = (lengths[:, None] - columns).clamp_(min=0)  # (N, C)
            bias = F.embedding(distances, self._distance_bias).transpose(1, 2)  # (N, H, C)
            mask = mask + bias.repeat_interleave(num_beams, dim=2)[:, :, None]
        for index, layer in enumerate(self._decoder_layers):
            source = cross.select(2, index)
            states = layer(states, caches[index], entries, mask, source, cross_mask[:, None, None])
        if self._decoder_norm is not None:
            states = self._decoder_norm(states)
        if self.config.output_scale != 1.0:
            states = states * self.config.output_scale
        return self._output_proj(states.flatten(0, 1))
