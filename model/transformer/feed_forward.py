"""The position-wise feed-forward layer, plain or gated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Activation, ModelConfig

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """``W2 f(W1 x)`` (Vaswani et al. 2017, section 3.3), or gated ``W2 (f(W1 x) * V x)`` (Shazeer 2020, equation 6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.in_proj = nn.Linear(config.d_model, config.d_ff, bias=config.linear_bias)
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=config.linear_bias) if config.gated else None
        self.out_proj = nn.Linear(config.d_ff, config.d_model, bias=config.linear_bias)

    def forward(self, states: Tensor) -> Tensor:
        """Transform each position of (..., D) on its own."""
        inner = self.activation(self.in_proj(states))  # (..., F)
        if self.gate_proj is not None:
            inner = inner * self.gate_proj(states)
        output: Tensor = self.out_proj(inner)
        return output
