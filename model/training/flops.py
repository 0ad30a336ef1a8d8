"""Floating point operations of a training step, counted from its shapes, and the peak rates of devices; no tensors.

Only matrix products count, as everywhere in the field (Chowdhery et al. 2022, appendix B): two operations for each
multiplication with addition. A backward pass has two products of the size of each of the forward pass.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig

LongArray = npt.NDArray[np.int64]

PEAK_FLOPS: Mapping[str, float] = {
    "NVIDIA GH200": 989.4e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA H200 NVL": 835.5e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H100 PCIe": 756.5e12,
    "NVIDIA A100": 311.9e12,
    "NVIDIA A10G": 70.0e12,
    "NVIDIA A10": 125.0e12,
    "NVIDIA L40": 181.0e12,
    "NVIDIA L40S": 362.0e12,
    "NVIDIA L4": 121.0e12,
    "NVIDIA GeForce RTX 4090": 165.2e12,
    "NVIDIA GeForce RTX 3090": 71.2e12,
}
"""Operations a second of dense bfloat16 products with sums in float32, from the makers' data sheets, by the beginning
of the name that torch gives the device."""
_BACKWARD = 2
"""Products of a backward pass for each of the forward pass: one for the gradient of either factor."""


@dataclass(frozen=True)
class Flops:
    """Operations of a forward and backward pass.

    Attributes:
        executed: with those on padding.
        useful: without them: what the tokens alone would need, each sentence by itself.
    """

    executed: float = 0.0
    useful: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.executed + other.executed, self.useful + other.useful)


def batch_flops(
    config: ModelConfig, shape: tuple[int, int, int], source_lengths: LongArray, target_lengths: LongArray
) -> Flops:
    """Return the operations of one padded batch.

    The output layer is computed for tokens only, never for padding; everything else for all positions. Attention is
    counted whole: a kernel may leave out what a causal mask hides, which is not deducted.

    Args:
        config: the network.
        shape: rows, padded source length and padded target length.
        source_lengths: tokens of each source, special tokens included; rows that only fill the batch have none.
        target_lengths: tokens of each target, the same way.
    """
    rows, source, target = shape
    padded = forward_flops(config, np.full(rows, source), np.full(rows, target), int(target_lengths.sum()))
    alone = forward_flops(config, source_lengths, target_lengths, int(target_lengths.sum()))
    return Flops((1 + _BACKWARD) * padded, (1 + _BACKWARD) * alone)


def forward_flops(config: ModelConfig, source_lengths: LongArray, target_lengths: LongArray, num_outputs: int) -> float:
    """Return the operations of a forward pass over sentences of the given lengths.

    For each source token and encoder layer: ``4 D W`` multiplications in the projections of attention (W = heads times
    their width), ``2 D F`` in the feed-forward layer (``3 D F`` if gated), and ``2 S W`` in attention itself. For each
    target token and decoder layer: ``4 D W + 2 T W`` in self-attention, ``2 D W + 2 S W`` in cross-attention, which
    also has ``2 D W`` for each source token, and the feed-forward layer. The output layer: ``D V``.
    """
    d, f, w = config.d_model, config.d_ff, config.num_heads * config.width_per_head
    feed_forward = (3 if config.gated else 2) * d * f
    s, t = source_lengths.astype(np.float64), target_lengths.astype(np.float64)
    encoder = (4 * d * w + feed_forward) * s + 2 * w * s * s
    decoder = (6 * d * w + feed_forward) * t + 2 * d * w * s + 2 * w * t * (t + s)
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 2.0 * (float(layers.sum()) + float(num_outputs) * d * config.vocab_size)


def peak_flops(device_name: str) -> float | None:
    """Return the dense bfloat16 peak of a GPU by the name that torch gives it; None for one that is not listed."""
    matches = [name for name in PEAK_FLOPS if device_name.startswith(name)]
    return PEAK_FLOPS[max(matches, key=len)] if matches else None


@functools.cache
def measured_cpu_peak() -> float:
    """Return the best rate of a few large float32 matrix products, in operations a second.

    A CPU's peak follows from its clock, which is not known, and no product reaches it; so the utilisation that is
    reported is of what products reach here. Measured once a process.
    """
    import torch

    size = 768
    left, right = torch.ones(size, size), torch.ones(size, size)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(left, right)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - started))
    return best
