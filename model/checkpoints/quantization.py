"""Matrices as int8 with one scale per row, for storage; decoding in int8 is the engine's business, not this file's."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 127
"""Symmetric int8: -127 ... 127, so that zero stays exactly zero."""


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 values (R, C) and float32 scales (R,) with ``values * scales[:, None]`` close to ``matrix`` (R, C).

    Each row is scaled by its largest absolute value, so the error of an entry is at most half a step of its own row.
    """
    matrix = matrix.float()
    scales = matrix.abs().amax(dim=1) / LEVELS
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    values = (matrix / safe[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return values, safe


def dequantize_rows(values: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 matrix (R, C) of int8 values (R, C) and scales (R,)."""
    return values.float() * scales.float()[:, None]
