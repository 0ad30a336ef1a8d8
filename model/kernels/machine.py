"""Operations that numba lacks, as machine code: pointers, calls by address, loops over vectors of numbers.

What takes an address believes it; whoever calls keeps the memory alive and large enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import carray as _carray  # type: ignore[attr-defined]
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

carray: Callable[..., Any] = _carray
"""numba's array over memory that a pointer leads to."""
machine_code: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic
"""A decorator for functions that emit instructions; numba counts their parameters, which are the types of values."""
LANES = 8
"""32-bit numbers in a vector of 256 bits."""
FLOAT, HALF, BYTE = ir.FloatType(), ir.HalfType(), ir.IntType(8)
INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)


def load_everywhere(builder: ir.IRBuilder, address: Any) -> Any:
    """Load one float32 into all lanes."""
    vector = ir.VectorType(FLOAT, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), load(builder, address, FLOAT), INT32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def load(builder: ir.IRBuilder, address: Any, kind: Any) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def call_named(builder: ir.IRBuilder, name: str, arguments: list[Any], result: Any = None) -> Any:
    kinds = [argument.type for argument in arguments]
    kind = ir.FunctionType(result or kinds[0], kinds)
    function = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


def _variable(builder: ir.IRBuilder, value: Any) -> Any:
    """Return a place for numbers of the type of ``value``, which is its first content."""
    return cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]


@machine_code
def float_from_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    """Return the float32 whose bits an int32 has."""
    del typing_context, bits

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.bitcast(arguments[0], FLOAT)

    return types.float32(types.int32), generate


@machine_code
def load_flag(typing_context, address):  # type: ignore[no-untyped-def]
    """Return the int32 at an address that other threads write."""
    del typing_context, address

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.load_atomic(builder.inttoptr(arguments[0], INT32.as_pointer()), "acquire", 4)

    return types.int32(types.int64), generate


@machine_code
def widen_halves(typing_context, source, target, num_vectors):  # type: ignore[no-untyped-def]
    """Convert ``num_vectors`` times LANES float16 at the address ``source`` to float32 at ``target``; at least one."""
    del typing_context, source, target, num_vectors

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del signature
        source, target, count = arguments
        with cgutils.for_range(builder, count) as loop:
            narrow = load(
                builder, builder.add(source, builder.mul(loop.index, INT64(2 * LANES))), ir.VectorType(HALF, LANES)
            )
            wide = ir.VectorType(FLOAT, LANES)
            place = builder.add(target, builder.mul(loop.index, INT64(4 * LANES)))
            builder.store(builder.fpext(narrow, wide), builder.inttoptr(place, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@machine_code
def pointer(typing_context, address, like):  # type: ignore[no-untyped-def]
    """Return a pointer to elements of the type of ``like`` (a numpy scalar), for ``numba.carray``."""
    del typing_context, address
    kind = types.CPointer(like)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del signature
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64, like), generate


@machine_code
def call(typing_context, function, arguments):  # type: ignore[no-untyped-def]
    """Call the function of 64-bit integers at an address, so that it is compiled once and not into all its callers."""
    del typing_context
    count = len(arguments)

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        del signature
        kind = ir.FunctionType(ir.VoidType(), [INT64] * count)
        parts = [builder.extract_value(values[1], index) for index in range(count)]
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), parts)
        return context.get_dummy_value()

    return types.void(function, arguments), generate


@machine_code
def dot_at(typing_context, first, second, count):  # type: ignore[no-untyped-def]
    """Return the scalar product of ``count`` float32 at two addresses; its order depends on ``count`` only."""
    del typing_context, first, second, count

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del context, signature
        first, second, count = arguments
        vector = ir.VectorType(FLOAT, LANES)
        blocks = builder.sdiv(count, INT64(LANES))
        lanes = _variable(builder, ir.Constant(vector, None))
        with cgutils.for_range(builder, blocks) as loop:
            offset = builder.mul(loop.index, INT64(4 * LANES))
            a, b = load(builder, builder.add(first, offset), vector), load(builder, builder.add(second, offset), vector)
            builder.store(call_named(builder, "llvm.fma.v8f32", [a, b, builder.load(lanes)]), lanes)
        sums = builder.load(lanes)
        for width in (4, 2, 1):  # halves are added until one lane is left
            indices = [lane + width if lane < width else lane for lane in range(LANES)]
            shifted = builder.shuffle_vector(sums, sums, ir.Constant(ir.VectorType(INT32, LANES), indices))
            sums = builder.fadd(sums, shifted)
        total = _variable(builder, builder.extract_element(sums, INT32(0)))
        done = builder.mul(blocks, INT64(LANES))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            offset = builder.mul(builder.add(done, loop.index), INT64(4))
            a, b = load(builder, builder.add(first, offset), FLOAT), load(builder, builder.add(second, offset), FLOAT)
            builder.store(builder.fadd(builder.fmul(a, b), builder.load(total)), total)
        return builder.load(total)

    return types.float32(types.int64, types.int64, types.int64), generate


@machine_code
def add_scaled_at(typing_context, target, source, factor, count):  # type: ignore[no-untyped-def]
    """Add ``factor`` times ``count`` float32 at the address ``source`` to those at ``target``."""
    del typing_context, target, source, factor, count

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del signature
        target, source, factor, count = arguments
        vector = ir.VectorType(FLOAT, LANES)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), factor, INT32(0))
        factors = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))
        blocks = builder.sdiv(count, INT64(LANES))

        def add(index: Any, kind: Any, multiply: Any) -> None:
            offset = builder.mul(index, INT64(4))
            place = builder.inttoptr(builder.add(target, offset), kind.as_pointer())
            present, value = builder.load(place, align=4), load(builder, builder.add(source, offset), kind)
            builder.store(multiply(value, present), place, align=4)

        with cgutils.for_range(builder, blocks) as loop:
            start = builder.mul(loop.index, INT64(LANES))
            add(start, vector, lambda value, present: call_named(builder, "llvm.fma.v8f32", [value, factors, present]))
        done = builder.mul(blocks, INT64(LANES))
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            index = builder.add(done, loop.index)
            add(index, FLOAT, lambda value, present: builder.fadd(builder.fmul(value, factor), present))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@machine_code
def maximum_at(typing_context, address, num_vectors):  # type: ignore[no-untyped-def]
    """Return the maximum of ``num_vectors`` times LANES float32 at an address, at least one; anything if one is NaN."""
    del typing_context, address, num_vectors

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        del context, signature
        address, count = arguments
        vector = ir.VectorType(FLOAT, LANES)

        def greater(first: Any, second: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", first, second), first, second)

        lanes = _variable(builder, load(builder, address, vector))
        with cgutils.for_range(builder, count) as loop:
            place = builder.add(address, builder.mul(loop.index, INT64(4 * LANES)))
            builder.store(greater(builder.load(lanes), load(builder, place, vector)), lanes)
        best = builder.load(lanes)
        for width in (4, 2, 1):
            indices = [lane + width if lane < width else lane for lane in range(LANES)]
            shifted = builder.shuffle_vector(best, best, ir.Constant(ir.VectorType(INT32, LANES), indices))
            best = greater(best, shifted)
        return builder.extract_element(best, INT32(0))

    return types.float32(types.int64, types.int64), generate
