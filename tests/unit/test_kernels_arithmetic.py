"""Compiled arithmetic of rows against float64: exponentials, norms, activations, softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from model.kernels.arithmetic import (
    GELU,
    GELU_TANH,
    RELU,
    SILU,
    activate,
    exp,
    layer_norm,
    log_sum_exp,
    multiply_gate,
    rms_norm,
    softmax,
)
from tests.unit.kernel_reference import Floats

COUNTS = [1, 2, 7, 8, 9, 63, 64, 65, 200]


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32)


def exponentials(values: Floats) -> Floats:
    """One by one; a loop over an array is what compiled callers have, see the test of softmax."""
    return np.array([exp(value) for value in values], np.float32)


def test_exponentials_are_right_to_two_units_in_the_last_place() -> None:
    values = np.concatenate([np.linspace(-87, 88, 6001), np.linspace(-1e-3, 1e-3, 1001), [0.0, -87.0, 88.0]])
    values = values.astype(np.float32)
    expected = np.exp(values.astype(np.float64))
    assert (np.abs(exponentials(values) / expected - 1) < 2e-7).all()  # what its documentation promises
    assert exp(np.float32(0)) == 1


def test_exponentials_below_the_normal_range_are_zero() -> None:
    values = np.array([np.nextafter(np.float32(-87), np.float32(-88)), -88, -104, -1e30, -np.inf], np.float32)
    assert exponentials(values).tolist() == [0, 0, 0, 0, 0]


def test_exponentials_keep_nan() -> None:
    assert np.isnan(exp(np.float32(np.nan)))


def test_exponentials_never_decrease() -> None:
    values = np.sort(np.random.default_rng(1).uniform(-90, 88, 6000).astype(np.float32))
    found = exponentials(values).astype(np.float64)
    assert (found[1:] >= found[:-1] * (1 - 4e-7)).all()  # twice its error


WIDTHS = [1, 6, 8, 10, 16, 33]


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norms_are_those_of_torch(width: int) -> None:
    source, weight, bias = 3 * normal(7, width) + 2, normal(width, seed=1), normal(width, seed=2)
    exact = torch.from_numpy(source).double()
    affine = torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    expected = F.layer_norm(exact, (width,), *affine, 1e-3).numpy()
    target = np.full((7, width + 3), np.float32(9))
    layer_norm(source, target, 5, weight, bias, np.float32(1e-3))
    # The mean of a row rounds to 1e-7 of its size, and is divided by a deviation of about 3 (of 0.03 for one number).
    np.testing.assert_allclose(target[:5, :width], expected[:5], atol=2e-5 if width == 1 else 3e-6, rtol=0)
    assert (target[5:] == 9).all()
    assert (target[:, width:] == 9).all()
    in_place = source.copy()
    layer_norm(in_place, in_place, 7, weight, bias, np.float32(1e-3))
    assert (in_place[:5] == target[:5, :width]).all()


def test_layer_norms_do_not_cancel_where_the_mean_is_large() -> None:
    source = normal(3, 24) + 1000
    ones, zeros = np.ones(24, np.float32), np.zeros(24, np.float32)
    target = np.empty_like(source)
    layer_norm(source, target, 3, ones, zeros, np.float32(1e-5))
    expected = F.layer_norm(torch.from_numpy(source).double(), (24,)).numpy()
    # Numbers around 1000 are 6e-5 apart, and so is their mean; a mean of squares minus a square would be off by units.
    np.testing.assert_allclose(target, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norms_are_their_definition(width: int) -> None:
    source, weight = 3 * normal(7, width) + 2, normal(width, seed=1)
    exact = source.astype(np.float64)
    expected = exact / np.sqrt((exact**2).mean(1, keepdims=True) + 1e-3) * weight
    target = np.full((7, width + 3), np.float32(9))
    rms_norm(source, target, 5, weight, np.float32(1e-3))
    np.testing.assert_allclose(target[:5, :width], expected[:5], rtol=1e-6)  # a few roundings of 6e-8
    assert (target[5:] == 9).all()
    assert (target[:, width:] == 9).all()
    in_place = source.copy()
    rms_norm(in_place, in_place, 7, weight, np.float32(1e-3))
    assert (in_place[:5] == target[:5, :width]).all()


def test_norms_of_zeros_are_the_bias_or_zero() -> None:
    zeros, weight, bias = np.zeros((1, 9), np.float32), normal(9), normal(9, seed=1)
    target = np.ones((1, 9), np.float32)
    layer_norm(zeros, target, 1, weight, bias, np.float32(1e-5))
    assert (target == bias).all()
    rms_norm(zeros, target, 1, weight, np.float32(1e-5))
    assert (target == 0).all()


ACTIVATIONS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    RELU: F.relu,
    GELU: F.gelu,
    GELU_TANH: lambda states: F.gelu(states, approximate="tanh"),
    SILU: F.silu,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_torch(activation: int) -> None:
    states = np.concatenate([np.linspace(-110, 110, 2003), np.linspace(-1, 1, 1000)]).astype(np.float32)
    states = np.tile(states, (3, 1))
    expected = ACTIVATIONS[activation](torch.from_numpy(states[0]).double()).numpy()
    before = states.copy()
    activate(states, 2, 3000, activation)
    # A few roundings, and exp's 2e-7, which its argument's rounding multiplies by up to 8 before the result is tiny.
    np.testing.assert_allclose(states[0, :3000], expected[:3000], rtol=3e-6, atol=1e-6)
    assert (states[1] == states[0]).all()
    assert (states[:2, 3000:] == before[:2, 3000:]).all()
    assert (states[2] == before[2]).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_keep_nan(activation: int) -> None:
    states = np.array([[1, np.nan, 2] * 5], np.float32)
    activate(states, 1, 15, activation)
    assert np.isnan(states[0, 1::3]).all()
    assert np.isfinite(states[0, ::3]).all()


def test_a_gate_is_the_second_half() -> None:
    states = normal(4, 22)
    before = states.copy()
    multiply_gate(states, 3, 11)
    assert (states[:3, :11] == before[:3, :11] * before[:3, 11:]).all()
    assert (states[:, 11:] == before[:, 11:]).all()
    assert (states[3] == before[3]).all()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_softmax_is_its_definition(count: int, scale: float) -> None:
    values = np.append(normal(count) * np.float32(scale), np.float32(1e9))
    exact = values[:count].astype(np.float64)
    expected = np.exp(exact - exact.max())
    expected /= expected.sum()
    softmax(values, count)
    # exp's 2e-7 twice and the rounding of a sum, exp's zero, and its argument's rounding where that is large
    relative = 1e-6 + 2.0**-24 * (exact.max() - exact)
    assert (np.abs(values[:count] - expected) <= relative * expected + 2e-38).all()
    assert values[count] == np.float32(1e9)


def test_softmax_of_something_that_is_not_finite_is_not_finite() -> None:
    for value in (np.nan, np.inf):
        for place in (0, 5, 18):
            values = normal(19)
            values[place] = value
            softmax(values, 19)
            assert not np.isfinite(values).all()


def lse(values: NDArray[Any]) -> float:
    """The compiled function, with the maximum that its callers have at hand."""
    return float(log_sum_exp(values, len(values), np.float32(np.max(values))))


@pytest.mark.parametrize("count", [*COUNTS, 5000])
@pytest.mark.parametrize("shift", [0.0, 500.0, -500.0])
def test_log_sum_exp_is_its_definition(count: int, shift: float) -> None:
    values = 5 * normal(count) + np.float32(shift)
    expected = torch.logsumexp(torch.from_numpy(values).double(), 0).item()
    assert lse(values) == pytest.approx(expected, rel=2e-7, abs=2e-6)  # float32 at its size, and a sum of 5000


def test_log_sum_exp_ignores_what_is_impossible() -> None:
    values = np.array([-np.inf, 1, -np.inf, 2], np.float32)
    assert lse(values) == pytest.approx(np.log(np.exp(1) + np.exp(2)), rel=2e-7)
    assert lse(np.array([3, -np.inf], np.float32)) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 8, 21, 64])
def test_log_sum_exp_is_not_finite_where_the_values_are_not(value: float, count: int) -> None:
    """Its callers take it for the sign of a broken network, whatever maximum they found among NaN."""
    everywhere = np.full(count, np.float32(value))
    assert not np.isfinite(lse(everywhere))
    if value == -np.inf:
        return
    for place in (0, count // 2, count - 1):
        values = normal(count)
        values[place] = value
        # A maximum among NaN can be any of the others, or none.
        for shift in [np.float32(value), *([np.float32(3), np.float32(-np.inf)] if np.isnan(value) else [])]:
            assert not np.isfinite(log_sum_exp(values, count, shift))
