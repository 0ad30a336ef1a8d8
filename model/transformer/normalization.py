"""The norms: layer norm and root-mean-square norm; where they stand is decided by the layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class RMSNorm(nn.Module):
    """Divide by the root of the mean square, without centring or bias (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of ``x`` (..., D); the mean square is taken in float32."""
        mean_square = x.float().pow(2).mean(dim=-1, keepdim=True)
        return (x * torch.rsqrt(mean_square + self.epsilon)).to(x.dtype) * self.weight


def build_norm(config: ModelConfig) -> nn.Module:
    """Return a new norm over ``d_model`` of the configured type."""
    if config.norm_type == "rms":
        return RMSNorm(config.d_model, config.norm_epsilon)
    return nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
