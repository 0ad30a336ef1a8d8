"""Schedules against their formulas, Muon against the singular value decomposition, the average against a hand count."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from model.errors import ConfigurationError
from model.training.optimizer import Muon, Optimizer, WeightAverage, learning_rate_factor, orthogonalize
from model.training_config import OptimizerConfig
from model.transformer import Transformer
from tests.unit.tiny_training import model_config, one_cpu_thread

Schedule = Literal["cosine", "inverse_sqrt", "linear"]


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


def schedule(name: Schedule, **changes: Any) -> OptimizerConfig:
    return OptimizerConfig(schedule=name, **{"warmup_steps": 10, "total_steps": 110, "final_fraction": 0.1, **changes})


def small_network() -> Transformer:
    torch.manual_seed(4)
    return Transformer(model_config(dropout=0.0, attention_dropout=0.0))


def set_gradients(network: nn.Module, seed: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


@pytest.mark.parametrize("name", ["cosine", "inverse_sqrt", "linear"])
def test_warm_up_rises_by_equal_amounts_to_the_peak(name: Schedule) -> None:
    factors = [learning_rate_factor(schedule(name), step) for step in range(10)]
    assert factors == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


@pytest.mark.parametrize(
    ("name", "step", "factor"),
    [
        ("cosine", 10, 1.0),
        ("cosine", 35, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2),  # a quarter of the way: cos 45 degrees
        ("cosine", 60, 0.55),  # half-way between peak and end
        ("cosine", 110, 0.1),
        ("cosine", 1000, 0.1),
        ("linear", 10, 1.0),
        ("linear", 60, 0.55),
        ("linear", 85, 0.325),
        ("linear", 110, 0.1),
        ("linear", 1000, 0.1),
        ("inverse_sqrt", 39, 0.5),  # the 40th step, four times the warm-up
        ("inverse_sqrt", 89, 1 / 3),
    ],
)
def test_decay_at_key_points(name: Schedule, step: int, factor: float) -> None:
    assert learning_rate_factor(schedule(name), step) == pytest.approx(factor, rel=1e-12)


def test_schedule_without_warm_up_starts_at_the_peak() -> None:
    assert learning_rate_factor(schedule("cosine", warmup_steps=0), 0) == 1.0
    assert learning_rate_factor(schedule("inverse_sqrt", warmup_steps=0), 3) == 0.5


def test_warm_up_may_fill_the_whole_run() -> None:
    config = schedule("linear", warmup_steps=110)
    assert learning_rate_factor(config, 109) == 1.0
    assert learning_rate_factor(config, 110) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_orthogonalize_keeps_singular_vectors_and_levels_singular_values(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape), generator=generator))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape), generator=generator))
    # Singular values over one and a half orders of magnitude, all different, so that the vectors are determined.
    values = torch.logspace(0, -1.5, min(shape))
    result = orthogonalize(left @ values.diag() @ right.t())
    projected = left.t() @ result @ right
    # Five float32 matrix products a step: entries of size one are off by some 1e-6 each.
    torch.testing.assert_close(projected, projected.diagonal().diag(), atol=2e-5, rtol=0)
    torch.testing.assert_close(left @ projected @ right.t(), result, atol=2e-5, rtol=0)
    # The interval between which the iteration's coefficients let singular values wander.
    assert bool((projected.diagonal() > 0.6).all())
    assert bool((projected.diagonal() < 1.3).all())


def test_orthogonalize_does_not_depend_on_the_scale() -> None:
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(orthogonalize(matrix * 1e-3), orthogonalize(matrix * 10), atol=1e-3, rtol=0)


def test_orthogonalize_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_muon_moves_as_torchs_own(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(8)
    ours = nn.Parameter(torch.randn(shape, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = (
        Muon([ours], lr=0.02, momentum=0.9, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True),
    )
    start = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    # torch's iterates in bfloat16 (8 bits), five times: directions agree to about one in a hundred.
    assert float(((ours - theirs).norm() / (theirs - start).norm()).detach()) < 0.03


def test_adamw_moves_as_torchs_own() -> None:
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.1, warmup_steps=2, total_steps=10, clip_norm=1e9)
    ours = small_network()
    theirs = copy.deepcopy(ours)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9)
    optimizer = Optimizer(ours, config)
    for step in range(5):
        set_gradients(ours, seed=step)
        set_gradients(theirs, seed=step)
        for group in reference.param_groups:
            group["lr"] = 0.01 * learning_rate_factor(config, step)
        assert optimizer.learning_rate == reference.param_groups[0]["lr"]
        reference.step()
        optimizer.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # The fused kernel rounds in another order than the reference's loop.
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, msg=name)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    network = small_network()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    config = OptimizerConfig(name="muon", learning_rate=1e-3, muon_learning_rate=1e-9, warmup_steps=0, total_steps=10)
    set_gradients(network, seed=1)
    Optimizer(network, config).step()
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    # Muon's rate is too small to be seen, Adam's first step moves every weight by its learning rate.
    matrices = {name for name, value in before.items() if ".layers." in name and value.dim() == 2}
    assert matrices >= {
        "encoder.layers.0.feed_forward.in_proj.weight",
        "decoder.layers.0.cross_attention.q_proj.weight",
    }
    small = {name for name in matrices if (network.get_parameter(name) - before[name]).abs().max() > 1e-6}
    assert small == set()
    assert moved >= set(before) - matrices


def test_gradients_are_clipped_to_the_norm_and_forgotten() -> None:
    network = small_network()
    clipped, free = copy.deepcopy(network), copy.deepcopy(network)
    config = OptimizerConfig(name="muon", warmup_steps=0, total_steps=10, clip_norm=0.5)
    set_gradients(clipped, seed=3)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in clipped.parameters() if p.grad is not None))
    set_gradients(free, seed=3, scale=0.5 / norm)
    assert float(Optimizer(clipped, config).step()) == pytest.approx(norm, rel=1e-5)
    assert float(Optimizer(free, config).step()) == pytest.approx(0.5, rel=1e-5)
    assert all(parameter.grad is None for parameter in clipped.parameters())
    for mine, other in zip(clipped.parameters(), free.parameters(), strict=True):
        # The same gradients up to rounding; a step of Adam divides them by themselves.
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_round_trip_goes_on_as_if_nothing_had_happened(name: Literal["adamw", "muon"]) -> None:
    config = OptimizerConfig(name=name, warmup_steps=2, total_steps=10, weight_decay=0.1)
    network = small_network()
    optimizer = Optimizer(network, config)
    for step in range(3):
        set_gradients(network, seed=step)
        optimizer.step()
    other = copy.deepcopy(network)
    resumed = Optimizer(other, config)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.steps_done == 3
    for step in range(3, 6):
        for net, opt in ((network, optimizer), (other, resumed)):
            set_gradients(net, seed=step)
            opt.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_a_resumed_run_takes_the_options_of_its_new_recipe() -> None:
    network = small_network()
    before = Optimizer(network, OptimizerConfig(weight_decay=0.0, warmup_steps=0))
    set_gradients(network, seed=1)
    before.step()
    after = Optimizer(network, OptimizerConfig(weight_decay=0.5, beta2=0.9, warmup_steps=0))
    after.load_state_dict(before.state_dict())
    groups = [group for optimizer, _ in after._optimizers for group in optimizer.param_groups]
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert {group["betas"] for group in groups} == {(0.9, 0.9)}


def test_another_optimizer_than_the_run_began_with_is_refused() -> None:
    network = small_network()
    state = Optimizer(network, OptimizerConfig(name="adamw")).state_dict()
    with pytest.raises(ConfigurationError, match=r"optimizer\.name must stay as the run began, got 'muon'"):
        Optimizer(network, OptimizerConfig(name="muon")).load_state_dict(state)


def test_average_equals_a_hand_computed_one() -> None:
    layer = nn.Linear(1, 1, bias=False)

    def set_weight(value: float) -> None:
        with torch.no_grad():
            layer.weight.fill_(value)

    set_weight(8.0)
    average = WeightAverage(layer, decay=0.25)
    for value in (4.0, 2.0, 16.0, 0.0):
        set_weight(value)
        average.update(layer)
    # Decays 1/10, 2/11, 3/12, and then 4/13 is above the limit of 1/4.
    expected = 8.0
    for decay, value in ((1 / 10, 4.0), (2 / 11, 2.0), (1 / 4, 16.0), (1 / 4, 0.0)):
        expected = decay * expected + (1 - decay) * value
    assert average.num_updates == 4
    assert float(average.weights["weight"]) == pytest.approx(expected, rel=1e-6)
    assert layer.weight.tolist() == [[0.0]]


def test_average_goes_on_from_an_earlier_one() -> None:
    layer = nn.Linear(2, 2)
    average = WeightAverage(layer, decay=0.5)
    stored: dict[str, Tensor] = {"weight": torch.ones(2, 2), "bias": torch.full((2,), 3.0)}
    average.load(stored, num_updates=7)
    assert average.num_updates == 7
    assert all(torch.equal(average.weights[name], tensor) for name, tensor in stored.items())
    assert average.weights["weight"] is not stored["weight"]
