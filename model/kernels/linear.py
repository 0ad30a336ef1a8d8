"""Linear layers for compiled code: packing of weights into blocks, and the product with rows; tiles.py has its core.

Kinds: int8 (weights in int8 with a scale for each output, inputs as bytes with a scale for each row, summed exactly),
float16 (weights widened as they are read, summed in float32) and float32. A row's result is the same to the bit
whatever rows are beside it.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.kernels.compilation import ORDERED, SUMS, address_of, compiled
from model.kernels.machine import LANES, call, carray, pointer
from model.kernels.tiles import QUAD, float_tile, has_byte_dot_products, int8_tile

WeightKind = Literal["int8", "float16", "float32"]

INPUT_LEVELS, INPUT_ZERO = 127, 128
"""A row divided by its largest magnitude becomes the bytes 1 ... 255, with 128 for zero."""
PAIR_LEVELS = 127
"""Largest sum of the magnitudes of two neighbouring int8 weights, before they are rounded.

The processor adds two products in 16 bits. Rounding adds at most 1 to the sum, and 128 times 255 still fits. To bound
pairs, rather than each weight by half of that, leaves weights of a normal distribution half as much again of their
precision.
"""
STORE, ADD = np.int64(0), np.int64(1)
"""What happens to a product: it replaces what is there, or is added to it."""

LINEAR = np.dtype(
    [
        ("multiply", np.int64),  # address of the compiled product
        ("weight", np.int64),  # address of the packed weight
        ("bias", np.int64),  # address of (O padded,) float32
        ("scale", np.int64),  # address of (O padded,) float32: int8's scales
        ("offset", np.int64),  # address of (O padded,) int32: int8's sums for inputs of zero
        ("num_inputs", np.int64),
        ("num_outputs", np.int64),
        ("element_bytes", np.int64),  # of the packed weight
    ]
)
"""One layer as compiled code sees it."""
ROWS = 128
"""Rows that are multiplied before the next ones, so that they stay in the second-level cache."""


class PackedLinear:
    """A layer's weights in blocks; keeps the memory that its :attr:`record` points to."""

    def __init__(
        self,
        packed: NDArray[np.generic],
        scale: NDArray[np.float32],
        offset: NDArray[np.int32],
        bias: NDArray[np.float32],
        shape: tuple[int, int],
        kind: WeightKind,
    ) -> None:
        """Take over what :meth:`pack` or :meth:`select` made; ``shape`` is (O, I)."""
        self._parts = (packed, bias, scale, offset)
        self._shape, self._kind = shape, kind
        self.record = np.zeros((), LINEAR)
        addresses = [part.ctypes.data for part in self._parts]
        self.record[()] = (product(kind), *addresses, shape[1], shape[0], packed.itemsize)

    @classmethod
    def pack(cls, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, kind: WeightKind) -> PackedLinear:
        """Pack a weight (O, I) and a bias (O,), or none."""
        num_outputs, num_inputs = weight.shape
        padded_outputs = -(-num_outputs // LANES) * LANES
        biases = np.zeros(padded_outputs, np.float32)
        if bias is not None:
            biases[:num_outputs] = bias
        scale, offset = np.zeros(padded_outputs, np.float32), np.zeros(padded_outputs, np.int32)
        if kind == "int8":
            magnitudes = np.zeros((num_outputs, -(-num_inputs // QUAD) * QUAD), np.float32)
            magnitudes[:, :num_inputs] = np.abs(weight)
            largest_pair = magnitudes.reshape(num_outputs, -1, 2).sum(2).max(1)
            scale[:num_outputs] = np.maximum(largest_pair, np.float32(1e-30)) / PAIR_LEVELS
            rows = np.zeros((padded_outputs, magnitudes.shape[1]), np.int8)
            rows[:num_outputs, :num_inputs] = np.rint(weight / scale[:num_outputs, None])
            offset[:] = INPUT_ZERO * rows.sum(1, dtype=np.int32)
            packed: NDArray[np.generic] = _in_blocks(rows.reshape(padded_outputs, -1, QUAD))
        else:
            floats = np.zeros((padded_outputs, num_inputs), np.float16 if kind == "float16" else np.float32)
            limit = np.finfo(floats.dtype).max
            floats[:num_outputs] = weight.clip(-limit, limit)
            packed = _in_blocks(floats)
        return cls(packed, scale, offset, biases, (num_outputs, num_inputs), kind)

    def select(self, outputs: NDArray[np.int64]) -> PackedLinear:
        """Return a layer that computes only these outputs, in this order, to the same bits."""
        _, bias, scale, offset = self._parts
        padded = np.zeros(-(-len(outputs) // LANES) * LANES, np.int64)
        padded[: len(outputs)] = outputs
        shape = (len(outputs), self._shape[1])
        return PackedLinear(
            _in_blocks(self._rows.take(padded, axis=0)), scale[padded], offset[padded], bias[padded], shape, self._kind
        )

    @functools.cached_property
    def _rows(self) -> NDArray[Any]:
        """The packed weight output by output, a second copy that only selections need."""
        swapped = np.swapaxes(self._parts[0], 1, 2)  # (blocks, LANES, ...)
        return np.ascontiguousarray(swapped.reshape(-1, *swapped.shape[2:]))

    @property
    def num_bytes(self) -> int:
        """Memory of the packed weight with its scales and bias."""
        return sum(part.nbytes for part in self._parts)


def _in_blocks(rows: NDArray[Any]) -> NDArray[Any]:
    """Turn (blocks * LANES, I) into (blocks, I, LANES), and likewise with a last dimension QUAD."""
    grouped = rows.reshape(-1, LANES, *rows.shape[1:])
    return np.ascontiguousarray(np.swapaxes(grouped, 1, 2))


@compiled()
def multiply(linear, source, rows, target, bytes_, scales, mode):  # type: ignore[no-untyped-def]
    """Write ``x W^T + b`` of the first ``rows`` of ``source`` to ``target``.

    Args:
        linear: a LINEAR.
        source: (R, I or more) float32, the entries of a row side by side.
        rows: how many rows.
        target: (R, O filled up to LANES, or more) float32; what lies behind a row's outputs is overwritten.
        bytes_: (ROWS, I filled up to QUAD, or more) unsigned bytes to work in.
        scales: (ROWS,) float32 to work in.
        mode: STORE, or ADD to what is in ``target``.
    """
    call(
        linear["multiply"],
        (
            linear["weight"],
            linear["bias"],
            linear["scale"],
            linear["offset"],
            linear["num_inputs"],
            linear["num_outputs"],
            linear["element_bytes"],
            source.ctypes.data,
            source.strides[0],
            rows,
            target.ctypes.data,
            target.strides[0],
            bytes_.ctypes.data,
            bytes_.strides[0],
            scales.ctypes.data,
            mode,
        ),
    )


@compiled(ORDERED)
def _largest_magnitude(values, count):  # type: ignore[no-untyped-def]
    result = np.float32(0.0)
    for i in range(count):
        result = max(result, abs(values[i]))
    return result


@compiled(SUMS)
def _quantize(line, width, bytes_):  # type: ignore[no-untyped-def]
    """Turn one row into bytes, and return the scale that turns them back; it is not finite if the row is not."""
    largest = max(_largest_magnitude(line, width), np.float32(1e-30))
    factor, not_finite = np.float32(INPUT_LEVELS) / largest, np.float32(0.0)
    for i in range(width):
        not_finite += line[i] * np.float32(0.0)
        # Truncation of a positive number, half added, rounds it to the nearest.
        bytes_[i] = np.uint8(np.int32(line[i] * factor + np.float32(INPUT_ZERO + 0.5)))
    return largest / np.float32(INPUT_LEVELS) + not_finite


_PORTABLE = not has_byte_dot_products()
_byte_4x2, _byte_4x1 = int8_tile(4, 2, portable=_PORTABLE), int8_tile(4, 1, portable=_PORTABLE)
_byte_1x4, _byte_1x1 = int8_tile(1, 4, portable=_PORTABLE), int8_tile(1, 1, portable=_PORTABLE)
_half_4x2, _half_4x1 = float_tile(4, 2, half=True), float_tile(4, 1, half=True)
_half_1x8, _half_1x1 = float_tile(1, 8, half=True), float_tile(1, 1, half=True)
_float_4x2, _float_4x1 = float_tile(4, 2, half=False), float_tile(4, 1, half=False)
_float_1x8, _float_1x1 = float_tile(1, 8, half=False), float_tile(1, 1, half=False)
# Global, because numba takes functions that it finds in a closure for different ones at every start.


@compiled()
def _byte_tile(tall, wide, a, b, c, d, e, f, g, h, i, j, k, m):  # type: ignore[no-untyped-def]
    if tall:
        if wide:
            _byte_4x2(a, b, c, d, e, f, g, h, i, j, k, m)
        else:
            _byte_4x1(a, b, c, d, e, f, g, h, i, j, k, m)
    elif wide:
        _byte_1x4(a, b, c, d, e, f, g, h, i, j, k, m)
    else:
        _byte_1x1(a, b, c, d, e, f, g, h, i, j, k, m)


@compiled()
def _float_tile(half, tall, wide, a, b, c, d, e, f, g, h, i):  # type: ignore[no-untyped-def]
    if half:
        if tall:
            if wide:
                _half_4x2(a, b, c, d, e, f, g, h, i, 0, 0, 0)
            else:
                _half_4x1(a, b, c, d, e, f, g, h, i, 0, 0, 0)
        elif wide:
            _half_1x8(a, b, c, d, e, f, g, h, i, 0, 0, 0)
        else:
            _half_1x1(a, b, c, d, e, f, g, h, i, 0, 0, 0)
    elif tall:
        if wide:
            _float_4x2(a, b, c, d, e, f, g, h, i, 0, 0, 0)
        else:
            _float_4x1(a, b, c, d, e, f, g, h, i, 0, 0, 0)
    elif wide:
        _float_1x8(a, b, c, d, e, f, g, h, i, 0, 0, 0)
    else:
        _float_1x1(a, b, c, d, e, f, g, h, i, 0, 0, 0)


def _multiply_bytes(  # type: ignore[no-untyped-def]
    weight,
    bias,
    scale,
    offset,
    num_inputs,
    num_outputs,
    element_bytes,
    source,
    source_stride,
    rows,
    target,
    target_stride,
    bytes_,
    bytes_stride,
    scales,
    mode,
):
    """The product of rows with an int8 layer: four rows with two blocks at a time, and the last rows one by one."""
    blocks, quads = (num_outputs + LANES - 1) // LANES, (num_inputs + QUAD - 1) // QUAD
    stride = quads * LANES * QUAD * element_bytes
    row_scales = carray(pointer(scales, np.float32(0)), (ROWS,))
    for first in range(0, rows, ROWS):
        count = min(ROWS, rows - first)
        for row in range(count):
            line = carray(pointer(source + (first + row) * source_stride, np.float32(0)), (num_inputs,))
            quantized = carray(pointer(bytes_ + row * bytes_stride, np.uint8(0)), (num_inputs,))
            row_scales[row] = _quantize(line, num_inputs, quantized)
        goal = target + first * target_stride
        block = 0
        while block < blocks:
            # A group of blocks meets all rows while it is in the first-level cache.
            group, row = 4 if block + 4 <= blocks else 1, 0
            while row < count:
                tall = count - row >= 4
                for part in range(0, group, 2 if tall else group):
                    step = 4 * LANES * (block + part)
                    _byte_tile(
                        tall,
                        group == 4,
                        bytes_ + row * bytes_stride,
                        bytes_stride,
                        weight + (block + part) * stride,
                        stride,
                        quads,
                        goal + row * target_stride + step,
                        target_stride,
                        mode,
                        bias + step,
                        scale + step,
                        offset + step,
                        scales + 4 * row,
                    )
                row += 4 if tall else 1
            block += group


def _multiply_floats(  # type: ignore[no-untyped-def]
    weight,
    bias,
    scale,  # noqa: ARG001 - int8's
    offset,  # noqa: ARG001 - int8's
    num_inputs,
    num_outputs,
    element_bytes,
    source,
    source_stride,
    rows,
    target,
    target_stride,
    bytes_,  # noqa: ARG001 - int8's
    bytes_stride,  # noqa: ARG001 - int8's
    scales,  # noqa: ARG001 - int8's
    mode,
):
    """The product of rows with a float16 or float32 layer: four rows with two blocks at a time, the last ones alone.

    One row takes eight blocks at a time, because the sums of a block must wait for each other.
    """
    half = element_bytes == 2
    blocks, stride = (num_outputs + LANES - 1) // LANES, num_inputs * LANES * element_bytes
    for first in range(0, rows, ROWS):
        count = min(ROWS, rows - first)
        start, goal = source + first * source_stride, target + first * target_stride
        block = 0
        while block < blocks:
            group, row = 8 if block + 8 <= blocks else 1, 0
            while row < count:
                tall = count - row >= 4
                for part in range(0, group, 2 if tall else group):
                    step = 4 * LANES * (block + part)
                    _float_tile(
                        half,
                        tall,
                        group == 8,
                        start + row * source_stride,
                        source_stride,
                        weight + (block + part) * stride,
                        stride,
                        num_inputs,
                        goal + row * target_stride + step,
                        target_stride,
                        mode,
                        bias + step,
                    )
                row += 4 if tall else 1
            block += group


@functools.cache
def product(kind: WeightKind) -> int:
    """Return the address of a kind's compiled product; it takes the integers that :func:`multiply` gives it."""
    return address_of(_multiply_bytes if kind == "int8" else _multiply_floats, 16)
