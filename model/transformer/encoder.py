"""The encoder: layers of self-attention and feed-forward over the whole source."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer.attention import MultiHeadAttention
from model.transformer.embedding import Embedding
from model.transformer.feed_forward import FeedForward
from model.transformer.normalization import build_norm
from model.transformer.positions import RelativeBias


class Residual(nn.Module):
    """A sub-layer's residual connection with its norm: before it (Xiong et al. 2020) or after the sum (the paper)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        self.before = config.norm_position == "pre"
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``states`` with the sub-layer's output added, (B, T, D)."""
        output: Tensor
        if self.before:
            output = states + self.dropout(sublayer(self.norm(states)))
        else:
            output = self.norm(states + self.dropout(sublayer(states)))
        return output


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config)
        self.feed_forward = FeedForward(config)
        self.self_attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self, states: Tensor, mask: Tensor | None, bias: Tensor | None, record: list[Tensor] | None = None
    ) -> Tensor:
        """Transform states (B, S, D); mask and bias as in :meth:`MultiHeadAttention.attend`."""

        def attend(x: Tensor) -> Tensor:
            keys, values = self.self_attention.keys_values(x)
            return self.self_attention.attend(self.self_attention.queries(x), keys, values, mask, bias, record)

        states = self.self_attention_residual(states, attend)
        output: Tensor = self.feed_forward_residual(states, self.feed_forward)
        return output


class Encoder(nn.Module):
    """All encoder layers, with embedding and final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = Embedding(config, config.max_source_length)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = build_norm(config) if config.final_norm else None
        self.relative_bias = RelativeBias(config, bidirectional=True) if config.position_type == "relative" else None

    def forward(self, token_vectors: Tensor, source_mask: Tensor | None, record: list[Tensor] | None = None) -> Tensor:
        """Encode rows of the token table.

        Args:
            token_vectors: (B, S, D).
            source_mask: (B, S) boolean, True for tokens and False for padding; None where nothing is padded.
            record: takes each layer's attention weights (B, H, S, S).

        Returns:
            The encoder output (B, S, D); what stands at padding is meaningless.
        """
        positions = torch.arange(token_vectors.shape[1], device=token_vectors.device)
        states: Tensor = self.embedding(token_vectors, positions)
        mask = None if source_mask is None else source_mask[:, None, None, :]  # (B, 1, 1, S)
        bias = None if self.relative_bias is None else self.relative_bias(positions[None], positions[None])
        for layer in self.layers:
            states = layer(states, mask, bias, record)
        return states if self.norm is None else self.norm(states)
