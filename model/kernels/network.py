"""The network in compiled loops: sources to keys and values, one step of the decoder to logits; no search here.

Rows of different sources and beams lie next to each other without padding, and each attends to its own positions only.
Shape letters as in ``model.transformer``; A is the width of all heads together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.config import ModelConfig
from model.kernels.arithmetic import activate, layer_norm, multiply_gate, rms_norm, softmax
from model.kernels.compilation import SUMS, compiled, entry
from model.kernels.linear import ADD, ROWS, STORE, multiply
from model.kernels.machine import LANES, add_scaled_at, carray, dot_at, pointer, widen_halves
from model.kernels.packing import DECODER_LINEARS, DECODER_NORMS, ENCODER_LINEARS, ENCODER_NORMS, padded_width

FINAL_NORMS, EMBEDDING_NORMS = 0, 2
"""Where these begin behind the norms of the layers: the encoder's, then the decoder's."""

ROW = np.dtype(
    [
        ("token", np.int64),  # what the step reads
        ("position", np.int64),  # target positions before it
        ("beam", np.int64),  # which of the slot's beams it is
        ("num_beams", np.int64),
        ("limit", np.int64),  # target positions that the slot has memory for
        ("source_length", np.int64),
        ("keys_values", np.int64),  # address of (layers, 2, H, limit, K, head_dim) float32
        ("cross", np.int64),  # address of (layers, 2, H, S, head_dim) float32
        (
            "ancestry",
            np.int64,
        ),  # address of (K, limit) int32: who wrote the positions that a beam descends from
    ]
)
"""One row of a decoding step."""


class Workspace(NamedTuple):
    """Memory that compiled code works in; what is in it has no meaning between calls.

    Rows are filled up to whole vectors, as :func:`~model.kernels.linear.multiply` wants its targets.
    """

    states: NDArray[np.float32]
    """(R, D)."""
    normed: NDArray[np.float32]
    """(R, D)."""
    projected: NDArray[np.float32]
    """(R, 3 A)."""
    mixed: NDArray[np.float32]
    """(R, A)."""
    hidden: NDArray[np.float32]
    """(R, F), or (R, 2 F) with a gate."""
    cross: NDArray[np.float32]
    """(S, 2 * layers * A)."""
    attention: NDArray[np.float32]
    """(positions,) one query's weights."""
    vector: NDArray[np.float32]
    """(D padded,)."""
    bytes_: NDArray[np.uint8]
    """(ROWS, widest input)."""
    scales: NDArray[np.float32]
    """(ROWS,)."""


def new_workspace(config: ModelConfig, num_rows: int) -> Workspace:
    """Return memory for steps of up to ``num_rows`` rows, or for sources of so many tokens together."""
    width = config.num_heads * config.width_per_head
    widest = padded_width(max(config.d_model, width, config.d_ff))

    def floats(*shape: int) -> NDArray[np.float32]:
        return np.empty(shape, np.float32)

    return Workspace(
        states=floats(num_rows, padded_width(config.d_model)),
        normed=floats(num_rows, padded_width(config.d_model)),
        projected=floats(num_rows, padded_width(3 * width)),
        mixed=floats(num_rows, padded_width(width)),
        hidden=floats(num_rows, padded_width(config.d_ff * (2 if config.gated else 1))),
        cross=floats(config.max_source_length, padded_width(2 * config.num_decoder_layers * width)),
        attention=floats(max(config.max_source_length, config.max_target_length)),
        vector=floats(padded_width(config.d_model)),
        bytes_=np.empty((ROWS, widest), np.uint8),
        scales=floats(ROWS),
    )


@compiled()
def _normalize(network, norms, index, source, target, rows):  # type: ignore[no-untyped-def]
    if network["rms"]:
        rms_norm(source, target, rows, norms[index, 0], network["epsilon"])
    else:
        layer_norm(source, target, rows, norms[index, 0], norms[index, 1], network["epsilon"])


@compiled(SUMS)
def _embed(network, table, positions, token, position, target, vector):  # type: ignore[no-untyped-def]
    """Write the vector of one token into ``target`` (D,)."""
    width = network["d_model"]
    stride = (width + LANES - 1) // LANES * LANES
    scale = network["token_scale"]
    if network["half_tables"]:
        widen_halves(table + 2 * stride * token, vector.ctypes.data, stride // LANES)
        for i in range(width):
            target[i] = vector[i] * scale
    else:
        entry = carray(pointer(table + 4 * stride * token, np.float32(0)), (stride,))
        for i in range(width):
            target[i] = entry[i] * scale
    if network["positioned"]:
        offsets = carray(pointer(positions + 4 * width * position, np.float32(0)), (width,))
        for i in range(width):
            target[i] += offsets[i]


@compiled()
def _feed_forward(network, linears, first, norms, norm, work, rows):  # type: ignore[no-untyped-def]
    """Add the feed-forward layer to the states; ``first`` is its first linear layer, ``norm`` its norm."""
    d_ff = network["d_ff"]
    source = work.states
    if network["pre_norm"]:
        _normalize(network, norms, norm, work.states, work.normed, rows)
        source = work.normed
    multiply(linears[first], source, rows, work.hidden, work.bytes_, work.scales, STORE)
    activate(work.hidden, rows, d_ff, network["activation"])
    if network["gated"]:
        multiply_gate(work.hidden, rows, d_ff)
    multiply(linears[first + 1], work.hidden, rows, work.states, work.bytes_, work.scales, ADD)
    if not network["pre_norm"]:
        _normalize(network, norms, norm, work.states, work.states, rows)


@compiled()
def _start_attention(network, linears, index, norms, norm, work, rows):  # type: ignore[no-untyped-def]
    """Project the states, normalised before or not, by one linear layer."""
    if network["pre_norm"]:
        _normalize(network, norms, norm, work.states, work.normed, rows)
        multiply(linears[index], work.normed, rows, work.projected, work.bytes_, work.scales, STORE)
    else:
        multiply(linears[index], work.states, rows, work.projected, work.bytes_, work.scales, STORE)


@compiled()
def _end_attention(network, linears, index, norms, norm, work, rows):  # type: ignore[no-untyped-def]
    """Add the projection of what the heads have mixed to the states."""
    multiply(linears[index], work.mixed, rows, work.states, work.bytes_, work.scales, ADD)
    if not network["pre_norm"]:
        _normalize(network, norms, norm, work.states, work.states, rows)


@compiled(SUMS)
def _add_bias(network, table, head, first_distance, weights, count):  # type: ignore[no-untyped-def]
    """Add a head's relative biases to the weights of keys whose distances begin with ``first_distance``."""
    distances = network["num_distances"]
    line = carray(pointer(table, np.float32(0)), (network["num_heads"] * (2 * distances - 1),))
    start = head * (2 * distances - 1) + distances - 1 + first_distance
    for key in range(count):
        weights[key] += line[start + key]


@compiled()
def _attend_source(network, work, first, length):  # type: ignore[no-untyped-def]
    """Let each token of one source, in rows ``first`` to ``first + length``, attend to all of them."""
    width, dim, weights = network["attention_width"], network["head_dim"], work.attention
    stride, mixed_stride = work.projected.strides[0], work.mixed.strides[0]
    start, mixed = work.projected.ctypes.data + first * stride, work.mixed.ctypes.data + first * mixed_stride
    for head in range(network["num_heads"]):
        queries = start + 4 * head * dim
        keys, values = queries + 4 * width, queries + 8 * width
        for row in range(length):
            for key in range(length):
                weights[key] = dot_at(queries + row * stride, keys + key * stride, dim)
            if network["relative"]:
                _add_bias(network, network["encoder_bias"], head, -row, weights, length)
            softmax(weights, length)
            target = mixed + row * mixed_stride + 4 * head * dim
            _clear(target, dim)
            for key in range(length):
                add_scaled_at(target, values + key * stride, weights[key], dim)


@compiled()
def _copy(source, target, count):  # type: ignore[no-untyped-def]
    read, written = carray(pointer(source, np.float32(0)), (count,)), carray(pointer(target, np.float32(0)), (count,))
    for i in range(count):
        written[i] = read[i]


@compiled()
def _clear(address, count):  # type: ignore[no-untyped-def]
    target = carray(pointer(address, np.float32(0)), (count,))
    for i in range(count):
        target[i] = np.float32(0.0)


@entry
def encode(weights, work, token_ids, lengths, cross_addresses):  # type: ignore[no-untyped-def]
    """Encode sources, and write the keys and values that cross-attention needs.

    Args:
        weights: a Weights.
        work: a Workspace for all tokens together.
        token_ids: (tokens,) int64: the sources, one behind the other.
        lengths: (N,) int64: tokens of each.
        cross_addresses: (N,) int64: where each one's (layers, 2, H, S, head_dim) float32 go.
    """
    network, linears, norms = weights.network[0], weights.linears, weights.norms
    num_layers, rows = network["num_encoder_layers"], len(token_ids)
    decoder_layers = network["num_decoder_layers"]
    other_norms = ENCODER_NORMS * num_layers + DECODER_NORMS * decoder_layers
    row = 0
    for length in lengths:
        for position in range(length):
            _embed(
                network,
                network["source_table"],
                network["source_positions"],
                token_ids[row],
                position,
                work.states[row],
                work.vector,
            )
            row += 1
    if network["embedding_norm"]:
        _normalize(network, norms, other_norms + EMBEDDING_NORMS, work.states, work.states, rows)
    for layer in range(num_layers):
        linear, norm = ENCODER_LINEARS * layer, ENCODER_NORMS * layer
        _start_attention(network, linears, linear, norms, norm, work, rows)
        first = np.int64(0)
        for length in lengths:
            _attend_source(network, work, first, length)
            first += length
        _end_attention(network, linears, linear + 1, norms, norm, work, rows)
        _feed_forward(network, linears, linear + 2, norms, norm + 1, work, rows)
    if network["final_norm"]:
        _normalize(network, norms, other_norms + FINAL_NORMS, work.states, work.states, rows)
    cross_linear = ENCODER_LINEARS * num_layers + DECODER_LINEARS * decoder_layers
    first = np.int64(0)
    for source in range(len(lengths)):
        length = lengths[source]
        multiply(
            linears[cross_linear],
            work.states[first : first + length],
            length,
            work.cross,
            work.bytes_,
            work.scales,
            STORE,
        )
        # Each head's entries follow each other, so that attention reads memory in order.
        heads, dim = network["num_heads"], network["head_dim"]
        target = carray(pointer(cross_addresses[source], np.float32(0)), (2 * decoder_layers * heads, length, dim))
        for part in range(2 * decoder_layers * heads):
            for position in range(length):
                for i in range(dim):
                    target[part, position, i] = work.cross[position, part * dim + i]
        first += length


@compiled()
def _attend_target(network, layer, row, states, weights, mixed):  # type: ignore[no-untyped-def]
    """Write a row's own key and value, and let it attend to all positions that it descends from."""
    width, dim = network["attention_width"], network["head_dim"]
    position, beam, limit, num_beams = row["position"], row["beam"], row["limit"], row["num_beams"]
    ancestry = carray(pointer(row["ancestry"], np.int32(0)), (num_beams, limit))[beam]
    size = 4 * limit * num_beams * dim  # bytes of one head's keys, or values
    values = network["num_heads"] * size  # bytes from keys to values
    own = 4 * (position * num_beams + beam) * dim
    for head in range(network["num_heads"]):
        keys = row["keys_values"] + 2 * layer * values + head * size
        start = 4 * head * dim
        query, target = states.ctypes.data + start, mixed.ctypes.data + start
        _copy(query + 4 * width, keys + own, dim)
        _copy(query + 8 * width, keys + values + own, dim)
        for key in range(position):
            weights[key] = dot_at(query, keys + 4 * (key * num_beams + ancestry[key]) * dim, dim)
        weights[position] = dot_at(query, keys + own, dim)
        if network["relative"]:
            _add_bias(network, network["decoder_bias"], head, -position, weights, position + 1)
        softmax(weights, position + 1)
        _clear(target, dim)
        for key in range(position):
            entry = 4 * (key * num_beams + ancestry[key]) * dim
            add_scaled_at(target, keys + values + entry, weights[key], dim)
        add_scaled_at(target, keys + values + own, weights[position], dim)


@compiled()
def _attend_encoder_output(network, layer, row, queries, weights, mixed):  # type: ignore[no-untyped-def]
    """Let a row attend to its source."""
    dim, length = network["head_dim"], row["source_length"]
    size = 4 * length * dim  # bytes of one head's keys, or values
    values = network["num_heads"] * size
    for head in range(network["num_heads"]):
        keys = row["cross"] + 2 * layer * values + head * size
        query, target = queries.ctypes.data + 4 * head * dim, mixed.ctypes.data + 4 * head * dim
        for key in range(length):
            weights[key] = dot_at(query, keys + 4 * key * dim, dim)
        softmax(weights, length)
        _clear(target, dim)
        for key in range(length):
            add_scaled_at(target, keys + values + 4 * key * dim, weights[key], dim)


@compiled()
def decode_states(weights, work, rows, num_rows):  # type: ignore[no-untyped-def]
    """Feed one token to each row, and leave in ``work.states`` (R, D) what the output projection takes.

    Args:
        weights: a Weights.
        work: a Workspace for so many rows.
        rows: (R or more,) ROW.
        num_rows: R.
    """
    network, linears, norms = weights.network[0], weights.linears, weights.norms
    encoder_layers, num_layers = network["num_encoder_layers"], network["num_decoder_layers"]
    other_norms = ENCODER_NORMS * encoder_layers + DECODER_NORMS * num_layers
    for index in range(num_rows):
        row = rows[index]
        _embed(
            network,
            network["target_table"],
            network["target_positions"],
            row["token"],
            row["position"],
            work.states[index],
            work.vector,
        )
    if network["embedding_norm"]:
        _normalize(network, norms, other_norms + EMBEDDING_NORMS + 1, work.states, work.states, num_rows)
    for layer in range(num_layers):
        linear = ENCODER_LINEARS * encoder_layers + DECODER_LINEARS * layer
        norm = ENCODER_NORMS * encoder_layers + DECODER_NORMS * layer
        _start_attention(network, linears, linear, norms, norm, work, num_rows)
        for index in range(num_rows):
            _attend_target(network, layer, rows[index], work.projected[index], work.attention, work.mixed[index])
        _end_attention(network, linears, linear + 1, norms, norm, work, num_rows)
        _start_attention(network, linears, linear + 2, norms, norm + 1, work, num_rows)
        for index in range(num_rows):
            _attend_encoder_output(
                network, layer, rows[index], work.projected[index], work.attention, work.mixed[index]
            )
        _end_attention(network, linears, linear + 3, norms, norm + 1, work, num_rows)
        _feed_forward(network, linears, linear + 4, norms, norm + 2, work, num_rows)
    if network["final_norm"]:
        _normalize(network, norms, other_norms + FINAL_NORMS + 1, work.states, work.states, num_rows)
    if network["output_scale"] != np.float32(1.0):
        for index in range(num_rows):
            for i in range(network["d_model"]):
                work.states[index, i] *= network["output_scale"]


@entry
def decode(weights, work, rows, num_rows, logits):  # type: ignore[no-untyped-def]
    """Feed one token to each row, and write the next token's logits.

    Args:
        weights: a Weights.
        work: a Workspace for so many rows.
        rows: (R or more,) ROW.
        num_rows: R.
        logits: (R or more, V filled up to LANES) float32.
    """
    decode_states(weights, work, rows, num_rows)
    multiply(weights.linears[-1], work.states, num_rows, logits, work.bytes_, work.scales, STORE)
