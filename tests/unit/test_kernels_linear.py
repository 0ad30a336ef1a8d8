"""Compiled linear layers against products in float64 and in exact integers, for sizes that fit no vector."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from model.kernels.linear import INPUT_ZERO, PackedLinear, WeightKind
from model.kernels.machine import LANES
from model.kernels.tiles import QUAD, has_byte_dot_products, int8_tile
from tests.unit.kernel_reference import KINDS, Floats, int8_product, quantized_inputs, quantized_weight, run_linear

SIZES = [(1, 1), (3, 2), (4, 8), (5, 9), (8, 16), (15, 17), (16, 7), (17, 64), (30, 65), (67, 33), (130, 100)]
"""Inputs and outputs: one, multiples of 4, 8 and 16, and their neighbours; more outputs than eight blocks of eight."""
ROW_COUNTS = [1, 3, 4, 5, 128, 129, 130]
"""Fewer than a tile, a tile and its neighbours, and the same around the 128 that are multiplied together."""


def layer(num_inputs: int, num_outputs: int, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng((seed, num_inputs, num_outputs))
    weight = random.standard_normal((num_outputs, num_inputs), np.float32)
    return weight, random.standard_normal(num_outputs, np.float32)


def rows(count: int, num_inputs: int, seed: int = 1) -> Floats:
    """Return rows (R, I) of different sizes."""
    random = np.random.default_rng((seed, count))
    sizes = random.choice([0.01, 1, 30], (count, 1)).astype(np.float32)
    return random.standard_normal((count, num_inputs), np.float32) * sizes


def exact(kind: WeightKind, weight: Floats, inputs: Floats) -> NDArray[np.float64]:
    """The product as each kind defines it, in float64 or exact integers."""
    if kind == "int8":
        return int8_product(weight, inputs)
    rounded = (weight.astype(np.float16) if kind == "float16" else weight).astype(np.float64)
    product: NDArray[np.float64] = inputs.astype(np.float64) @ rounded.T
    return product


def tolerance(kind: WeightKind, weight: Floats, inputs: Floats) -> NDArray[np.float64]:
    """What a product owes: for floats the bound of a sum of I products, each step rounded to 2 ** -24.

    The sum of an int8 product is exact; its conversion, two scales and their products round six times.
    """
    if kind == "int8":
        owed: NDArray[np.float64] = 6 * 2.0**-24 * np.abs(int8_product(weight, inputs))
        return owed
    magnitudes: NDArray[np.float64] = np.abs(inputs).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    magnitudes *= (inputs.shape[1] + 1) * 2.0**-24 * (1 + 2.0**-10)  # float16 may round magnitudes up
    return magnitudes


def assert_product(kind: WeightKind, weight: Floats, bias: Floats | None, inputs: Floats) -> None:
    """Check the product, and the product added to something."""
    packed = PackedLinear.pack(weight, bias, kind)
    product, allowed = exact(kind, weight, inputs), tolerance(kind, weight, inputs)
    shift = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    last = 2.0**-23 * (np.abs(product) + np.abs(shift))  # adding the bias rounds once more
    assert (np.abs(run_linear(packed, inputs) - product - shift) <= allowed + last).all()
    present = rows(len(inputs), len(weight), seed=2)
    last += 2.0**-23 * (np.abs(product) + np.abs(shift) + np.abs(present))
    found = run_linear(packed, inputs, present)
    assert (np.abs(found - present.astype(np.float64) - product - shift) <= allowed + last).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_inputs", "num_outputs"), SIZES)
def test_products_of_every_size_are_those_of_numpy(kind: WeightKind, num_inputs: int, num_outputs: int) -> None:
    weight, bias = layer(num_inputs, num_outputs)
    for count in ROW_COUNTS:
        assert_product(kind, weight, bias, rows(count, num_inputs))
    assert_product(kind, weight, None, rows(6, num_inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_no_work(kind: WeightKind) -> None:
    assert run_linear(PackedLinear.pack(*layer(9, 9), kind), np.empty((0, 9), np.float32)).shape == (0, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_weights_of_zeros_give_the_bias(kind: WeightKind) -> None:
    weight, bias = layer(13, 21)
    found = run_linear(PackedLinear.pack(weight, bias, kind), np.zeros((5, 13), np.float32))
    assert (found == bias).all()
    found = run_linear(PackedLinear.pack(np.zeros_like(weight), bias, kind), rows(5, 13))
    assert (found == bias).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_behind_a_row_is_not_read(kind: WeightKind) -> None:
    """Workspaces are wider than a row's inputs."""
    weight, bias = layer(10, 11)
    wide = np.full((7, 24), np.float32(np.nan))
    wide[:, :10] = rows(7, 10)
    packed = PackedLinear.pack(weight, bias, kind)
    assert (run_linear(packed, wide) == run_linear(packed, np.ascontiguousarray(wide[:, :10]))).all()


@pytest.mark.parametrize("num_inputs", [3, 4, 64, 1031])
def test_int8_sums_are_exact_however_large_they_get(num_inputs: int) -> None:
    """Products are summed two by two in 16 bits, which hold what the largest bytes and pairs of weights can give."""
    random = np.random.default_rng(0)
    signs = random.choice([-1, 1], (40, num_inputs))
    lopsided = signs[:20] * (np.arange(num_inputs) % 2 == random.integers(0, 2, (20, 1)))  # one of a pair has it all
    uneven = signs[20:] * random.choice([0.2, 0.4, 0.6, 0.8], (20, num_inputs))
    ones = np.ones((1, num_inputs))
    weight = np.concatenate([ones, -ones, signs, lopsided, uneven]).astype(np.float32)
    inputs = np.concatenate([ones, -ones, signs[:8], uneven[:3], 0 * ones]).astype(np.float32)
    levels, row_scale = quantized_inputs(inputs)
    integers, scale = quantized_weight(weight)
    assert (np.abs(levels[:10]) == 127).all()
    assert (np.abs(integers[:22]) >= 63).all()
    assert (np.abs(integers[:, : num_inputs - 1 : 2]) + np.abs(integers[:, 1::2])).max() * 255 < 2**15
    found = run_linear(PackedLinear.pack(weight, None, "int8"), inputs)
    sums = levels @ integers.T
    assert sums.max() >= num_inputs * 127 * 63
    # The sums are below 2 ** 24, so float32 holds them; what is left is the one product with both scales.
    assert sums.max() < 2**24
    assert (found == sums.astype(np.float32) * (scale * row_scale)).all()


@pytest.mark.parametrize(("num_inputs", "num_outputs"), SIZES)
def test_int8_results_hold_the_very_integers(num_inputs: int, num_outputs: int) -> None:
    weight, _ = layer(num_inputs, num_outputs, seed=4)
    inputs = rows(9, num_inputs, seed=5)
    levels, row_scale = quantized_inputs(inputs)
    integers, scale = quantized_weight(weight)
    found = run_linear(PackedLinear.pack(weight, None, "int8"), inputs)
    assert (np.rint(found / (scale.astype(np.float64) * row_scale)) == levels @ integers.T).all()


def test_int8_is_close_to_the_product_that_it_stands_for() -> None:
    """Half a level of each operand is off at most, and these errors have random signs."""
    weight, bias = layer(256, 40)
    inputs = np.random.default_rng(3).standard_normal((50, 256), np.float32)
    error = run_linear(PackedLinear.pack(weight, bias, "int8"), inputs) - (inputs.astype(np.float64) @ weight.T + bias)
    levels = np.abs(inputs).max() / 127, 2 * np.abs(weight).max() / 127
    # Uniform errors have a variance of a twelfth; inputs and weights have a variance of one.
    assert error.std() < (256 * (levels[0] ** 2 + levels[1] ** 2) / 12) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_tiny_and_huge_inputs_stay_finite(kind: WeightKind, size: float) -> None:
    weight, _ = layer(12, 10)
    inputs = rows(5, 12, seed=7) * np.float32(size)
    found = run_linear(PackedLinear.pack(weight, None, kind), inputs)
    product = inputs.astype(np.float64) @ weight.astype(np.float64).T
    # int8 owes half a level of inputs and weights: 2 percent of the magnitudes at the very most
    magnitudes = np.abs(inputs).max(1, keepdims=True) * np.abs(weight).astype(np.float64).sum(1)
    assert (np.abs(found - product) <= 0.02 * magnitudes + 1e-30).all()


def test_weights_beyond_float16_are_the_largest_that_it_has() -> None:
    weight = np.array([[1e6, 0], [-1e6, 1]], np.float32)
    found = run_linear(PackedLinear.pack(weight, None, "float16"), np.array([[1, 2]], np.float32))
    assert found.tolist() == [[65504, -65502]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_stay_so_and_concern_only_themselves(kind: WeightKind, value: float) -> None:
    weight, bias = layer(19, 24)
    packed, inputs = PackedLinear.pack(weight, bias, kind), rows(9, 19)
    intact = run_linear(packed, inputs)
    for broken in (1, 8):  # in a tile of four rows, and behind them
        for place in (0, 7, 18):
            damaged = inputs.copy()
            damaged[broken, place] = value
            found = run_linear(packed, damaged)
            others = np.arange(9) != broken
            assert (found[others] == intact[others]).all()
            assert not np.isfinite(found[broken]).any()
    everywhere = inputs.copy()
    everywhere[3] = value
    assert not np.isfinite(run_linear(packed, everywhere)[3]).any()


@functools.cache
def packed_layer(kind: WeightKind, num_inputs: int, num_outputs: int) -> PackedLinear:
    return PackedLinear.pack(*layer(num_inputs, num_outputs), kind)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.sampled_from(SIZES),
    count=st.integers(1, 135),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_a_row_is_the_same_to_the_bit_alone_and_in_any_batch(
    kind: WeightKind, size: tuple[int, int], count: int, seed: int, data: st.DataObject
) -> None:
    packed, inputs = packed_layer(kind, *size), rows(count, size[0], seed)
    together = run_linear(packed, inputs)
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9))
    assert (run_linear(packed, inputs[chosen]) == together[chosen]).all()
    assert (run_linear(packed, inputs[chosen[:1]]) == together[chosen[:1]]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_selected_outputs_are_the_same_to_the_bit(kind: WeightKind) -> None:
    packed, inputs = packed_layer(kind, 30, 65), rows(7, 30)
    everything = run_linear(packed, inputs)
    random = np.random.default_rng(0)
    for outputs in ([0], [64], [64, 0, 33], list(range(65)), random.permutation(65)[:17], random.integers(0, 65, 24)):
        selected = packed.select(np.array(outputs, np.int64))
        assert (run_linear(selected, inputs) == everything[:, outputs]).all()
        again = selected.select(np.arange(len(outputs))[::-1])
        assert (run_linear(again, inputs) == everything[:, outputs][:, ::-1]).all()


def tile_harness(num_rows: int, num_blocks: int, *, portable: bool) -> Any:
    """Compile one tile into a function that takes arrays."""
    tile = int8_tile(num_rows, num_blocks, portable=portable)

    @njit
    def harness(bytes_, weights, quads, target, add, bias, scales, offsets, row_scales):  # type: ignore[no-untyped-def]
        tile(
            bytes_.ctypes.data, bytes_.strides[0], weights.ctypes.data, weights.strides[0], quads,
            target.ctypes.data, target.strides[0], add, bias.ctypes.data, scales.ctypes.data,
            offsets.ctypes.data, row_scales.ctypes.data,
        )  # fmt: skip

    return harness


@pytest.mark.parametrize(("num_rows", "num_blocks"), [(4, 2), (1, 1)])
def test_the_portable_tile_is_the_one_of_this_processor(num_rows: int, num_blocks: int) -> None:
    random = np.random.default_rng(num_rows)
    kinds = [True, False] if has_byte_dot_products() else [True]
    harnesses = [tile_harness(num_rows, num_blocks, portable=portable) for portable in kinds]
    outputs = num_blocks * LANES
    for quads in (1, 2, 17):
        bytes_ = random.integers(0, 256, (num_rows, quads * QUAD), np.uint8)
        bytes_[0] = 255
        weights = random.integers(-63, 64, (num_blocks, quads, LANES, QUAD), np.int8)
        # with 255 the largest sums of two products
        weights[0, :, 0], weights[0, :, 1], weights[0, :, 2], weights[0, :, 3] = (
            64,
            -64,
            (127, 0, 0, -127),
            (1, 127) * 2,
        )
        by_output = weights.transpose(0, 2, 1, 3).reshape(outputs, -1).astype(np.int64)
        scales, bias = random.random(outputs, np.float32), random.random(outputs, np.float32)
        offsets = (INPUT_ZERO * by_output.sum(1)).astype(np.int32)
        row_scales = random.random(num_rows, np.float32)
        sums = (bytes_.astype(np.int64) - INPUT_ZERO) @ by_output.T
        expected = sums.astype(np.float32) * (scales * row_scales[:, None]) + bias
        for harness in harnesses:
            target = random.random((num_rows, outputs), np.float32)
            present = target.copy()
            harness(bytes_, weights, quads, target, 0, bias, scales, offsets, row_scales)
            assert (target == expected).all()
            target[:] = present
            harness(bytes_, weights, quads, target, 1, bias, scales, offsets, row_scales)
            assert (target == present + expected).all()
