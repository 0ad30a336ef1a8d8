"""Row-wise arithmetic in compiled loops: exponentials, norms, activations, softmax; matrix products are linear.py's.

All functions are compiled by numba, release the interpreter lock when called from compiled code that does, and treat
each row on its own: a row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import math

import numpy as np

from model.kernels.compilation import FUSED, ORDERED, SUMS, compiled
from model.kernels.machine import float_from_bits

RELU, GELU, GELU_TANH, SILU = 0, 1, 2, 3

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.42860677e-06)
"""ln 2 in two parts, of which the first has so few bits that its product with a small integer is exact."""
EXP_LOWEST = np.float32(-87.0)
"""Below this, float32 exponentials lose their normal form; they are returned as 0."""
EXP_HIGHEST = np.float32(88.0)


@compiled(FUSED)
def exp(x):  # type: ignore[no-untyped-def]
    """Return e ** x in float32 with a relative error below 2e-7; 0 below -87, NaN for NaN.

    Cody and Waite's range reduction, x = n ln 2 + r with abs(r) <= ln 2 / 2, then the Taylor polynomial of degree 7 in
    r (its remainder is below 6e-9), then n is added to the exponent. No branch, so that loops of it are vectorised.
    """
    x = np.float32(x)
    bounded = min(max(x, EXP_LOWEST), EXP_HIGHEST)
    n = np.float32(np.floor(bounded * LOG2_E + np.float32(0.5)))
    r = bounded - n * LN2_HIGH - n * LN2_LOW
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    scaled = p * float_from_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    result = scaled if x >= EXP_LOWEST else np.float32(0.0)
    return result if x == x else x


@compiled(SUMS)
def layer_norm(source, target, rows, weight, bias, epsilon):  # type: ignore[no-untyped-def]
    """Write layer norms (Ba et al. 2016, equation 4) of the first ``rows`` of (R, D) to ``target``; may be the same."""
    width = len(weight)
    for row in range(rows):
        total = np.float32(0.0)
        for i in range(width):
            total += source[row, i]
        mean = total / np.float32(width)
        squares = np.float32(0.0)
        for i in range(width):
            squares += (source[row, i] - mean) * (source[row, i] - mean)
        factor = np.float32(1.0) / np.float32(math.sqrt(squares / np.float32(width) + epsilon))
        for i in range(width):
            target[row, i] = (source[row, i] - mean) * factor * weight[i] + bias[i]


@compiled(SUMS)
def rms_norm(source, target, rows, weight, epsilon):  # type: ignore[no-untyped-def]
    """Write root-mean-square norms (Zhang and Sennrich 2019, equation 4) of (R, D) into ``target``; may be the same."""
    width = len(weight)
    for row in range(rows):
        squares = np.float32(0.0)
        for i in range(width):
            squares += source[row, i] * source[row, i]
        factor = np.float32(1.0) / np.float32(math.sqrt(squares / np.float32(width) + epsilon))
        for i in range(width):
            target[row, i] = source[row, i] * factor * weight[i]


@compiled(SUMS)
def activate(states, rows, width, activation):  # type: ignore[no-untyped-def]
    """Apply an activation in place to the first ``width`` columns of the first ``rows`` of ``states``."""
    for row in range(rows):
        line = states[row]
        if activation == RELU:
            for i in range(width):
                line[i] = max(line[i], np.float32(0.0))
        elif activation == SILU:
            for i in range(width):
                line[i] = line[i] / (np.float32(1.0) + exp(-line[i]))
        elif activation == GELU_TANH:
            for i in range(width):
                x = line[i]
                inner = np.float32(2 * 0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
                line[i] = x / (np.float32(1.0) + exp(-inner))  # (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z))
        else:
            for i in range(width):
                line[i] = np.float32(0.5 * line[i] * (1.0 + math.erf(line[i] * 0.7071067811865476)))


@compiled(SUMS)
def multiply_gate(states, rows, width):  # type: ignore[no-untyped-def]
    """Multiply the first ``width`` columns by the second, in place."""
    for row in range(rows):
        for i in range(width):
            states[row, i] *= states[row, width + i]


@compiled(ORDERED)
def greatest(values, count):  # type: ignore[no-untyped-def]
    """Return the greatest of the first ``count`` values, at least one."""
    result = values[0]
    for i in range(count):
        result = max(result, values[i])
    return result


@compiled(SUMS)
def softmax(values, count):  # type: ignore[no-untyped-def]
    """Replace the first ``count`` values, at least one of them finite, by their softmax."""
    shift = greatest(values, count)
    total = np.float32(0.0)
    for i in range(count):
        values[i] = exp(values[i] - shift)
        total += values[i]
    factor = np.float32(1.0) / total
    for i in range(count):
        values[i] *= factor


@compiled(SUMS)
def log_sum_exp(values, count, shift):  # type: ignore[no-untyped-def]
    """Return the logarithm of the sum of exponentials of the first ``count`` values, whose maximum is ``shift``.

    It is not finite if a value is NaN or positive infinity.
    """
    total = np.float32(0.0)
    for i in range(count):
        total += exp(values[i] - shift)
    return shift + np.float32(math.log(total))
