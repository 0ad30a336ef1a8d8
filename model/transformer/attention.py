"""Multi-head attention: projections, the scaled dot product, and a plain path whose weights can be looked at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig


class MultiHeadAttention(nn.Module):
    """Attention of H heads over keys and values (Vaswani et al. 2017, section 3.2.2).

    The same module serves self-attention (keys from the same states) and cross-attention (keys from the encoder).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_dim = config.width_per_head
        self.scale = config.query_scale
        self.dropout = config.attention_dropout
        width = self.num_heads * self.head_dim
        self.q_proj = nn.Linear(config.d_model, width, bias=config.linear_bias)
        self.k_proj = nn.Linear(config.d_model, width, bias=config.linear_bias)
        self.v_proj = nn.Linear(config.d_model, width, bias=config.linear_bias)
        self.out_proj = nn.Linear(width, config.d_model, bias=config.linear_bias)

    def queries(self, states: Tensor) -> Tensor:
        """Project states (B, T, D) to queries (B, H, T, head_dim)."""
        return self._split(self.q_proj(states))

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Project states (B, S, D) to keys and values, each (B, H, S, head_dim)."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Mix the values by the similarity of queries and keys.

        Args:
            queries: (B, H, T, head_dim).
            keys: (B, H, S, head_dim).
            values: (B, H, S, head_dim).
            mask: boolean, broadcastable to (B, H, T, S), True where a query may attend; every query needs one True.
            bias: added to the scaled products, broadcastable to (B, H, T, S).
            record: takes the attention weights (B, H, T, S); this asks for the plain path.

        Returns:
            States (B, T, D).
        """
        # The backward pass of the fused kernel is slow on CPU: a third of a training step on short sentences.
        plain = record is not None or (torch.is_grad_enabled() and not queries.is_cuda)
        dropout = self.dropout if self.training else 0.0
        if plain:
            weights = attention_weights(queries, keys, self.scale, mask, bias)  # (B, H, T, S)
            if record is not None:
                record.append(weights)
            mixed = F.dropout(weights, dropout) @ values if dropout else weights @ values  # (B, H, T, head_dim)
        else:
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=_merge(mask, bias, queries.dtype), dropout_p=dropout, scale=self.scale
            )
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, D)
        return output

    def _split(self, projected: Tensor) -> Tensor:
        """(B, T, H * head_dim) to (B, H, T, head_dim)."""
        num_rows, length, _ = projected.shape
        return projected.view(num_rows, length, self.num_heads, self.head_dim).transpose(1, 2)


def attention_weights(queries: Tensor, keys: Tensor, scale: float, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return ``softmax(scale * Q K^T + bias)`` over allowed keys, (B, H, T, S) (Vaswani et al. 2017, equation 1)."""
    products = (queries * scale) @ keys.transpose(-2, -1)  # (B, H, T, S)
    if bias is not None:
        products = products + bias
    if mask is not None:
        products = products.masked_fill(~mask, float("-inf"))
    return products.softmax(dim=-1)


def _merge(mask: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return one attention mask for the fused kernel: boolean, or floating point where there is a bias."""
    if bias is None:
        return mask
    bias = bias.to(dtype)
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))
