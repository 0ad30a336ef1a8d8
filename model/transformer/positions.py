"""Where a token stands: sinusoids, a learned table, or T5's relative bias on attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig, SinusoidLayout


def sinusoids(num_positions: int, d_model: int, layout: SinusoidLayout) -> Tensor:
    """Return the fixed position table (num_positions, D) in float32.

    The paper (Vaswani et al. 2017, section 3.5) interleaves ``sin(p / 10000^(2i/D))`` and the cosine of the same angle;
    Marian puts all sines before all cosines; fairseq does too, and divides the exponents by D/2 - 1 instead of D/2.
    """
    half = d_model // 2
    divisor = half - 1 if layout == "halves_fairseq" else half
    exponents = torch.arange(half, dtype=torch.float64) / max(divisor, 1)
    frequencies = torch.exp(-math.log(10_000.0) * exponents)
    angles = torch.arange(num_positions, dtype=torch.float64)[:, None] * frequencies[None, :]  # (P, D/2)
    if layout == "interleaved":
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (P, D)
    else:
        table = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (P, D)
    return table.float()


class AbsolutePositions(nn.Module):
    """Position vectors that are added to token embeddings: fixed sinusoids or a learned table."""

    def __init__(self, config: ModelConfig, num_positions: int) -> None:
        super().__init__()
        self.offset = config.position_offset
        total = num_positions + self.offset
        if config.position_type == "learned":
            self.weight = nn.Parameter(torch.randn(total, config.d_model) * config.d_model**-0.5)
        else:
            table = sinusoids(total, config.d_model, config.sinusoid_layout)
            self.register_buffer("weight", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """Return the vectors (..., D) of integer ``positions`` (...), the first token's being 0."""
        return self.weight[positions + self.offset]


class RelativeBias(nn.Module):
    """A learned bias per head on the distance of query and key (Raffel et al. 2020, section 2.1).

    Half of the buckets of each direction hold one distance each; the others grow logarithmically up to
    ``relative_max_distance``, beyond which all distances share the last one.
    """

    def __init__(self, config: ModelConfig, *, bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.relative_num_buckets, config.num_heads))
        self.max_distance = config.relative_max_distance
        self.bidirectional = bidirectional

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """Return the bias (B, H, T, S) for positions (B, T) and (B, S)."""
        distance = key_positions[:, None, :] - query_positions[:, :, None]  # (B, T, S)
        return self.weight[self._bucket(distance)].permute(0, 3, 1, 2)  # (B, H, T, S)

    def _bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance ``key - query``."""
        num_buckets = self.weight.shape[0]
        if self.bidirectional:
            num_buckets //= 2
            first = (distance > 0).long() * num_buckets
            distance = distance.abs()
        else:
            first = torch.zeros_like(distance)
            distance = (-distance).clamp(min=0)
        exact = num_buckets // 2
        ratio = distance.clamp(min=1).float().div(exact).log() / math.log(self.max_distance / exact)
        logarithmic = exact + (ratio * (num_buckets - exact)).long().clamp(max=num_buckets - exact - 1)
        return first + torch.where(distance < exact, distance, logarithmic)
