"""Decoding in slots is decoding: every option, every network, in every company, gives what the plain path gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from model.config import GenerationConfig
from model.generation import GenerationInput, Hypothesis, generate
from model.generation.hypothesis import normalized_score
from model.graphs import GraphBatch, graph_batch
from model.graphs.graphs import Launcher
from model.graphs.network import GraphNetwork
from model.transformer import Transformer
from tests.unit.network_variations import VARIATIONS, build
from tests.unit.replaying_launcher import ReplayingLauncher

CPU = torch.device("cpu")
BANNED = (0, 2)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def new_batch(model: Transformer, launcher: Launcher | None = None) -> GraphBatch[int]:
    """Return a batch that repeats its steps as graphs do."""
    network = GraphNetwork(model, CPU, torch.float32)
    return GraphBatch(network, lambda: model, BANNED, ReplayingLauncher() if launcher is None else launcher)


def run(batch: GraphBatch[int], inputs: Sequence[GenerationInput], together: int = 100) -> list[list[Hypothesis]]:
    """Decode all inputs, so many joining before each call of ``step``."""
    waiting = list(enumerate(inputs))
    results: dict[int, list[Hypothesis]] = {}
    while waiting or batch.num_requests:
        batch.add(waiting[:together])
        del waiting[:together]
        for key, hypotheses in batch.step():
            assert key not in results
            results[key] = hypotheses
    return [results[key] for key in range(len(inputs))]


def assert_same(
    found: Sequence[Sequence[Hypothesis]], expected: Sequence[Sequence[Hypothesis]], inputs: Sequence[GenerationInput]
) -> None:
    """Tokens, order and reasons are equal. So are log-probabilities up to float32's sums in another order."""
    for mine, theirs, item in zip(found, expected, inputs, strict=True):
        assert [(h.token_ids, h.finish_reason) for h in mine] == [(h.token_ids, h.finish_reason) for h in theirs], item
        for ours, reference in zip(mine, theirs, strict=True):
            # Logits of about 10 have an error of 1e-6 for each of a few layers.
            assert ours.token_log_probs == pytest.approx(reference.token_log_probs, abs=2e-5)
            assert ours.log_prob == sum_from_left(ours.token_log_probs)
            length = len(ours.token_log_probs)
            assert ours.score == normalized_score(ours.log_prob, length, item.config.length_penalty)


def sum_from_left(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def some_inputs(configs: Sequence[GenerationConfig], vocab_size: int, seed: int = 0) -> list[GenerationInput]:
    """Return a source of any length for each configuration."""
    choose = random.Random(seed)
    lengths = [choose.randint(1, 20) for _ in configs]
    sources = [[choose.randrange(4, vocab_size - 1) for _ in range(length)] for length in lengths]
    return [GenerationInput(source, config) for source, config in zip(sources, configs, strict=True)]


SOME = [
    GenerationConfig(beam_size=1, max_new_tokens=12),
    GenerationConfig(beam_size=3, num_hypotheses=3, max_new_tokens=10),
    GenerationConfig(beam_size=1, max_new_tokens=5),
    GenerationConfig(beam_size=3, num_hypotheses=2, length_penalty=0.0, max_new_tokens=9),
]
"""A few options, for tests whose subject is something else."""


@pytest.mark.parametrize("variation", VARIATIONS)
def test_every_network_gives_the_same(variation: str) -> None:
    model = build(variation)
    inputs = some_inputs(SOME, model.config.vocab_size)
    assert_same(run(new_batch(model), inputs, together=3), generate(model, inputs, BANNED), inputs)


OPTIONS = [
    GenerationConfig(
        beam_size=beam_size, num_hypotheses=num_hypotheses, patience=patience, length_penalty=penalty, max_new_tokens=14
    )
    for beam_size, num_hypotheses, patience, penalty in [
        *[(beam_size, 1, 1.0, 1.0) for beam_size in (1, 2, 3, 4, 5)],
        *[(beam_size, beam_size, 1.0, 1.0) for beam_size in (2, 3, 4, 5)],
        *[(4, 2, patience, 1.0) for patience in (0.25, 0.5, 1.6, 3.0)],
        *[(3, 2, 1.0, penalty) for penalty in (-2.0, -0.5, 0.0, 0.6, 2.5)],
        *[(1, 1, 1.0, penalty) for penalty in (-1.0, 0.0, 2.0)],
    ]
]


def ending_model(**fields: Any) -> Transformer:
    """Return a network whose targets have all lengths: the end token is likely, and words have many blocks."""
    model = build("default", **{"vocab_size": 700, "output_bias": True, **fields})
    with torch.no_grad():
        assert model.output_bias is not None
        model.output_bias[model.config.eos_id] = 1.5
    return model


def test_every_option_gives_the_same() -> None:
    model = ending_model()
    inputs = some_inputs(OPTIONS, 700)
    expected = generate(model, inputs, BANNED)
    found = run(new_batch(model), inputs, together=7)
    assert_same(found, expected, inputs)
    reasons = [hypothesis.finish_reason for hypotheses in found for hypothesis in hypotheses]
    assert min(reasons.count("end"), reasons.count("length")) > 3  # both ways of ending were met
    lengths = {len(hypothesis.token_ids) for hypotheses in found for hypothesis in hypotheses}
    assert len(lengths) > 4


def test_limits_come_from_source_and_model() -> None:
    model = build("default", max_target_length=21)
    configs = [
        GenerationConfig(beam_size=1),
        GenerationConfig(beam_size=2),
        GenerationConfig(beam_size=1, max_length_ratio=0.1),
        GenerationConfig(beam_size=2, max_new_tokens=1, num_hypotheses=2),
        GenerationConfig(beam_size=1, max_new_tokens=1),
    ]
    inputs = some_inputs(configs, model.config.vocab_size, seed=3)
    assert_same(run(new_batch(model), inputs), generate(model, inputs, BANNED), inputs)


def test_long_targets_fill_several_buckets_of_columns() -> None:
    model = build("relative", max_target_length=75)
    configs = [GenerationConfig(beam_size=beams, max_new_tokens=limit) for beams, limit in ((1, 75), (2, 70), (1, 9))]
    inputs = some_inputs(configs, model.config.vocab_size, seed=1)
    expected = generate(model, inputs, BANNED)
    assert max(len(hypotheses[0].token_ids) for hypotheses in expected) > 64
    launcher = ReplayingLauncher()
    assert_same(run(new_batch(model, launcher), inputs), expected, inputs)
    assert {size.columns for size in launcher.sizes} == {32, 64, 96}


def test_few_tokens_leave_beams_empty() -> None:
    model = build("default", vocab_size=7)
    config = GenerationConfig(beam_size=5, num_hypotheses=5, max_new_tokens=6)
    inputs = [GenerationInput([4, 5, 4], config), GenerationInput([5], config)]
    banned = (0, 1, 2, 6)  # leaves the end token and two words
    batch = GraphBatch[int](GraphNetwork(model, CPU, torch.float32), lambda: model, banned, ReplayingLauncher())
    assert_same(run(batch, inputs), generate(model, inputs, banned), inputs)


def test_rare_options_take_the_plain_path() -> None:
    model = build("default")
    configs = [
        GenerationConfig(beam_size=1, max_new_tokens=9),
        GenerationConfig(beam_size=1, sampling=True, seed=5, num_hypotheses=2, max_new_tokens=9),
        GenerationConfig(beam_size=3, target_prefix=(7, 8), max_new_tokens=9),
        GenerationConfig(beam_size=2, no_repeat_ngram_size=2, repetition_penalty=1.3, max_new_tokens=9),
        GenerationConfig(beam_size=2, banned_tokens=(9,), min_new_tokens=3, max_new_tokens=9),
        GenerationConfig(beam_size=33, max_new_tokens=3),
    ]
    inputs = some_inputs(configs, model.config.vocab_size, seed=2)
    batch = new_batch(model)
    assert_same(run(batch, inputs), generate(model, inputs, BANNED), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_formats_are_near_float32(dtype: torch.dtype) -> None:
    model = ending_model()
    configs = [GenerationConfig(beam_size=1, max_new_tokens=1), GenerationConfig(target_prefix=(9,), max_new_tokens=2)]
    inputs = some_inputs(configs * 3, 700, seed=8)  # one of them rare, which takes a converted copy of the network
    expected = generate(model, inputs, BANNED)
    found = run(graph_batch(model, CPU, dtype, BANNED), inputs)
    for mine, theirs in zip(found, expected, strict=True):
        # bfloat16 has 8 bits: 2 ** -8 of logits of up to 20, in a few layers.
        assert mine[0].log_prob == pytest.approx(theirs[0].log_prob, abs=0.3)
        assert len(mine[0].token_log_probs) == len(theirs[0].token_log_probs)
    assert next(model.parameters()).dtype == torch.float32


@needs_cuda
@pytest.mark.parametrize("variation", ["default", "marian", "bart", "t5"])
def test_cuda_gives_the_same_in_float32(variation: str) -> None:
    model = build(variation)
    inputs = [item for seed in range(4) for item in some_inputs(SOME, model.config.vocab_size, seed)]
    batch: GraphBatch[int] = graph_batch(model, torch.device("cuda"), torch.float32, BANNED)
    assert_same(run(batch, inputs, together=3), generate(model, inputs, BANNED), inputs)


@needs_cuda
def test_cuda_graphs_give_the_same_with_every_option() -> None:
    model = ending_model(max_target_length=75)
    inputs = [item for seed in range(4) for item in some_inputs(OPTIONS, 700, seed)]
    batch: GraphBatch[int] = graph_batch(model, torch.device("cuda"), torch.float32, BANNED)
    assert_same(run(batch, inputs, together=7), generate(model, inputs, BANNED), inputs)
