"""Counted operations against torch's own counter, and the table of peaks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.training.batching import Batches
from model.training.flops import PEAK_FLOPS, Flops, batch_flops, forward_flops, measured_cpu_peak, peak_flops
from model.training.trainer import TrainingNetwork
from model.transformer import Transformer
from tests.unit.test_training_batching import LANGUAGES, random_corpus
from tests.unit.tiny_training import model_config, one_cpu_thread, tokenizer


def counted(network: TrainingNetwork, tensors: tuple[torch.Tensor | None, ...]) -> int:
    """Return what torch counts of a forward and backward pass; it does not know ``addmm_``, which the loss uses."""
    mapping: dict[Any, Any] = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with one_cpu_thread(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        loss, _ = network(*tensors)
        loss.backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_encoder_layers": 3, "num_decoder_layers": 2, "d_ff": 40},
        {"head_dim": 12, "gated": True, "linear_bias": False},
        {"tie_output": False, "tie_source_target": False, "output_bias": True},
    ],
)
@pytest.mark.parametrize("num_shapes", [0, 3])
def test_executed_operations_are_those_that_torch_counts(changes: dict[str, Any], num_shapes: int) -> None:
    config = model_config(**changes)
    batches = Batches(random_corpus(50), tokenizer(), config, LANGUAGES, 256, 1, num_shapes=num_shapes)
    network = TrainingNetwork(Transformer(config), 0.1, compiled=False)
    for examples in batches.epoch(0)[:3]:
        batch = batches.collate(examples)
        assert counted(network, batch.tensors) == batch.flops.executed
        assert 0 < batch.flops.useful < batch.flops.executed


def test_useful_operations_are_those_of_each_sentence_alone() -> None:
    config = model_config()
    batches = Batches(random_corpus(30), tokenizer(), config, LANGUAGES, 200, 1)
    network = TrainingNetwork(Transformer(config), 0.1, compiled=False)
    examples = max(batches.epoch(0), key=len)
    alone = [batches.collate([example]) for example in examples.tolist()]
    assert len(alone) > 3
    assert sum(counted(network, batch.tensors) for batch in alone) == batches.collate(examples).flops.useful
    assert all(batch.flops.executed == batch.flops.useful for batch in alone)


def test_a_layer_by_hand() -> None:
    config = model_config(vocab_size=300, d_model=8, d_ff=16, num_heads=2)
    source, target = np.array([5]), np.array([3])
    encoder = 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    decoder = 3 * (6 * 8 * 8 + 2 * 8 * 16) + 5 * 2 * 8 * 8 + 2 * 3 * 3 * 8 + 2 * 3 * 5 * 8
    assert forward_flops(config, source, target, 3) == 2 * (encoder + decoder + 3 * 8 * 300)
    assert batch_flops(config, (1, 5, 3), source, target) == Flops(*[6.0 * (encoder + decoder + 3 * 8 * 300)] * 2)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 311.9),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_peaks_by_the_names_that_devices_have(name: str, teraflops: float) -> None:
    assert peak_flops(name) == teraflops * 1e12


def test_an_unknown_device_has_no_peak() -> None:
    assert peak_flops("NVIDIA H1000") is None or "NVIDIA H100" not in PEAK_FLOPS
    assert peak_flops("Some Other Chip") is None


def test_the_measured_peak_is_a_rate_of_this_machine() -> None:
    # A core does 0.1 to 200 GFLOP/s in float32; whatever it is, it is not measured twice.
    peak = measured_cpu_peak()
    assert 1e8 < peak < 2e11 * (os.cpu_count() or 1)
    assert measured_cpu_peak() == peak
