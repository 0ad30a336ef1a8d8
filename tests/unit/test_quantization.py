"""int8 rows: the error that the format promises, and nothing worse in the corners."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoints.quantization import LEVELS, dequantize_rows, quantize_rows

values = st.floats(-1e6, 1e6, width=32, allow_nan=False)
matrices = st.integers(1, 7).flatmap(
    lambda width: st.lists(st.lists(values, min_size=width, max_size=width), min_size=1)
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)  # matrices this small only lose by more


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_error_is_at_most_half_a_step_of_the_row(rows: list[list[float]]) -> None:
    matrix = torch.tensor(rows)
    levels, scales = quantize_rows(matrix)
    assert levels.dtype == torch.int8
    assert scales.dtype == torch.float32
    error = (dequantize_rows(levels, scales).double() - matrix.double()).abs()
    step = matrix.double().abs().amax(dim=1, keepdim=True) / LEVELS
    # on top of half a step, float32 rounds scale, quotient and product: three times 2**-24 of the largest entry,
    # and the division by 127 of a subnormal number may lose all of it
    assert (error <= step / 2 + 3 * 2.0**-24 * LEVELS * step + 1e-38).all()


def test_half_a_step_is_reached() -> None:
    """The bound is tight: an entry in the middle between two levels is off by half a step."""
    matrix = torch.tensor([[127.0, 2.5, -3.5]])
    error = (dequantize_rows(*quantize_rows(matrix)) - matrix).abs()
    assert error.tolist() == [[0.0, 0.5, 0.5]]


def test_each_row_has_its_own_scale() -> None:
    matrix = torch.tensor([[1000.0, -500.0], [0.001, 0.0005]])
    levels, scales = quantize_rows(matrix)
    assert levels[:, 0].tolist() == [127, 127]
    torch.testing.assert_close(scales, torch.tensor([1000 / 127, 0.001 / 127]))
    torch.testing.assert_close(dequantize_rows(levels, scales), matrix, rtol=1 / 100, atol=0)


def test_zero_rows_stay_zero_and_finite() -> None:
    levels, scales = quantize_rows(torch.tensor([[0.0, -0.0, 0.0], [1.0, 0.0, -1.0]]))
    assert levels.tolist() == [[0, 0, 0], [127, 0, -127]]
    assert scales.isfinite().all()
    assert (scales > 0).all()
    assert dequantize_rows(levels, scales)[0].tolist() == [0.0, 0.0, 0.0]


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_signs_are_symmetric(rows: list[list[float]]) -> None:
    matrix = torch.tensor(rows)
    levels, scales = quantize_rows(matrix)
    mirrored, same_scales = quantize_rows(-matrix)
    assert torch.equal(mirrored, -levels)
    assert torch.equal(same_scales, scales)
    assert int(levels.min()) >= -LEVELS


def test_quantizing_what_is_quantized_changes_nothing() -> None:
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(4))
    levels, scales = quantize_rows(matrix)
    again, _ = quantize_rows(dequantize_rows(levels, scales))
    assert torch.equal(again, levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_float_format_is_read(dtype: torch.dtype) -> None:
    matrix = torch.randn(3, 5, generator=torch.Generator().manual_seed(4)).to(dtype)
    levels, scales = quantize_rows(matrix)
    expected, expected_scales = quantize_rows(matrix.float())
    assert torch.equal(levels, expected)
    assert torch.equal(scales, expected_scales)
    assert dequantize_rows(levels, scales).dtype == torch.float32
