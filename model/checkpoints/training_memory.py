"""What training a network would need, by arithmetic alone: weights, gradients, optimiser, average, activations.

Everything is held in float32, as the trainer does. What the forward pass keeps for the backward pass is counted layer
by layer; a test compares it with what torch really keeps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from model.checkpoints.inspection import Shapes
from model.config import ModelConfig

OptimizerName = Literal["adamw", "muon"]
Sharding = Literal["replicated", "zero1", "zero2", "zero3"]
SHARDINGS: tuple[Sharding, ...] = ("replicated", "zero1", "zero2", "zero3")
"""Every device holds everything (DDP), or a share of the optimiser's states, of the gradients as well, or of the
weights as well (FSDP): the three stages of ZeRO (Rajbhandari et al. 2020, section 5)."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class TrainingBatch:
    """One micro-batch on one device."""

    tokens: int
    """Target tokens, padding included; sources have as many."""
    length: int
    """Tokens of each row."""

    @property
    def rows(self) -> int:
        """Rows of the batch, at least one."""
        return max(1, self.tokens // self.length)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that one device holds in a training step."""

    weights: int
    gradients: int
    optimizer_states: int
    average: int
    """The moving average of the weights."""
    activations: int
    """What the forward pass keeps for the backward pass of one micro-batch."""
    gathered: int = 0
    """With sharded weights, the largest layer or table, which is whole while it is used."""

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, each.name) for each in dataclasses.fields(self))


def training_memory(
    config: ModelConfig,
    shapes: Shapes,
    batch: TrainingBatch,
    optimizer: OptimizerName = "adamw",
    *,
    average: bool = True,
    sharding: Sharding = "replicated",
    num_devices: int = 1,
    fused: bool = False,
) -> TrainingMemory:
    """Return what one device needs.

    Args:
        config: the network's shape, its dropout included.
        shapes: its parameters' shapes by name.
        batch: what it trains on at once.
        optimizer: AdamW for all, or Muon for the layers' matrices and AdamW for the rest.
        average: whether the moving average of the weights is kept; it is sharded where the weights are.
        sharding: what the devices share.
        num_devices: how many share it.
        fused: as in :func:`activation_bytes`.
    """
    weights = FLOAT_BYTES * sum(math.prod(shape) for shape in shapes.values())
    states = optimizer_bytes(shapes, optimizer)
    stage = SHARDINGS.index(sharding)

    def share(size: int, from_stage: int) -> int:
        return -(-size // num_devices) if stage >= from_stage else size

    return TrainingMemory(
        weights=share(weights, 3),
        gradients=share(weights, 2),
        optimizer_states=share(states, 1),
        average=share(weights, 3) if average else 0,
        activations=activation_bytes(config, batch, fused=fused),
        gathered=max(_units(shapes).values()) if stage == 3 and num_devices > 1 else 0,
    )


def optimizer_bytes(shapes: Shapes, optimizer: OptimizerName) -> int:
    """Return the bytes of the optimiser's states.

    AdamW has two moments of each parameter and counts steps in a number of its own for each tensor; Muon has one
    momentum of each of the layers' matrices.
    """
    total = 0
    for name, shape in shapes.items():
        orthogonalized = optimizer == "muon" and len(shape) >= 2 and ".layers." in name
        total += math.prod(shape) if orthogonalized else 2 * math.prod(shape) + 1
    return FLOAT_BYTES * total


def activation_bytes(config: ModelConfig, batch: TrainingBatch, *, fused: bool = False) -> int:
    """Return the bytes that the forward pass of one micro-batch keeps, masks and token ids left out.

    With N positions of a side, width D, attention width A = heads * head_dim, and L tokens in each of B rows of H
    heads, it keeps

    - for each sub-layer, its norm's input and its matrices' input, 2 N D, and the mask of its dropout, N D;
    - for each attention, queries, keys, values and the mixed values, 4 N A, and the attention weights, B H L^2;
    - for each feed-forward layer N F, twice without ReLU (input and output of the activation), and two more when gated;
    - for each norm two numbers a position; an RMS norm instead one, and its normalised values, N D;
    - for each side the embeddings' dropout mask, N D, their norm's and the last norm's input, where there are such;
    - the encoder's output, N D, and the loss' gradients of the decoder's output and of the output matrix, N D + V D.

    Args:
        config: the network's shape.
        batch: rows and their length, the same for sources and targets.
        fused: the attention of CUDA devices, which keeps its output instead of weights, and masks in bytes; this is
            counted from the operations, where the other is checked against what torch keeps.
    """
    positions = batch.rows * batch.length
    d_model, width = config.d_model, config.num_heads * config.width_per_head
    mask = (d_model if not fused else d_model / FLOAT_BYTES) if config.dropout else 0
    norm = 2 if config.norm_type == "layer" else 1 + d_model
    sublayer = 2 * d_model + mask + norm
    maps = 3 if config.attention_dropout else 1
    weights = config.num_heads * batch.length * maps if not fused else width + config.num_heads
    attention = sublayer + 4 * width + weights
    inner = (1 if config.activation == "relu" else 2) + (2 if config.gated else 0)
    feed_forward = sublayer + inner * config.d_ff
    side = mask + (config.embedding_norm + config.final_norm) * (d_model + norm)
    numbers = config.num_encoder_layers * (attention + feed_forward)
    numbers += config.num_decoder_layers * (2 * attention + feed_forward)
    numbers += 2 * side + 2 * d_model
    output = config.vocab_size * (d_model + config.output_bias)
    return FLOAT_BYTES * math.ceil(positions * numbers + output)


def _units(shapes: Shapes) -> Mapping[str, int]:
    """Return the bytes of each layer, and of each parameter outside the layers: what sharded training gathers."""
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        unit = ".".join(parts[:3]) if parts[1:2] == ["layers"] else name
        found[unit] = found.get(unit, 0) + FLOAT_BYTES * math.prod(shape)
    return found
