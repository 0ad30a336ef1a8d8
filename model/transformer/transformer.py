"""The whole network: token tables, encoder, decoder, logits; it knows ids and tensors, neither text nor search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer.decoder import Decoder
from model.transformer.encoder import Encoder
from model.transformer.kv_cache import KVCache


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights of every layer; each row over the keys sums to one."""

    encoder: tuple[Tensor, ...]
    """Encoder self-attention, one (B, H, S, S) a layer."""
    decoder: tuple[Tensor, ...]
    """Decoder self-attention, one (B, H, T, T) a layer."""
    cross: tuple[Tensor, ...]
    """Cross-attention, one (B, H, T, S) a layer."""


class Transformer(nn.Module):
    """Encoder-decoder transformer (Vaswani et al. 2017), with the variations that ModelConfig names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.source_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.target_embedding = (
            self.source_embedding if config.tie_source_target else nn.Embedding(config.vocab_size, config.d_model)
        )
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.output_weight = None if config.tie_output else nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.output_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial weights: Xavier uniform for matrices (Glorot and Bengio 2010), normal for embeddings.

        Biases start at zero, norms as the identity.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and ("embedding" in name or name == "output_weight"):
                nn.init.normal_(parameter, std=self.config.d_model**-0.5)
            elif parameter.dim() == 2 and "relative_bias" not in name:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def projection(self) -> Tensor:
        """The matrix (V, D) of the output projection."""
        return self.target_embedding.weight if self.output_weight is None else self.output_weight

    def encode(
        self, source_ids: Tensor, source_mask: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:
        """Return the encoder output (B, S, D) of ids (B, S); ``source_mask`` (B, S) is True for tokens."""
        output: Tensor = self.encoder(self.source_embedding(source_ids), source_mask, record)
        return output

    def hidden(self, source_ids: Tensor, target_input_ids: Tensor, source_mask: Tensor | None) -> Tensor:
        """Return the decoder's states (B, T, D) before the output projection, all positions at once."""
        encoder_output = self.encode(source_ids, source_mask)
        output: Tensor = self.decoder(self.target_embedding(target_input_ids), encoder_output, source_mask)
        return output

    def logits(self, states: Tensor) -> Tensor:
        """Project decoder states (..., D) to logits (..., V)."""
        scaled = states if self.config.output_scale == 1.0 else states * self.config.output_scale
        return F.linear(scaled, self.projection, self.output_bias)

    def forward(self, source_ids: Tensor, target_input_ids: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V): position t predicts the token after ``target_input_ids[:, t]``.

        Args:
            source_ids: (B, S), padded behind.
            target_input_ids: (B, T), beginning with the decoder's start token, padded behind.
            source_mask: (B, S) boolean, True for tokens; by default, where ``source_ids`` is not padding.
        """
        if source_mask is None:
            source_mask = source_ids != self.config.pad_id
        return self.logits(self.hidden(source_ids, target_input_ids, source_mask))

    def start_cache(self, encoder_output: Tensor, source_mask: Tensor, capacity: int = 32) -> KVCache:
        """Return a cache of B rows without target positions, for (B, S, D) and (B, S)."""
        return self.decoder.start_cache(encoder_output, source_mask, capacity)

    def decode_step(self, token_ids: Tensor, cache: KVCache) -> Tensor:
        """Feed one token of each row, (R,), append it to the cache, and return the next token's logits (R, V)."""
        states = self.decoder.step(self.target_embedding(token_ids[:, None]), cache)  # (R, 1, D)
        return self.logits(states[:, 0])

    @torch.no_grad()
    def attention_weights(
        self, source_ids: Tensor, target_input_ids: Tensor, source_mask: Tensor | None = None
    ) -> AttentionWeights:
        """Return the weights of every head, by the plain path; arguments as in :meth:`forward`."""
        if source_mask is None:
            source_mask = source_ids != self.config.pad_id
        encoder: list[Tensor] = []
        decoder: list[Tensor] = []
        cross: list[Tensor] = []
        encoder_output = self.encode(source_ids, source_mask, encoder)
        self.decoder(self.target_embedding(target_input_ids), encoder_output, source_mask, (decoder, cross))
        return AttentionWeights(tuple(encoder), tuple(decoder), tuple(cross))
