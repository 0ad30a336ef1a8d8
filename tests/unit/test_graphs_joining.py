"""Requests that join, leave, fail and are cancelled between steps: nothing of it shows in the results of others.

The logits come from a table, so that results are equal to the last bit, and ties are as frequent as a test wants them.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.errors import InvalidOptionError, InvalidRequestError
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError, generate
from model.graphs import GraphBatch
from model.graphs.batch import MAX_STEPS
from model.graphs.graphs import Launcher
from model.graphs.lane import bucket, greatest_bucket
from tests.unit.replaying_launcher import Contexts, Interrupting, ReplayingLauncher, SlowEncoder
from tests.unit.table_model import EOS, SPECIAL, TableModel, as_transformer
from tests.unit.table_network import BROKEN_TOKEN, as_graph_network

VOCAB_SIZE = 64
"""A multiple of the blocks, so that log-softmax adds the same numbers in the same order on both paths."""
WORDS = st.integers(EOS + 1, VOCAB_SIZE - 2)
LONG = GenerationConfig(beam_size=1, max_new_tokens=60)


def table(seed: int = 0, *, ties: bool = False, endless: bool = False) -> TableModel:
    model = TableModel(VOCAB_SIZE, seed, sharpness=1.0)
    if ties:
        model.table.data.round_()
    model.table.data[:, EOS] += -100 if endless else 2
    return model


def new_batch(model: TableModel, launcher: Launcher | None = None) -> GraphBatch[int]:
    launcher = ReplayingLauncher() if launcher is None else launcher
    return GraphBatch(as_graph_network(model), lambda: as_transformer(model), SPECIAL, launcher)


def alone(model: TableModel, item: GenerationInput) -> list[Hypothesis]:
    return generate(as_transformer(model), [item], SPECIAL)[0]


def finish(batch: GraphBatch[int]) -> dict[int, list[Hypothesis]]:
    results: dict[int, list[Hypothesis]] = {}
    while batch.num_requests:
        results.update(batch.step())
    return results


@st.composite
def configs(draw: st.DrawFn) -> GenerationConfig:
    beam_size = draw(st.integers(1, 5))
    return GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=draw(st.integers(1, beam_size)),
        patience=draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])),
        length_penalty=draw(st.sampled_from([-1.5, -0.5, 0.0, 0.6, 1.0, 3.0])),
        max_new_tokens=draw(st.one_of(st.none(), st.integers(1, 40))),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 0, 0, 0, 2])),  # a rare option
    )


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    requests=st.lists(
        st.tuples(st.lists(WORDS, min_size=1, max_size=40), configs(), st.integers(0, 6), st.integers(0, 30)),
        min_size=1,
        max_size=12,
    ),
    seed=st.integers(0, 9),
    ties=st.booleans(),
    one_by_one=st.booleans(),
)
def test_requests_that_join_and_are_cancelled_at_any_time_do_not_disturb_each_other(
    requests: list[tuple[list[int], GenerationConfig, int, int]], seed: int, ties: bool, one_by_one: bool
) -> None:
    model = table(seed, ties=ties)
    inputs = [GenerationInput(source, config) for source, config, _, _ in requests]
    batch = new_batch(model)
    results: dict[int, list[Hypothesis]] = {}
    cancelled: set[int] = set()
    for call in range(200):
        batch.add([(key, inputs[key]) for key, (_, _, joins, _) in enumerate(requests) if joins == call])
        for key, (_, _, joins, leaves) in enumerate(requests):
            if joins < leaves == call and key not in results:
                batch.remove(key)
                cancelled.add(key)
        if one_by_one:
            batch.interrupt()  # one token a call, so that requests meet at all lengths
        for key, hypotheses in batch.step():
            assert key not in results
            results[key] = hypotheses
        assert batch.num_requests == sum(joins <= call for _, _, joins, _ in requests) - len(results) - len(cancelled)
        if call >= 6 and not batch.num_requests:
            break
    assert set(results) == set(range(len(requests))) - cancelled
    for key, hypotheses in results.items():
        assert hypotheses == alone(model, inputs[key])


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_ties_are_settled_as_in_the_plain_path(beam_size: int) -> None:
    model = table(3)
    model.table.data.mul_(0.7).round_()  # five or six different logits in a row of 64
    choose = random.Random(1)
    config = GenerationConfig(beam_size=beam_size, num_hypotheses=beam_size, max_new_tokens=12)
    inputs = [GenerationInput([choose.randrange(4, 60) for _ in range(5)], config) for _ in range(12)]
    batch = new_batch(model)
    batch.add(list(enumerate(inputs)))
    assert finish(batch) == {key: alone(model, item) for key, item in enumerate(inputs)}


def test_many_requests_fill_and_empty_slots_in_any_order() -> None:
    model = table(4)
    choose = random.Random(2)
    inputs = [
        GenerationInput(
            [choose.randrange(4, 60) for _ in range(choose.randint(1, 50))],
            GenerationConfig(beam_size=choose.choice([1, 1, 3]), max_new_tokens=choose.randint(1, 50)),
        )
        for _ in range(150)
    ]
    launcher = ReplayingLauncher()
    batch = new_batch(model, launcher)
    results: dict[int, list[Hypothesis]] = {}
    waiting = list(enumerate(inputs))
    while waiting or batch.num_requests:
        count = choose.choice([0, 0, 1, 2, 30])
        batch.add(waiting[:count])
        del waiting[:count]
        results.update(batch.step())
    assert results == {key: alone(model, item) for key, item in enumerate(inputs)}
    assert {size.slots for size in launcher.sizes} >= {1, 2, 8, 16, 32}


def test_a_step_takes_many_tokens_until_one_request_finishes() -> None:
    model = table(5, endless=True)
    batch = new_batch(model)
    short = GenerationConfig(beam_size=1, max_new_tokens=7)
    batch.add([(0, GenerationInput([5, 6], LONG)), (1, GenerationInput([7], short))])
    [(key, hypotheses)] = batch.step()
    assert key == 1
    assert len(hypotheses[0].token_ids) == 7
    assert 7 <= batch.num_steps <= 8  # the host looks back one step
    assert batch.step() == []
    assert batch.num_steps <= 8 + MAX_STEPS
    assert finish(batch) == {0: alone(model, GenerationInput([5, 6], LONG))}
    assert 60 <= batch.num_steps <= 61


@pytest.mark.parametrize("penalty", [-1.0, 1.0])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_slots_that_have_finished_go_on_without_harm(beam_size: int, penalty: float) -> None:
    model = table(12, endless=True)
    config = GenerationConfig(beam_size=beam_size, max_new_tokens=64, length_penalty=penalty)  # all columns there are
    inputs = [GenerationInput([5 + key], config) for key in range(3)]
    batch = new_batch(model)
    results: dict[int, list[Hypothesis]] = {}
    for key, item in enumerate(inputs):
        batch.add([(key, item)])
        batch.interrupt()
        results.update(batch.step())
    results.update(finish(batch))
    assert results == {key: alone(model, item) for key, item in enumerate(inputs)}


def test_nothing_to_do_is_no_step() -> None:
    batch = new_batch(table())
    batch.add([])
    assert batch.step() == []
    assert (batch.num_steps, batch.num_rows, batch.num_requests) == (0, 0, 0)


def test_an_interrupt_ends_the_step_that_is_under_way() -> None:
    model = table(6, endless=True)
    launcher = Interrupting(lambda: batch.interrupt())
    batch = new_batch(model, launcher)
    batch.add([(0, GenerationInput([5, 6], LONG))])
    for steps in range(1, 6):
        assert batch.step() == []
        assert batch.num_steps == steps
    launcher.call = lambda: None
    batch.interrupt()
    batch.step()
    assert batch.num_steps == 6  # it was called after the last return
    batch.step()
    assert batch.num_steps == 6 + MAX_STEPS


def test_rows_are_counted() -> None:
    model = table(7, endless=True)
    batch = new_batch(model)
    beams = GenerationConfig(beam_size=3, max_new_tokens=50)
    batch.add([(0, GenerationInput([5], LONG)), (1, GenerationInput([5], beams)), (2, GenerationInput([6], beams))])
    assert (batch.num_rows, batch.num_requests) == (7, 3)
    batch.step()
    assert (batch.num_rows, batch.num_requests) == (7, 3)
    batch.remove(1)
    assert (batch.num_rows, batch.num_requests) == (4, 2)
    batch.remove(1)
    assert batch.num_requests == 2


def test_a_key_can_come_again() -> None:
    model = table(8)
    item = GenerationInput([5, 6], GenerationConfig(beam_size=2, max_new_tokens=9))
    batch = new_batch(model)
    batch.add([(0, item)])
    with pytest.raises(AssertionError, match="a key of its own"):
        batch.add([(0, item)])
    assert finish(batch) == {0: alone(model, item)}
    batch.add([(0, item)])
    assert finish(batch) == {0: alone(model, item)}


def test_inputs_that_do_not_fit_leave_all_others_out() -> None:
    model = table()
    batch = new_batch(model)
    good = GenerationInput([5], LONG)
    with pytest.raises(InvalidRequestError):
        batch.add([(0, good), (1, GenerationInput([64], LONG))])
    with pytest.raises(InvalidOptionError):
        batch.add([(0, good), (1, GenerationInput([5], GenerationConfig(beam_size=1, banned_tokens=(64,))))])
    assert batch.num_requests == 0


@pytest.mark.parametrize("beam_size", [1, 3])
def test_logits_that_are_not_finite_concern_only_their_request(beam_size: int) -> None:
    model = table(9)
    config = GenerationConfig(beam_size=beam_size, max_new_tokens=20)
    good = [GenerationInput([5 + key, 6], config) for key in range(3)]
    done_at_once = GenerationInput([9], GenerationConfig(beam_size=beam_size, max_new_tokens=1))
    batch = new_batch(model)
    batch.add([(0, good[0]), (7, GenerationInput([5, BROKEN_TOKEN], config)), (1, good[1]), (2, done_at_once)])
    results: dict[int, list[Hypothesis]] = {}
    with pytest.raises(NonFiniteLogitsError) as caught:
        batch.step()
    assert caught.value.keys == (7,)
    assert batch.num_requests == 3 - len(results)
    batch.add([(3, good[2])])  # takes the slot in which numbers were not finite
    results.update(finish(batch))
    assert results == {
        0: alone(model, good[0]), 1: alone(model, good[1]), 2: alone(model, done_at_once), 3: alone(model, good[2])
    }  # fmt: skip


def test_sources_join_when_they_are_encoded() -> None:
    model = table(10, endless=True)
    launcher = SlowEncoder()
    batch = new_batch(model, launcher)
    inputs = [GenerationInput([5 + key], GenerationConfig(beam_size=1, max_new_tokens=40)) for key in range(3)]
    batch.add([(0, inputs[0])])
    batch.step()
    assert (launcher.num_waits, batch.num_steps) == (1, MAX_STEPS)  # nothing else ran: the device waits for it
    batch.add([(1, inputs[1])])
    batch.add([(2, inputs[2])])
    assert batch.num_requests == 3
    results = dict(batch.step())
    assert launcher.num_waits == 1  # the first went on without them
    assert list(results) == [0]
    batch.remove(1)
    launcher.reached = True
    results.update(finish(batch))
    assert results == {0: alone(model, inputs[0]), 2: alone(model, inputs[2])}


def test_the_device_is_used_in_its_context_only() -> None:
    model = table(11, endless=True)
    launcher = Contexts()
    batch = new_batch(model, launcher)
    batch.add([(0, GenerationInput([5], LONG)), (1, GenerationInput([6], LONG))])
    batch.interrupt()
    batch.step()
    batch.remove(1)
    assert finish(batch) == {0: alone(model, GenerationInput([5], LONG))}
    assert launcher.outside == 0


def test_buckets() -> None:
    assert [bucket(number) for number in (0, 1, 2, 3, 5, 8, 9)] == [1, 1, 2, 4, 8, 8, 16]
    assert [bucket(number, 32, 96) for number in (1, 32, 33, 64, 65, 96)] == [32, 32, 64, 64, 96, 96]
    assert [greatest_bucket(length) for length in (4, 32, 33, 384)] == [32, 32, 64, 384]
