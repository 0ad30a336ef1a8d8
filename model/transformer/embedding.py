"""Token ids to vectors: table, scale, positions, norm and dropout."""

from __future__ import annotations

from torch import Tensor, nn

from model.config import ModelConfig
from model.transformer.normalization import build_norm
from model.transformer.positions import AbsolutePositions


class Embedding(nn.Module):
    """The vectors that enter the encoder or the decoder (Vaswani et al. 2017, sections 3.4 and 3.5).

    The token table belongs to the caller, so that encoder, decoder and output projection can share one.
    """

    def __init__(self, config: ModelConfig, num_positions: int) -> None:
        super().__init__()
        self.scale = config.token_scale
        self.positions = AbsolutePositions(config, num_positions) if config.position_type != "relative" else None
        self.norm = build_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_vectors: Tensor, positions: Tensor) -> Tensor:
        """Return states (B, T, D) for rows (B, T, D) of the token table at ``positions``, (T,) or (B, T)."""
        states = token_vectors * self.scale
        if self.positions is not None:
            states = states + self.positions(positions).to(states.dtype)
        if self.norm is not None:
            states = self.norm(states)
        output: Tensor = self.dropout(states)
        return output
