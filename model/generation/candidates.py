"""The best tokens of each row of log-probabilities, in a strict order; what becomes of them is not decided here."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
"""Tokens in a block of the first stage; small enough that few candidates are left, large enough for vector units."""


def best_tokens(log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` greatest log-probabilities (R, count) of each row (R, V), falling, and their tokens.

    Done in two stages where V is large: the ``count`` blocks with the greatest maxima hold the ``count`` greatest
    values, so only these blocks are searched; two to three times as fast as one stage from a few rows on. Which of
    several equal tokens is returned is left open; ``in_order`` settles that.
    """
    num_rows, vocab_size = log_probs.shape
    num_blocks = vocab_size // BLOCK
    if num_blocks < 4 * count or num_rows < 4:
        values, token_ids = log_probs.topk(count)
        return values, token_ids
    blocks = log_probs[:, : num_blocks * BLOCK].view(num_rows, num_blocks, BLOCK)
    chosen = blocks.amax(-1).topk(count).indices  # (R, count)
    values = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    offsets = torch.arange(BLOCK, device=log_probs.device)
    token_ids = (chosen[:, :, None] * BLOCK + offsets).flatten(1)
    rest = torch.arange(num_blocks * BLOCK, vocab_size, device=log_probs.device)  # a last, incomplete block
    values = torch.cat([values, log_probs[:, num_blocks * BLOCK :]], dim=1)
    token_ids = torch.cat([token_ids, rest.expand(num_rows, -1)], dim=1)
    values, positions = values.topk(count)
    return values, token_ids.gather(1, positions)


def in_order(values: list[float], token_ids: list[int], count: int, log_probs: Tensor) -> tuple[list[int], list[float]]:
    """Return the ``count`` best tokens of one row in a strict order: by falling log-probability, then by token id.

    How many values were fetched depends on the other requests of the batch, and the order among equal values on the
    device; with 16-bit logits such ties are common. This order depends on the row alone.

    Args:
        values: the row's greatest log-probabilities, falling; one more than ``count`` of them, or all V.
        token_ids: their tokens.
        count: how many tokens to return; fewer are returned when the others are banned.
        log_probs: (V,) the whole row, looked at only when equal values lie on both sides of the cut.
    """
    while count and (count > len(values) or values[count - 1] == float("-inf")):
        count -= 1
    fetched = values[: count + 1]
    if len(set(fetched)) == len(fetched) or count == 0:
        return token_ids[:count], values[:count]
    pairs = list(zip(values, token_ids, strict=True))
    least = values[count - 1]
    if values[-1] == least or values[min(count, len(values) - 1)] == least:
        tied: list[int] = (log_probs == least).nonzero()[:, 0].tolist()
        pairs = [pair for pair in pairs if pair[0] > least] + [(least, token_id) for token_id in tied]
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    return [token_id for _, token_id in pairs[:count]], [value for value, _ in pairs[:count]]
