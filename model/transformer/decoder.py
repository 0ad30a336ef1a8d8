"""The decoder: masked self-attention, cross-attention to the source, feed-forward; all at once or one step."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer.attention import MultiHeadAttention
from model.transformer.embedding import Embedding
from model.transformer.encoder import Residual
from model.transformer.feed_forward import FeedForward
from model.transformer.kv_cache import KVCache
from model.transformer.normalization import build_norm
from model.transformer.positions import RelativeBias


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config)
        self.cross_attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = Residual(config)
        self.cross_attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self,
        states: Tensor,
        encoder_output: Tensor,
        causal_mask: Tensor,
        cross_mask: Tensor | None,
        bias: Tensor | None,
        records: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Tensor:
        """Transform all target positions (B, T, D) at once; ``records`` take self- and cross-attention weights."""
        self_record, cross_record = records if records is not None else (None, None)

        def attend_target(x: Tensor) -> Tensor:
            attention = self.self_attention
            keys, values = attention.keys_values(x)
            return attention.attend(attention.queries(x), keys, values, causal_mask, bias, self_record)

        def attend_source(x: Tensor) -> Tensor:
            attention = self.cross_attention
            keys, values = attention.keys_values(encoder_output)
            return attention.attend(attention.queries(x), keys, values, cross_mask, None, cross_record)

        states = self.self_attention_residual(states, attend_target)
        states = self.cross_attention_residual(states, attend_source)
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output

    def step(self, states: Tensor, cache: KVCache, index: int, self_mask: Tensor, bias: Tensor | None) -> Tensor:
        """Transform one position of each row, (R, 1, D), with the keys and values of layer ``index`` in the cache."""

        def attend_target(x: Tensor) -> Tensor:
            attention = self.self_attention
            keys, values = cache.append(index, *attention.keys_values(x))
            return attention.attend(attention.queries(x), keys, values, self_mask, bias)

        def attend_source(x: Tensor) -> Tensor:
            attention = self.cross_attention
            mask = cache.source_mask[:, None, None, :]  # (R, 1, 1, S)
            return attention.attend(attention.queries(x), cache.cross_keys[index], cache.cross_values[index], mask)

        states = self.self_attention_residual(states, attend_target)
        states = self.cross_attention_residual(states, attend_source)
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output


class Decoder(nn.Module):
    """All decoder layers, with embedding and final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = Embedding(config, config.max_target_length)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = build_norm(config) if config.final_norm else None
        self.relative_bias = RelativeBias(config, bidirectional=False) if config.position_type == "relative" else None

    def forward(
        self,
        token_vectors: Tensor,
        encoder_output: Tensor,
        source_mask: Tensor | None,
        records: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Tensor:
        """Decode all target positions at once, each seeing only itself and those before it.

        Args:
            token_vectors: (B, T, D) rows of the token table for the decoder's input.
            encoder_output: (B, S, D).
            source_mask: (B, S) boolean, True for tokens and False for padding; None where nothing is padded.
            records: take each layer's self-attention (B, H, T, T) and cross-attention weights (B, H, T, S).

        Returns:
            States (B, T, D) before the output projection. Padding behind a target cannot change what stands before it.
        """
        length = token_vectors.shape[1]
        positions = torch.arange(length, device=token_vectors.device)
        states: Tensor = self.embedding(token_vectors, positions)
        causal_mask = positions[None, :] <= positions[:, None]  # (T, T)
        cross_mask = None if source_mask is None else source_mask[:, None, None, :]  # (B, 1, 1, S)
        bias = None if self.relative_bias is None else self.relative_bias(positions[None], positions[None])
        for layer in self.layers:
            states = layer(states, encoder_output, causal_mask, cross_mask, bias, records)
        return states if self.norm is None else self.norm(states)

    def start_cache(self, encoder_output: Tensor, source_mask: Tensor, capacity: int) -> KVCache:
        """Compute the cross-attention's keys and values once, for (B, S, D) and (B, S)."""
        pairs = [cast(DecoderLayer, layer).cross_attention.keys_values(encoder_output) for layer in self.layers]
        keys = torch.stack([key for key, _ in pairs])  # (layers, B, H, S, head_dim)
        values = torch.stack([value for _, value in pairs])
        return KVCache(keys, values, source_mask, capacity)

    def step(self, token_vectors: Tensor, cache: KVCache) -> Tensor:
        """Decode the next position of every row, (R, 1, D) to (R, 1, D), and append it to the cache."""
        cache.reserve(cache.longest + 1)
        states: Tensor = self.embedding(token_vectors, cache.lengths[:, None])
        self_mask = cache.self_mask()  # (R, longest + 1)
        bias = None
        if self.relative_bias is not None:
            key_positions = torch.arange(self_mask.shape[1], device=self_mask.device)[None]
            bias = self.relative_bias(cache.lengths[:, None], key_positions)  # (R, H, 1, longest + 1)
        for index, layer in enumerate(self.layers):
            states = cast(DecoderLayer, layer).step(states, cache, index, self_mask[:, None, None, :], bias)
        cache.advance()
        return states if self.norm is None else self.norm(states)
