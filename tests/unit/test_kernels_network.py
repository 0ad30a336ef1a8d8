"""The compiled network against the plain one: every variation, from sources to the logits of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.generation.rows import NetworkRows, Rows
from model.kernels.linear import WeightKind
from model.kernels.packing import PackedNetwork
from model.kernels.rows import CAPACITY, KernelRows
from model.transformer import Transformer
from tests.unit.kernel_reference import KINDS, twin
from tests.unit.network_variations import VARIATIONS, build

ODD = {"d_model": 6, "d_ff": 10, "num_heads": 2, "head_dim": None}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "width_6": ("default", ODD),
    "width_10": ("marian", {"d_model": 10, "num_heads": 5, "d_ff": 7}),
    "width_7": ("relative", {"d_model": 7, "num_heads": 7, "d_ff": 9}),
    "width_9_learned": ("bart", {"d_model": 9, "num_heads": 3, "d_ff": 5, "vocab_size": 33}),
    "heads_wider_than_the_model": ("t5", {"d_model": 10, "head_dim": 9, "num_heads": 3}),
    "many_heads": ("default", {"num_heads": 16}),
    "gated_relu": ("default", {"gated": True}),
    "gated_gelu": ("gelu", {"gated": True}),
    "gated_gelu_tanh": ("gelu_tanh", {"gated": True}),
    "silu": ("default", {"activation": "silu"}),
    "gated_post_rms": ("gated_silu", {"norm_position": "post", "norm_type": "rms"}),
    "sinusoids_with_offset": ("default", {"position_offset": 3}),
    "relative_and_embedding_norm": ("relative", {"embedding_norm": True, "norm_position": "post"}),
    "relative_far": ("relative", {"relative_max_distance": 200, "relative_num_buckets": 32}),
    "output_and_nothing_tied": ("nothing_tied", {"output_bias": True, "output_scale": 2.0, "linear_bias": False}),
    "layers_1_3": ("default", {"num_encoder_layers": 1, "num_decoder_layers": 3}),
    "layers_3_1": ("marian", {"num_encoder_layers": 3, "num_decoder_layers": 1}),
    "large_vocabulary": ("default", {"vocab_size": 517}),
}
"""What one setting at a time does not show."""
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in VARIATIONS} | MORE
SOURCES = [[5, 6, 7, 8, 9, 10, 11], [20], [27, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [13, 14]]


def script(rows: Rows, num_steps: int, vocab_size: int) -> list[Tensor]:
    """Run everything that a search does to rows, and return the logits of all steps."""
    random = np.random.default_rng(0)

    def step(count: int) -> None:
        tokens: list[int] = random.integers(0, vocab_size, rows.num_rows).tolist()
        results.append(rows.step(tokens))
        assert rows.num_rows == count

    results: list[Tensor] = []
    rows.append(SOURCES[:2])
    step(2)
    step(2)
    rows.select([0, 0, 0, 1, 1])  # beams fan out
    step(5)
    rows.append(SOURCES[2:3])  # another joins on the way
    step(6)
    rows.select([2, 0, 2, 4, 3, 5])  # beams change places, and one has two children
    step(6)
    rows.append(SOURCES[3:])
    rows.select([6, 5, 1, 3])  # requests change places, and some beams leave
    for _ in range(num_steps):
        step(4)
    rows.select([3, 0, 0])
    step(3)
    rows.select([])
    assert rows.num_rows == 0
    rows.append(SOURCES[:1])
    step(1)
    return results


def compare(model: Transformer, kind: WeightKind, num_steps: int) -> list[tuple[Tensor, Tensor]]:
    """Return the compiled and the plain logits of all steps."""
    found = script(KernelRows(PackedNetwork(model, kind)), num_steps, model.config.vocab_size)
    expected = script(NetworkRows(twin(model, kind)), num_steps, model.config.vocab_size)
    assert [each.shape for each in found] == [each.shape for each in expected]
    assert all(each.dtype == torch.float32 for each in found)
    return list(zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_plain_network_with_the_same_weights(name: str, kind: WeightKind) -> None:
    variation, fields = NETWORKS[name]
    model = build(variation, **fields)
    for found, expected in compare(model, kind, 1):
        # Sums in another order, through layers of numbers around one; norms can magnify it a few times.
        torch.testing.assert_close(found, expected, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("name", ["default", "marian", "t5", "bart", "width_10", "nothing_tied"])
def test_logits_of_int8_are_those_of_its_twin(name: str) -> None:
    variation, fields = NETWORKS[name]
    model = build(variation, **fields)
    differences = torch.cat([(found - expected).abs().flatten() for found, expected in compare(model, "int8", 1)])
    # Where an input lies half way between two levels, float32 rounding decides which one it gets; that is rare, and
    # moves what follows by some hundredths.
    assert differences.quantile(0.8) < 1e-4
    assert differences.max() < 0.3


@pytest.mark.parametrize(("name", "kind"), [("default", "int8"), ("relative", "float16"), ("learned", "float32")])
def test_rows_grow_to_the_last_position(name: str, kind: WeightKind) -> None:
    model = build(name, max_target_length=2 * CAPACITY + 5, d_ff=8)
    limit = model.config.max_target_length
    random = np.random.default_rng(0)
    compiled, reference = KernelRows(PackedNetwork(model, kind)), NetworkRows(twin(model, kind))
    source = [int(token) for token in random.integers(0, 29, model.config.max_source_length)]
    compiled.append([source])
    reference.append([source])
    worst = []
    for _ in range(limit):
        token = [int(random.integers(0, 29))]
        worst.append((compiled.step(token) - reference.step(token)).abs().max().item())
    # As above; an int8 level that fell on the other side stays in the keys and values of all later steps.
    assert max(worst) < (0.3 if kind == "int8" else 5e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_same_to_the_bit_alone_and_together(kind: WeightKind) -> None:
    network = PackedNetwork(build("default"), kind)

    def steps(sources: Sequence[Sequence[int]]) -> Tensor:
        rows = KernelRows(network)
        rows.append(sources)
        return torch.stack([rows.step([3 + index] * len(sources)) for index in range(6)], dim=1)

    together = steps([SOURCES[index % 4] for index in range(131)])
    for index, source in enumerate(SOURCES):
        alone = steps([source])[0]
        assert all(torch.equal(each, alone) for each in together[index::4])


@pytest.mark.parametrize("kind", KINDS)
def test_packing_leaves_the_network_as_it_is_and_counts_its_memory(kind: WeightKind) -> None:
    model = build("output", d_model=32, d_ff=64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    packed = PackedNetwork(model, kind)
    assert (packed.config, packed.kind) == (model.config, kind)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    matrices = sum(each.numel() for each in model.parameters() if each.dim() == 2)
    tied = model.projection.numel()
    element = {"float32": 4, "float16": 2, "int8": 1}[kind]
    least = element * matrices + (2 if kind == "int8" else element) * tied  # the table is kept for embedding and output
    assert least <= packed.num_bytes < 2 * least  # biases, scales, positions, and what fills up vectors


def test_a_packed_network_does_not_follow_its_model() -> None:
    model = build("default")
    packed = PackedNetwork(model, "float32")
    rows = KernelRows(packed)
    rows.append(SOURCES[:1])
    before = rows.step([2])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    rows.select([])
    rows.append(SOURCES[:1])
    assert torch.equal(rows.step([2]), before)
