"""One step on the device: the order among equals, no waiting for the device, nothing but changes in place."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.graphs.network import BLOCK, GraphNetwork
from model.graphs.search import GraphSearch, best_in_order
from model.graphs.state import LENGTH, LOOKAHEAD, Size, SlotState
from tests.unit.network_variations import build

CPU = torch.device("cpu")
HOST_READS = {
    "item",
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "equal",
    "lift_fresh",
}
"""Operators that wait for the device, have results whose size depends on numbers, or bring numbers from the host."""


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    num_rows=st.integers(1, 4),
    num_blocks=st.integers(1, 9),
    count=st.integers(1, 12),
    levels=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_the_best_are_in_strict_order(num_rows: int, num_blocks: int, count: int, levels: int, seed: int) -> None:
    choose = random.Random(seed)  # few levels: most values have equals, in their block and in others
    choices = [-float("inf"), *(-choose.expovariate(1.0) for _ in range(levels)), 0.0]
    rows = [[choose.choice(choices) for _ in range(num_blocks * BLOCK)] for _ in range(num_rows)]
    values, tokens = best_in_order(torch.tensor(rows), count)
    for row, row_values, row_tokens in zip(torch.tensor(rows).tolist(), values.tolist(), tokens.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda token: (-row[token], token))[:count]
        assert row_tokens == expected
        assert row_values == [row[token] for token in expected]


def operators(call: Callable[[], object]) -> list[str]:
    """Return the names of all operators that a call runs."""
    with torch.autograd.profiler.profile() as profile:
        call()
    return [event.name.removeprefix("aten::") for event in profile.function_events]


def running_state(network: GraphNetwork, num_beams: int, sources: list[list[int]], num_slots: int) -> SlotState:
    """Return a state whose first slots have just begun."""
    state = SlotState.allocate(network, num_beams, Size(num_slots, 32, 32))
    slots = torch.arange(len(sources))
    lengths = [len(source) for source in sources]
    padded = torch.tensor([[*source, *[0] * (max(lengths) - len(source))] for source in sources])
    cross, mask = network.encode(padded, torch.tensor(lengths))
    options = torch.tensor([[9, num_beams, 1, 9]] * len(sources))
    state.occupy(slots, options, torch.ones(len(sources), 32 + LOOKAHEAD, dtype=torch.float64), cross, mask)
    state.tokens[: len(sources)] = network.config.decoder_start_id
    return state


def tensors(state: SlotState) -> list[Tensor]:
    found = [value for value in vars(state).values() if isinstance(value, Tensor)]
    return [*found, *state.caches]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("variation", ["default", "t5"])
@torch.inference_mode()
def test_a_step_never_waits_for_the_device(variation: str, num_beams: int) -> None:
    network = GraphNetwork(build(variation), CPU, torch.float32)
    search = GraphSearch(network, torch.tensor([2]))
    state = running_state(network, num_beams, [[5, 6, 7], [8, 9]], num_slots=4)
    names = operators(lambda: search.step(state, Size(4, 32, 32)))
    assert "log_softmax" in names
    assert [name for name in names if name in HOST_READS] == []


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("variation", ["default", "marian", "bart", "t5"])
@torch.inference_mode()
def test_nothing_is_left_on_the_host(variation: str, num_beams: int) -> None:
    device = torch.device("meta")  # refuses tensors of another device, and has no numbers that could be looked at
    network = GraphNetwork(build(variation), device, torch.float16)
    search = GraphSearch(network, torch.tensor([2], device=device))
    state = SlotState.allocate(network, num_beams, Size(4, 32, 32))
    slots = torch.empty(2, dtype=torch.long, device=device)
    cross, mask = network.encode(torch.empty(2, 8, dtype=torch.long, device=device), slots)
    powers = torch.empty(2, 32 + LOOKAHEAD, dtype=torch.float64, device=device)
    state.occupy(slots, torch.empty(2, 4, dtype=torch.long, device=device), powers, cross, mask)
    search.step(state, Size(2, 32, 32))
    state = state.grow(network, Size(8, 64, 32))
    search.step(state, Size(8, 64, 32))
    state.move(slots, slots)
    state.wipe(slots)
    assert {(cache.device, cache.dtype) for cache in state.caches} == {(device, torch.float16)}


def test_what_waits_would_be_seen() -> None:
    for call in (lambda: torch.ones(2).sum().item(), lambda: torch.ones(2).nonzero(), lambda: torch.tensor([1.0])):
        assert HOST_READS & set(operators(call))


@pytest.mark.parametrize("num_beams", [1, 3])
@torch.inference_mode()
def test_a_step_changes_running_slots_in_place_and_no_others(num_beams: int) -> None:
    network = GraphNetwork(build("default"), CPU, torch.float32)
    search = GraphSearch(network, torch.tensor([2]))
    state = running_state(network, num_beams, [[5, 6, 7], [8, 9], [4]], num_slots=4)
    search.step(state, Size(4, 32, 32))
    state.free(torch.tensor([1]))
    before = copy.deepcopy(state)
    addresses = [tensor.data_ptr() for tensor in tensors(state)]
    for _ in range(3):
        search.step(state, Size(4, 32, 32))
    assert [tensor.data_ptr() for tensor in tensors(state)] == addresses
    assert state.progress[0, LENGTH] == 4
    assert torch.equal(state.progress[[1, 3]], before.progress[[1, 3]])
    for slot, changes in enumerate([True, False, True, False]):
        assert torch.equal(state.records[slot, :32], before.records[slot, :32]) is not changes
        for cache, old in zip(state.caches, before.caches, strict=True):
            assert torch.equal(cache[slot, : 32 * num_beams], old[slot, : 32 * num_beams]) is not changes


def test_everything_is_finite_in_slots_that_never_ran() -> None:
    network = GraphNetwork(build("relative"), CPU, torch.float32)
    search = GraphSearch(network, torch.tensor([2]))
    with torch.inference_mode():
        state = SlotState.allocate(network, 2, Size(4, 32, 32))
        search.step(state, Size(4, 32, 32))
    assert all(cache.isfinite().all() for cache in state.caches)
    assert state.progress.sum() == 0
