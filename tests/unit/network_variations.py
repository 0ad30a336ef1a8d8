"""Small networks for tests: one of every setting that changes what is computed, with all parameters drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer

VOCAB_SIZE = 29

assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
"""What float32 owes: sums in another order, in a network of a few layers with numbers around one."""

VARIATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "post_norm": {"norm_position": "post", "final_norm": False},
    "post_and_final_norm": {"norm_position": "post"},
    "pre_norm_without_final": {"final_norm": False},
    "rms_norm": {"norm_type": "rms", "norm_epsilon": 1e-3},
    "embedding_norm": {"embedding_norm": True},
    "embedding_rms_norm": {"embedding_norm": True, "norm_type": "rms"},
    "halves": {"sinusoid_layout": "halves"},
    "halves_fairseq": {"sinusoid_layout": "halves_fairseq", "position_offset": 2},
    "learned": {"position_type": "learned", "position_offset": 2},
    "relative": {"position_type": "relative", "relative_num_buckets": 8, "relative_max_distance": 10},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "gated_silu": {"activation": "silu", "gated": True},
    "without_bias": {"linear_bias": False},
    "head_dim": {"head_dim": 5, "num_heads": 3},
    "one_head": {"num_heads": 1},
    "attention_scale": {"attention_scale": 0.7},
    "embedding_scale": {"embedding_scale": 1.0},
    "own_target_table": {"tie_source_target": False},
    "own_output": {"tie_output": False},
    "nothing_tied": {"tie_source_target": False, "tie_output": False},
    "output": {"output_bias": True, "output_scale": 0.25},
    "marian": {
        "norm_position": "post",
        "final_norm": False,
        "sinusoid_layout": "halves",
        "activation": "silu",
        "output_bias": True,
        "pad_id": 28,
        "bos_id": 28,
        "eos_id": 0,
        "decoder_start_id": 28,
    },
    "bart": {
        "norm_position": "post",
        "final_norm": False,
        "embedding_norm": True,
        "position_type": "learned",
        "position_offset": 2,
        "activation": "gelu",
        "embedding_scale": 1.0,
        "output_bias": True,
    },
    "t5": {
        "norm_type": "rms",
        "norm_epsilon": 1e-6,
        "position_type": "relative",
        "relative_num_buckets": 8,
        "relative_max_distance": 9,
        "activation": "gelu_tanh",
        "gated": True,
        "linear_bias": False,
        "attention_scale": 1.0,
        "embedding_scale": 1.0,
        "output_scale": 16**-0.5,
        "head_dim": 6,
        "eos_id": 1,
        "decoder_start_id": 0,
    },
}
"""Name of a variation to the fields in which it differs from the default; the last three are whole families."""


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of different lengths, alone and padded together."""

    sources: list[list[int]]
    targets: list[list[int]]
    source_ids: Tensor
    target_input_ids: Tensor


def build(variation: str, **fields: Any) -> Transformer:
    """Return a network in evaluation mode whose every parameter is random, norms and biases included."""
    config = ModelConfig(
        **{
            "vocab_size": VOCAB_SIZE,
            "d_model": 16,
            "d_ff": 24,
            "num_heads": 4,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "max_source_length": 24,
            "max_target_length": 48,
            **VARIATIONS[variation],
            **fields,
        }
    )
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.25
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
    return model


def padded_batch(config: ModelConfig, lengths: tuple[tuple[int, int], ...] = ((7, 5), (1, 11), (13, 3))) -> PaddedBatch:
    """Return rows of random tokens with the given (source, target) lengths; targets begin with the start token."""
    generator = torch.Generator().manual_seed(3)
    words = [i for i in range(config.vocab_size) if i != config.pad_id]

    def draw(length: int) -> list[int]:
        return [words[int(i)] for i in torch.randint(len(words), (length,), generator=generator)]

    sources = [draw(source) for source, _ in lengths]
    targets = [[config.decoder_start_id, *draw(target - 1)] for _, target in lengths]
    return PaddedBatch(sources, targets, pad(sources, config.pad_id), pad(targets, config.pad_id))


def pad(rows: list[list[int]], pad_id: int) -> Tensor:
    """Return rows of ids as one tensor, padded behind."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
