"""The inner loops of matrix products, as machine code for small tiles; packing and everything around is linear.py's.

A tile multiplies a few rows of inputs with a few blocks of ``LANES`` outputs. The sums of one output run over the
inputs in one order whatever the tile's size, so a row's result is the same to the bit alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types

from model.kernels.machine import (
    BYTE,
    FLOAT,
    HALF,
    INT16,
    INT32,
    INT64,
    LANES,
    call_named,
    load,
    load_everywhere,
    machine_code,
)

QUAD = 4
"""Inputs whose bytes stand side by side in a packed int8 weight."""
_Sums = dict[tuple[int, int], Any]
Tile = Callable[..., None]
"""Takes twelve integers, of which most are addresses: inputs, bytes from row to row; weights, bytes from block to
block; number of inputs (of quads for int8); target, bytes from row to row; whether to add to the target; bias; and for
int8 the outputs' scales and offsets and the rows' scales, otherwise anything."""


def has_byte_dot_products() -> bool:
    """Whether this processor has AVX2, whose instruction for unsigned times signed bytes the int8 tiles use."""
    return bool(llvm.get_host_cpu_features().get("avx2", False))


def int8_tile(num_rows: int, num_blocks: int, *, portable: bool) -> Tile:
    """Return a tile for unsigned bytes (inputs) times signed bytes (weights), summed as int32.

    Weights are packed ``[block][quad][LANES][QUAD]``. Without ``portable``, two neighbouring products are added in 16
    bits that saturate, so the sum of two neighbouring weights' magnitudes times 255 must stay below 32,768.
    """
    multiply = _multiply_bytes if portable else _multiply_bytes_avx2

    def load_weight(builder: ir.IRBuilder, pointer: Any) -> Any:
        return load(builder, pointer, ir.VectorType(BYTE, LANES * QUAD))

    def load_input(builder: ir.IRBuilder, pointer: Any) -> Any:
        quad = load(builder, pointer, ir.VectorType(BYTE, QUAD))
        indices = ir.Constant(ir.VectorType(INT32, LANES * QUAD), list(range(QUAD)) * LANES)
        return builder.shuffle_vector(quad, quad, indices)

    return _tile(num_rows, num_blocks, INT32, QUAD, LANES * QUAD, load_weight, load_input, multiply)


def float_tile(num_rows: int, num_blocks: int, *, half: bool) -> Tile:
    """Return a tile for float32 inputs times float32 or, with ``half``, float16 weights, summed as float32.

    Weights are packed ``[block][input][LANES]``.
    """

    def load_weight(builder: ir.IRBuilder, pointer: Any) -> Any:
        if half:
            narrow = load(builder, pointer, ir.VectorType(HALF, LANES))
            return builder.fpext(narrow, ir.VectorType(FLOAT, LANES))
        return load(builder, pointer, ir.VectorType(FLOAT, LANES))

    def load_input(builder: ir.IRBuilder, pointer: Any) -> Any:
        return load_everywhere(builder, pointer)

    def multiply(builder: ir.IRBuilder, total: Any, value: Any, weight: Any) -> Any:
        return call_named(builder, "llvm.fma.v8f32", [value, weight, total])

    return _tile(num_rows, num_blocks, FLOAT, 4, LANES * (2 if half else 4), load_weight, load_input, multiply)


def _tile(
    num_rows: int,
    num_blocks: int,
    element: Any,
    input_bytes: int,
    weight_bytes: int,
    load_weight: Callable[[ir.IRBuilder, Any], Any],
    load_input: Callable[[ir.IRBuilder, Any], Any],
    multiply: Callable[[ir.IRBuilder, Any, Any, Any], Any],
) -> Tile:
    """Return the loop over the inputs, with one vector register for each sum of the tile, and what follows it."""
    rows, blocks, vector = range(num_rows), range(num_blocks), ir.VectorType(element, LANES)

    def add_products(builder: ir.IRBuilder, arguments: Any) -> _Sums:
        """Emit the loop; returns the sums of each row and block."""
        inputs, row_bytes, weights, block_bytes, count = arguments[:5]
        before, loop, after = builder.block, builder.append_basic_block("tile"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(INT64)
        sums = {(row, block): builder.phi(vector) for row in rows for block in blocks}
        input_start, weight_start = _at(builder, inputs, index, input_bytes), _at(builder, weights, index, weight_bytes)
        columns = [load_weight(builder, _at(builder, weight_start, block_bytes, block)) for block in blocks]
        following = {}
        for row in rows:
            value = load_input(builder, _at(builder, input_start, row_bytes, row))
            for block in blocks:
                following[row, block] = multiply(builder, sums[row, block], value, columns[block])
        next_index = builder.add(index, INT64(1))
        builder.cbranch(builder.icmp_signed("<", next_index, count), loop, after)
        index.add_incoming(INT64(0), before)
        index.add_incoming(next_index, builder.block)
        for place, total in sums.items():
            total.add_incoming(ir.Constant(vector, None), before)
            total.add_incoming(following[place], builder.block)
        builder.position_at_end(after)
        return following

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del signature
        _write_sums(builder, add_products(builder, arguments), element, arguments[5:])
        return context.get_dummy_value()

    # The parameters have to be spelt out, because numba counts them.
    def typed(  # type: ignore[no-untyped-def]
        typing_context,
        inputs,
        row_bytes,
        weights,
        block_bytes,
        count,
        target,
        target_bytes,
        add,
        bias,
        scales,
        offsets,
        row_scales,
    ):
        del typing_context, inputs, row_bytes, weights, block_bytes, count
        del target, target_bytes, add, bias, scales, offsets, row_scales
        return types.void(*[types.int64] * 12), generate

    return machine_code(typed)


def _at(builder: ir.IRBuilder, address: Any, stride: Any, index: int) -> Any:
    return builder.add(address, builder.mul(stride, INT64(index)))


def _write_sums(builder: ir.IRBuilder, sums: _Sums, element: Any, arguments: Any) -> None:
    """Scale the sums where they are integers, add the bias, and put them, or add them, where they belong."""
    target, target_bytes, add, bias, scales, offsets, row_scales = arguments
    floats, adds = ir.VectorType(FLOAT, LANES), builder.icmp_signed("!=", add, INT64(0))
    for (row, block), total in sums.items():
        start = INT64(4 * LANES * block)
        if element is INT32:
            offset = load(builder, builder.add(offsets, start), ir.VectorType(INT32, LANES))
            exact = builder.sitofp(builder.sub(total, offset), floats)
            scale = load(builder, builder.add(scales, start), floats)
            row_scale = load_everywhere(builder, _at(builder, row_scales, INT64(4), row))
            total = builder.fmul(exact, builder.fmul(scale, row_scale))
        place = builder.inttoptr(_at(builder, builder.add(target, start), target_bytes, row), floats.as_pointer())
        present = builder.select(adds, builder.load(place, align=4), ir.Constant(floats, None))
        shift = load(builder, builder.add(bias, start), floats)
        builder.store(builder.fadd(present, builder.fadd(total, shift)), place, align=4)


def _multiply_bytes_avx2(builder: ir.IRBuilder, total: Any, value: Any, weight: Any) -> Any:
    """Add to 8 sums the products of 4 unsigned and 4 signed bytes each: two by two in 16 bits, then in 32."""
    pairs = call_named(builder, "llvm.x86.avx2.pmadd.ub.sw", [value, weight], ir.VectorType(INT16, 16))
    ones = ir.Constant(ir.VectorType(INT16, 16), [1] * 16)
    quads = call_named(builder, "llvm.x86.avx2.pmadd.wd", [pairs, ones], ir.VectorType(INT32, LANES))
    return builder.add(total, quads)


def _multiply_bytes(builder: ir.IRBuilder, total: Any, value: Any, weight: Any) -> Any:
    """The same for any processor, all in 32 bits."""
    wide = ir.VectorType(INT32, LANES * QUAD)
    products = builder.mul(builder.zext(value, wide), builder.sext(weight, wide))
    for part in range(QUAD):
        places = ir.Constant(ir.VectorType(INT32, LANES), [QUAD * lane + part for lane in range(LANES)])
        total = builder.add(total, builder.shuffle_vector(products, products, places))
    return total
