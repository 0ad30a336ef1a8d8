"""The compiled running batch: a result does not depend on what shares it, joins it, leaves it or breaks in it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.errors import InvalidOptionError, InvalidRequestError
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError
from model.kernels.batch import KernelBatch
from model.kernels.linear import WeightKind
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
from tests.unit.kernel_reference import (
    VOCAB_SIZE,
    assert_same,
    compiled_alone,
    compiled_together,
    draw_source,
    plain,
    run,
    small_network,
)
from tests.unit.table_model import EOS, SPECIAL

BROKEN_TOKEN = 49
"""A source token whose vector is NaN."""


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_network()


@pytest.fixture(scope="module", params=["float32", "int8"])
def network(request: pytest.FixtureRequest, model: Transformer) -> PackedNetwork:
    return PackedNetwork(model, request.param)


@pytest.fixture(scope="module")
def float_network(model: Transformer) -> PackedNetwork:
    return PackedNetwork(model, "float32")


def some_inputs(model: Transformer, count: int) -> list[GenerationInput]:
    options = [
        GenerationConfig(beam_size=1),
        GenerationConfig(beam_size=3, num_hypotheses=2),
        GenerationConfig(beam_size=1, sampling=True, seed=7, num_hypotheses=2),
        GenerationConfig(beam_size=6, num_hypotheses=6, patience=2.0, length_penalty=0.3),
        GenerationConfig(beam_size=2, max_new_tokens=5),
        GenerationConfig(beam_size=3, no_repeat_ngram_size=2, repetition_penalty=1.3, banned_tokens=(9,)),
        GenerationConfig(beam_size=1, max_new_tokens=1),
        GenerationConfig(beam_size=17, num_hypotheses=2, length_penalty=0.0),
    ]
    return [
        GenerationInput(draw_source(model.config, 1 + 5 * index % 23, index), options[index % len(options)])
        for index in range(count)
    ]


def test_together_is_alone_to_the_bit(model: Transformer, network: PackedNetwork) -> None:
    items = some_inputs(model, 40)  # more than the slots and rows that there are at first
    together = compiled_together(network, items)
    assert together == [compiled_alone(network, item) for item in items]
    assert compiled_together(network, items[::-1]) == together[::-1]


def test_sources_that_are_encoded_in_parts_are_alone_to_the_bit(
    model: Transformer, network: PackedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = some_inputs(model, 20)
    expected = [compiled_alone(network, item) for item in items]
    for tokens in (1, 30, 100):
        monkeypatch.setattr("model.kernels.batch.ENCODED_TOKENS", tokens)
        assert compiled_together(network, items) == expected


def test_joining_and_leaving_on_the_way_is_alone_to_the_bit(model: Transformer, network: PackedNetwork) -> None:
    items = some_inputs(model, 30)
    batch: KernelBatch[int] = KernelBatch(network, SPECIAL)
    waiting = list(enumerate(items))
    results: dict[int, list[Hypothesis]] = {}
    removed: set[int] = set()
    while waiting or batch.num_requests:
        joining, waiting = waiting[: 1 + len(waiting) % 3], waiting[1 + len(waiting) % 3 :]
        batch.add(joining)
        batch.interrupt()  # so that the next step is one token long
        results |= dict(batch.step())
        for key, _ in joining:
            if key % 3 == 1:
                batch.remove(key)
                removed |= {key} - set(results)
    assert len(removed) >= 5
    assert set(results) == set(range(30)) - removed
    assert results == {key: compiled_alone(network, items[key]) for key in results}


@pytest.mark.parametrize("kept_bytes", [0, 2**16, 2**30])
def test_memory_of_finished_requests_is_used_again_without_a_trace(
    kept_bytes: int, model: Transformer, network: PackedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.kernels.batch.KEPT_BYTES", kept_bytes)
    batch: KernelBatch[int] = KernelBatch(network, SPECIAL)
    # Other beams, limits and source lengths at each turn, so that the same memory has another shape.
    shapes = [(1, 40, 3), (4, 10, 9), (2, 20, 16), (8, 5, 2), (5, 8, 14), (3, 13, 1), (40, 1, 9), (1, 3, 30)]
    for turn in range(3):
        for beam_size, limit, length in shapes[turn:] + shapes[:turn]:
            config = GenerationConfig(beam_size=beam_size, max_new_tokens=limit, num_hypotheses=beam_size)
            item = GenerationInput(draw_source(model.config, length, turn), config)
            batch.add([(0, item)])
            assert run(batch)[0] == compiled_alone(network, item)


def test_requests_rows_and_steps_are_counted(float_network: PackedNetwork) -> None:
    batch: KernelBatch[str] = KernelBatch(float_network, (*SPECIAL, EOS))
    assert (batch.num_requests, batch.num_rows, batch.num_steps) == (0, 0, 0)
    assert batch.step() == []
    assert batch.num_steps == 0
    short = GenerationInput([5, EOS], GenerationConfig(beam_size=3, max_new_tokens=2))
    long = GenerationInput([6, 7, EOS], GenerationConfig(beam_size=2, max_new_tokens=5))
    batch.add([("short", short), ("long", long)])
    batch.add([])
    assert (batch.num_requests, batch.num_rows, batch.num_steps) == (2, 2, 0)
    batch.interrupt()
    assert batch.step() == []
    assert (batch.num_requests, batch.num_rows, batch.num_steps) == (2, 5, 1)
    assert [key for key, _ in batch.step()] == ["short"]
    assert (batch.num_requests, batch.num_rows, batch.num_steps) == (1, 2, 2)
    assert [key for key, _ in batch.step()] == ["long"]
    assert (batch.num_requests, batch.num_rows, batch.num_steps) == (0, 0, 5)
    assert batch.step() == []
    assert batch.num_steps == 5


def test_a_step_returns_as_soon_as_one_is_finished(float_network: PackedNetwork) -> None:
    batch: KernelBatch[int] = KernelBatch(float_network, (*SPECIAL, EOS))
    limits = [3, 9, 1, 9, 4]
    batch.add(
        [
            (key, GenerationInput([5, EOS], GenerationConfig(beam_size=1 + key % 2, max_new_tokens=limit)))
            for key, limit in enumerate(limits)
        ]
    )
    finished = []
    while batch.num_requests:
        finished.append(([key for key, _ in batch.step()], batch.num_steps))
    assert finished == [([2], 1), ([0], 3), ([4], 4), ([1, 3], 9)]


def test_with_a_rarer_option_in_the_batch_all_take_one_step_at_a_time(float_network: PackedNetwork) -> None:
    batch: KernelBatch[str] = KernelBatch(float_network, (*SPECIAL, EOS))
    config = GenerationConfig(beam_size=2, max_new_tokens=9)
    batch.add([("common", GenerationInput([5, EOS], config))])
    rare = GenerationConfig(beam_size=3, max_new_tokens=4, no_repeat_ngram_size=2)
    batch.add([("rare", GenerationInput([5, EOS], rare))])
    seen = []
    while batch.num_requests:
        seen.append((batch.num_rows, batch.num_requests, [key for key, _ in batch.step()], batch.num_steps))
    assert seen == [(2, 2, [], 1), (5, 2, [], 2), (5, 2, [], 3), (5, 2, ["rare"], 4), (2, 1, ["common"], 9)]


def test_a_request_can_leave_at_any_time(model: Transformer, float_network: PackedNetwork) -> None:
    items = some_inputs(model, 8)
    batch: KernelBatch[int] = KernelBatch(float_network, SPECIAL)
    batch.add(list(enumerate(items)))
    batch.remove(99)
    assert batch.num_requests == 8
    for key in (1, 2):  # one common, one rare, both before their first step
        batch.remove(key)
    batch.remove(1)
    assert batch.num_requests == 6
    results = run(batch)
    assert results == {key: compiled_alone(float_network, items[key]) for key in (0, 3, 4, 5, 6, 7)}
    for key in results:
        batch.remove(key)
    assert (batch.num_requests, batch.num_rows) == (0, 0)
    batch.add([(1, items[1])])  # a key can be used again
    batch.remove(1)
    batch.add([(1, items[3])])
    assert run(batch) == {1: results[3]}


@pytest.mark.parametrize("rare", [False, True])
def test_an_input_that_does_not_fit_is_refused_and_nobody_joins(rare: bool, float_network: PackedNetwork) -> None:
    batch: KernelBatch[int] = KernelBatch(float_network, SPECIAL)
    good = GenerationInput([5, EOS], GenerationConfig(min_new_tokens=int(rare)))
    with pytest.raises(InvalidRequestError, match=r"source_ids must have 1 to 32 tokens, got 33"):
        batch.add([(0, good), (1, GenerationInput([5] * 33))])
    with pytest.raises(InvalidRequestError, match=r"source_ids must be token ids from 0 to 49"):
        batch.add([(0, good), (1, GenerationInput([5, VOCAB_SIZE]))])
    with pytest.raises(InvalidOptionError, match="target_prefix must be token ids"):
        batch.add([(0, good), (1, GenerationInput([5], GenerationConfig(target_prefix=(-1,))))])
    assert (batch.num_requests, batch.num_rows) == (0, 0)


@pytest.fixture(scope="module", params=["float32", "float16", "int8"])
def broken_network(request: pytest.FixtureRequest) -> PackedNetwork:
    model = small_network(tie_source_target=False)
    with torch.no_grad():
        model.source_embedding.weight[BROKEN_TOKEN] = float("nan")
    kind: WeightKind = request.param
    return PackedNetwork(model, kind)


@pytest.mark.parametrize("rare", [False, True])
def test_numbers_that_are_not_finite_fail_their_own_request_only(rare: bool, broken_network: PackedNetwork) -> None:
    config = broken_network.config
    options = [GenerationConfig(beam_size=size, min_new_tokens=int(rare)) for size in (1, 2, 5)]
    sources = [[*draw_source(config, 9, seed)[:-1], BROKEN_TOKEN, EOS] for seed in range(3)]
    broken = [GenerationInput(source, each) for source, each in zip(sources, options, strict=True)]
    sources = [[token for token in draw_source(config, 9, seed) if token != BROKEN_TOKEN] for seed in range(3, 9)]
    intact = [GenerationInput(source, options[index % 3]) for index, source in enumerate(sources)]
    for item in broken:
        batch: KernelBatch[object] = KernelBatch(broken_network, SPECIAL)
        batch.add([*enumerate(intact[:3]), ("broken", item), *enumerate(intact[3:], start=3)])
        with pytest.raises(NonFiniteLogitsError, match=r"not finite for 1 request") as caught:
            batch.step()
        assert caught.value.keys == ("broken",)
        assert batch.num_requests == 6
        assert run(batch) == {key: compiled_alone(broken_network, each) for key, each in enumerate(intact)}
        batch.add([(7, intact[0])])  # the broken one's slot and memory
        assert run(batch) == {7: compiled_alone(broken_network, intact[0])}


def test_several_that_break_at_once_are_named_together(broken_network: PackedNetwork) -> None:
    source = [5, BROKEN_TOKEN, EOS]
    batch: KernelBatch[str] = KernelBatch(broken_network, SPECIAL)
    batch.add([("a", GenerationInput(source)), ("b", GenerationInput(source, GenerationConfig(beam_size=1)))])
    batch.add([("c", GenerationInput(source, GenerationConfig(min_new_tokens=1)))])
    with pytest.raises(NonFiniteLogitsError) as caught:
        batch.step()
    assert sorted(map(str, caught.value.keys)) == ["a", "b", "c"]
    assert (batch.num_requests, batch.num_rows) == (0, 0)
    assert batch.step() == []


def test_what_finishes_in_a_failing_step_is_returned_by_the_next(broken_network: PackedNetwork) -> None:
    one = GenerationInput([5, EOS], GenerationConfig(beam_size=2, max_new_tokens=1))
    rare = GenerationInput([5, EOS], GenerationConfig(beam_size=2, max_new_tokens=1, min_new_tokens=1))
    bad = GenerationInput([BROKEN_TOKEN, EOS])
    batch: KernelBatch[str] = KernelBatch(broken_network, SPECIAL)
    batch.add([("good", one), ("bad", bad), ("rare", rare), ("cancelled", one), ("rare and cancelled", rare)])
    with pytest.raises(NonFiniteLogitsError):
        batch.step()
    assert (batch.num_requests, batch.num_rows) == (4, 0)
    batch.remove("cancelled")
    batch.remove("rare and cancelled")
    assert batch.num_requests == 2
    steps = batch.num_steps
    expected = {"good": compiled_alone(broken_network, one), "rare": compiled_alone(broken_network, rare)}
    assert dict(batch.step()) == expected
    assert (batch.num_requests, batch.num_steps) == (0, steps)


def test_threads_that_share_a_network_do_not_disturb_each_other(model: Transformer, network: PackedNetwork) -> None:
    items = some_inputs(model, 24)
    expected = [compiled_alone(network, item) for item in items]
    found: list[list[list[Hypothesis]]] = []
    start = threading.Barrier(3)

    def work(own: Sequence[GenerationInput]) -> None:
        start.wait(timeout=60)
        found.append(compiled_together(network, own))

    threads = [threading.Thread(target=work, args=(items,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [expected] * 3


def configs() -> st.SearchStrategy[GenerationConfig]:
    """Draw options, about half of which the compiled searches do themselves."""
    return st.one_of(common_configs(), rare_configs())


@st.composite
def common_configs(draw: st.DrawFn) -> GenerationConfig:
    beam_size = draw(st.integers(1, 6))
    return GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=draw(st.integers(1, beam_size)),
        patience=draw(st.sampled_from([0.3, 1.0, 2.0])),
        length_penalty=draw(st.sampled_from([-0.5, 0.0, 0.3, 1.0, 2.0])),
        max_new_tokens=draw(st.none() | st.integers(1, 20)),
    )


@st.composite
def rare_configs(draw: st.DrawFn) -> GenerationConfig:
    sampling = draw(st.booleans())
    beam_size = 1 if sampling else draw(st.integers(1, 4))
    return GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=draw(st.integers(1, 3 if sampling else beam_size)),
        sampling=sampling,
        seed=draw(st.integers(0, 99)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.4])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 2])),
        min_new_tokens=draw(st.integers(0, 3)),
        max_new_tokens=draw(st.integers(6, 12)),
        target_prefix=tuple(draw(st.lists(st.integers(EOS + 1, VOCAB_SIZE - 1), max_size=2))),
        banned_tokens=tuple(draw(st.lists(st.integers(EOS, VOCAB_SIZE - 1), max_size=3))),
    )


requests = st.lists(
    st.tuples(st.integers(1, 20), configs(), st.integers(0, 8), st.integers(0, 30)), min_size=1, max_size=9
)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(requests=requests, interrupts=st.sets(st.integers(0, 39)))
def test_requests_that_join_and_are_cancelled_at_any_time_get_what_the_plain_path_gives(
    requests: list[tuple[int, GenerationConfig, int, int]],
    interrupts: set[int],
    model: Transformer,
    float_network: PackedNetwork,
) -> None:
    inputs = [GenerationInput(draw_source(model.config, length, length), config) for length, config, _, _ in requests]
    batch: KernelBatch[int] = KernelBatch(float_network, SPECIAL)
    results: dict[int, list[Hypothesis]] = {}
    cancelled: set[int] = set()
    step = 0
    while step < 9 or batch.num_requests:
        batch.add([(key, inputs[key]) for key, (_, _, joins, _) in enumerate(requests) if joins == step])
        for key, (_, _, joins, leaves) in enumerate(requests):
            if joins < leaves == step and key not in results:
                batch.remove(key)
                cancelled.add(key)
        if step in interrupts:
            batch.interrupt()
        results |= dict(batch.step())
        step += 1
    assert (batch.num_requests, batch.num_rows) == (0, 0)
    assert set(results) == set(range(len(requests))) - cancelled
    for key, hypotheses in results.items():
        assert hypotheses == compiled_alone(float_network, inputs[key])
        assert_same(inputs[key], hypotheses, plain(model, [inputs[key]])[0])
