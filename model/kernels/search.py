"""Greedy and beam search in compiled loops, for many requests at once; the rules are those of ``model.generation``.

One step ranks, ends and keeps hypotheses exactly as ``GreedySearch`` and ``BeamSearch`` do, with the same sums in the
same precision. It writes down what it did; the host puts hypotheses together from these records afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.config import MAX_BEAM_SIZE, ModelConfig
from model.generation.records import END_LOG_PROB, ENDED_PARENT, NONE, PARENT, TOKEN, TOKEN_LOG_PROB
from model.kernels.arithmetic import log_sum_exp
from model.kernels.compilation import compiled, entry
from model.kernels.linear import STORE, multiply
from model.kernels.machine import LANES, carray, load_flag, maximum_at, pointer
from model.kernels.network import ROW, decode_states
from model.kernels.packing import padded_width

NEVER = -np.inf
BLOCK = 64
"""Logits whose maximum is taken before the best ones are looked for; see ``model.generation.candidates``."""

SLOT = np.dtype(
    [
        ("num_beams", np.int64),  # K
        ("num_live", np.int64),  # beams at this moment; 1 at the start
        ("length", np.int64),  # tokens that each of them has
        ("limit", np.int64),  # most tokens of a hypothesis
        ("source_length", np.int64),
        ("num_best", np.int64),  # how many hypotheses are returned
        ("wanted", np.int64),  # the search ends when so many have ended
        ("num_ended", np.int64),
        ("state", np.int64),  # FREE, RUNNING, FINISHED or BROKEN
        ("penalty", np.float64),  # length penalty
        ("keys_values", np.int64),  # addresses as in network.ROW
        ("cross", np.int64),
        ("ancestry", np.int64),
        ("records", np.int64),  # address of (limit, K, 3) int32, see model.generation.records
        ("log_probs", np.int64),  # address of (limit, K, 2) float32
        ("candidates", np.int64),  # address of the short-list's tokens, int32, rising
        ("num_candidates", np.int64),  # how many there are; 0 for the whole vocabulary
    ]
)
"""One request; its arrays belong to the host."""
FREE, RUNNING, FINISHED, BROKEN = 0, 1, 2, 3
"""States of a slot; BROKEN means that the network computed no finite numbers."""


class SearchState(NamedTuple):
    """What the search remembers of all slots; N slots, at most K beams each."""

    slots: NDArray[np.void]
    """(N,) SLOT."""
    tokens: NDArray[np.int32]
    """(N, K) each live beam's newest token."""
    totals: NDArray[np.float64]
    """(N, K) each live beam's summed log-probability, falling."""
    best_scores: NDArray[np.float64]
    """(N, K) the greatest scores of what has ended, falling; minus infinity where there are fewer."""
    outputs: NDArray[np.void]
    """(N,) LINEAR: the output projection of each, of its short-list only where it has one."""
    banned: NDArray[np.int64]
    """(any,) tokens that are never generated; no short-list has them."""
    interrupt: NDArray[np.int32]
    """(1,) another thread makes it positive to end a call after the current step."""


class SearchWork(NamedTuple):
    """Memory to work in; what is in it has no meaning between calls."""

    rows: NDArray[np.void]
    """(R,) network.ROW."""
    logits: NDArray[np.float32]
    """(R, V filled up to whole vectors)."""
    block_maxima: NDArray[np.float32]
    """(blocks,) of one row."""
    candidate_totals: NDArray[np.float64]
    """(2 * K,) the candidates of one slot, best first, and then what they are."""
    candidate_log_probs: NDArray[np.float32]
    candidate_tokens: NDArray[np.int32]
    candidate_parents: NDArray[np.int32]
    row_values: NDArray[np.float32]
    """(K + 1,) the best logits of one row, falling."""
    row_tokens: NDArray[np.int32]
    """(K + 1,) their tokens."""
    live: NDArray[np.int32]
    """(K,) the candidates that go on."""
    ancestry: NDArray[np.int32]
    """(K, positions) the next ancestry of one slot."""


def new_search_work(config: ModelConfig, num_rows: int) -> SearchWork:
    """Return memory for steps of up to ``num_rows`` rows."""
    most = 2 * MAX_BEAM_SIZE
    return SearchWork(
        rows=np.zeros(num_rows, ROW),
        logits=np.empty((num_rows, padded_width(config.vocab_size)), np.float32),
        block_maxima=np.empty(-(-config.vocab_size // BLOCK), np.float32),
        candidate_totals=np.empty(most, np.float64),
        candidate_log_probs=np.empty(most, np.float32),
        candidate_tokens=np.empty(most, np.int32),
        candidate_parents=np.empty(most, np.int32),
        row_values=np.empty(MAX_BEAM_SIZE + 1, np.float32),
        row_tokens=np.empty(MAX_BEAM_SIZE + 1, np.int32),
        live=np.empty(MAX_BEAM_SIZE, np.int32),
        ancestry=np.empty((MAX_BEAM_SIZE, config.max_target_length), np.int32),
    )


@compiled()
def find_maxima(logits, maxima):  # type: ignore[no-untyped-def]
    """Write the maximum of each block of the logits (V,) into (blocks,), and return the greatest."""
    greatest = np.float32(NEVER)
    for block in range(len(maxima)):
        start = block * BLOCK
        size = min(BLOCK, len(logits) - start)
        vectors = size // LANES
        best = maximum_at(logits.ctypes.data + 4 * start, vectors) if vectors else np.float32(NEVER)
        for i in range(start + vectors * LANES, start + size):
            best = max(best, logits[i])
        maxima[block] = best
        greatest = max(greatest, best)
    return greatest


@compiled()
def best_logits(logits, maxima, count, values, tokens):  # type: ignore[no-untyped-def]
    """Write the ``count`` greatest logits of one row, falling, the smaller token first among equals, and their tokens.

    Args:
        logits: (V,).
        maxima: (blocks,) their maxima; logits that were lowered afterwards do no harm.
        count: how many.
        values: (count or more,).
        tokens: (count or more,).

    Returns:
        How many were found; fewer than ``count`` where all others are minus infinity.
    """
    found = 0
    for block in range(len(maxima)):
        if found == count and not maxima[block] > values[count - 1]:
            continue
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(logits))):
            value = logits[i]
            if value == NEVER or (found == count and not value > values[count - 1]):
                continue
            place = min(found, count - 1)
            while place > 0 and values[place - 1] < value:
                values[place], tokens[place] = values[place - 1], tokens[place - 1]
                place -= 1
            values[place], tokens[place] = value, i
            found = min(found + 1, count)
    return found


@compiled()
def _score(total, length, penalty):  # type: ignore[no-untyped-def]
    return total / np.float64(length) ** penalty


@compiled()
def _find_best(state, slot, logits, count, work):  # type: ignore[no-untyped-def]
    """Write the ``count`` best logits of one row and their tokens to ``work``.

    Returns:
        The logarithm of the sum of all exponentials, which is not finite if the network's numbers are not, and how
        many were found.
    """
    size = slot["num_candidates"] if slot["num_candidates"] else len(logits)
    logits, maxima = logits[:size], work.block_maxima[: (size + BLOCK - 1) // BLOCK]
    normalizer = log_sum_exp(logits, size, find_maxima(logits, maxima))
    if slot["num_candidates"] == 0:
        for token in state.banned:
            logits[token] = NEVER
    found = best_logits(logits, maxima, count, work.row_values, work.row_tokens)
    if slot["num_candidates"]:
        candidates = carray(pointer(slot["candidates"], np.int32(0)), (size,))
        for i in range(found):
            work.row_tokens[i] = candidates[work.row_tokens[i]]
    return normalizer, found


@compiled()
def _extend_greedily(state, index, logits, work, eos_id):  # type: ignore[no-untyped-def]
    """Append the most probable token to the one beam of a slot."""
    slot = state.slots[index]
    normalizer, found = _find_best(state, slot, logits, slot["num_beams"], work)
    if not np.isfinite(normalizer) or found == 0:
        slot["state"] = BROKEN
        return
    records = carray(pointer(slot["records"], np.int32(0)), (slot["limit"], 1, 3))
    log_probs = carray(pointer(slot["log_probs"], np.float32(0)), (slot["limit"], 1, 2))
    token, length = work.row_tokens[0], slot["length"]
    records[length, 0, TOKEN] = token
    log_probs[length, 0, TOKEN_LOG_PROB] = work.row_values[0] - normalizer
    state.tokens[index, 0] = token
    slot["length"] = length + 1
    if token == eos_id or length + 1 == slot["limit"]:
        slot["state"] = FINISHED


@compiled()
def _rank(state, index, first_row, work, vocab_size):  # type: ignore[no-untyped-def]
    """Write the best 2 K continuations, best first: of equals the better parent, then the better candidate.

    The first 2 K hold the first K that do not end, as every beam ends at most once.

    Returns:
        How many there are, or NONE if the network computed no finite numbers.
    """
    slot = state.slots[index]
    most, ranked = 2 * slot["num_beams"], 0
    for beam in range(slot["num_live"]):
        logits = work.logits[first_row + beam, :vocab_size]
        normalizer, found = _find_best(state, slot, logits, slot["num_beams"] + 1, work)
        if not np.isfinite(normalizer):
            return NONE
        for i in range(found):
            log_prob = work.row_values[i] - normalizer
            total = state.totals[index, beam] + np.float64(log_prob)
            if ranked == most and not total > work.candidate_totals[most - 1]:
                break  # those that follow are worse
            place = min(ranked, most - 1)
            while place > 0 and work.candidate_totals[place - 1] < total:
                work.candidate_totals[place] = work.candidate_totals[place - 1]
                work.candidate_log_probs[place] = work.candidate_log_probs[place - 1]
                work.candidate_tokens[place] = work.candidate_tokens[place - 1]
                work.candidate_parents[place] = work.candidate_parents[place - 1]
                place -= 1
            work.candidate_totals[place] = total
            work.candidate_log_probs[place] = log_prob
            work.candidate_tokens[place] = work.row_tokens[i]
            work.candidate_parents[place] = beam
            ranked = min(ranked + 1, most)
    return ranked


@compiled()
def _end(state, index, score):  # type: ignore[no-untyped-def]
    """Count a hypothesis that ended, and keep its score if it is among the best."""
    slot = state.slots[index]
    slot["num_ended"] += 1
    best = state.best_scores[index]
    place = slot["num_beams"] - 1
    if not score > best[place]:
        return
    while place > 0 and best[place - 1] < score:
        best[place] = best[place - 1]
        place -= 1
    best[place] = score


@compiled()
def _extend_beams(state, index, first_row, work, vocab_size, eos_id):  # type: ignore[no-untyped-def]
    """Rank the continuations of a slot's beams, end those that end, and keep the best others."""
    slot = state.slots[index]
    num_beams, length = slot["num_beams"], slot["length"]
    ranked = _rank(state, index, first_row, work, vocab_size)
    if ranked <= 0:
        slot["state"] = BROKEN
        return
    records = carray(pointer(slot["records"], np.int32(0)), (slot["limit"], num_beams, 3))
    log_probs = carray(pointer(slot["log_probs"], np.float32(0)), (slot["limit"], num_beams, 2))
    records[length, :, TOKEN] = NONE
    records[length, :, ENDED_PARENT] = NONE
    num_live = np.int64(0)
    for rank in range(ranked):
        if work.candidate_tokens[rank] == eos_id:
            if rank < num_beams:
                records[length, rank, ENDED_PARENT] = work.candidate_parents[rank]
                log_probs[length, rank, END_LOG_PROB] = work.candidate_log_probs[rank]
                _end(state, index, _score(work.candidate_totals[rank], length + 1, slot["penalty"]))
        elif num_live < num_beams:
            work.live[num_live] = rank
            num_live += 1
        elif rank >= num_beams:
            break
    for beam in range(num_live):
        rank = work.live[beam]
        records[length, beam, TOKEN] = work.candidate_tokens[rank]
        records[length, beam, PARENT] = work.candidate_parents[rank]
        log_probs[length, beam, TOKEN_LOG_PROB] = work.candidate_log_probs[rank]
        state.tokens[index, beam] = work.candidate_tokens[rank]
        state.totals[index, beam] = work.candidate_totals[rank]
    _inherit(slot, records, num_live, work.ancestry)
    slot["num_live"] = num_live
    slot["length"] = length + 1
    if _is_finished(state, index):
        slot["state"] = FINISHED


@compiled()
def _inherit(slot, records, num_live, work):  # type: ignore[no-untyped-def]
    """Let each new beam descend from the positions that its parent descends from, and from the parent's own."""
    length = slot["length"]
    ancestry = carray(pointer(slot["ancestry"], np.int32(0)), (slot["num_beams"], slot["limit"]))
    for beam in range(num_live):
        parent = records[length, beam, PARENT]
        for position in range(length):
            work[beam, position] = ancestry[parent, position]
        work[beam, length] = parent
    for beam in range(num_live):
        for position in range(length + 1):
            ancestry[beam, position] = work[beam, position]


@compiled()
def _is_finished(state, index):  # type: ignore[no-untyped-def]
    """The rules of ``BeamSearch._is_finished``, where the bound is explained."""
    slot = state.slots[index]
    if slot["num_live"] == 0 or slot["length"] == slot["limit"] or slot["num_ended"] >= slot["wanted"]:
        return True
    if slot["num_ended"] < slot["num_best"]:
        return False
    length = slot["limit"] if slot["penalty"] > 0 else slot["length"] + 1
    return _score(state.totals[index, 0], length, slot["penalty"]) <= state.best_scores[index, slot["num_best"] - 1]


@compiled()
def _gather_rows(state, active, rows):  # type: ignore[no-untyped-def]
    """Write a row for each live beam of the active slots, and return how many."""
    count = 0
    for index in active:
        slot = state.slots[index]
        for beam in range(slot["num_live"]):
            row = rows[count]
            row["token"] = state.tokens[index, beam]
            row["position"] = slot["length"]
            row["beam"] = beam
            row["num_beams"] = slot["num_beams"]
            row["limit"] = slot["limit"]
            row["source_length"] = slot["source_length"]
            row["keys_values"] = slot["keys_values"]
            row["cross"] = slot["cross"]
            row["ancestry"] = slot["ancestry"]
            count += 1
    return count


@compiled()
def _project(weights, network_work, state, work, active, num_rows):  # type: ignore[no-untyped-def]
    """Write the logits of all rows: in one product, or slot by slot where there are short-lists."""
    whole = True
    for index in active:
        whole = whole and state.slots[index]["num_candidates"] == 0
    bytes_, scales = network_work.bytes_, network_work.scales
    if whole:
        multiply(weights.linears[-1], network_work.states, num_rows, work.logits, bytes_, scales, STORE)
        return
    first = np.int64(0)
    for index in active:
        count = state.slots[index]["num_live"]
        rows, logits = network_work.states[first : first + count], work.logits[first : first + count]
        multiply(state.outputs[index], rows, count, logits, bytes_, scales, STORE)
        first += count


@entry
def search(weights, network_work, state, work, active, eos_id, max_steps):  # type: ignore[no-untyped-def]
    """Take steps until a slot is done, the interrupt is set, or ``max_steps`` are taken.

    Args:
        weights: a Weights.
        network_work: a Workspace for as many rows as the slots have beams together.
        state: a SearchState.
        work: a SearchWork.
        active: (any,) int64: the running slots, at least one.
        eos_id: the end token.
        max_steps: at least 1.

    Returns:
        How many steps were taken.
    """
    steps, vocab_size = 0, weights.network[0]["vocab_size"]
    while True:
        num_rows = _gather_rows(state, active, work.rows)
        decode_states(weights, network_work, work.rows, num_rows)
        _project(weights, network_work, state, work, active, num_rows)
        first_row, going = np.int64(0), True
        for index in active:
            slot = state.slots[index]
            num_live = slot["num_live"]
            if slot["num_beams"] == 1:
                _extend_greedily(state, index, work.logits[first_row, :vocab_size], work, eos_id)
            else:
                _extend_beams(state, index, first_row, work, vocab_size, eos_id)
            first_row += num_live
            going = going and slot["state"] == RUNNING
        steps += 1
        if not going or steps == max_steps or load_flag(state.interrupt.ctypes.data) != 0:
            return steps
