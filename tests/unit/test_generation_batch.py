"""The running batch: whatever shares it, joins it or leaves it, a request's result is the one that it has alone."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import GenerationConfig
from model.errors import InvalidOptionError, InvalidRequestError
from model.generation import DecodingBatch, GenerationInput, Hypothesis, NonFiniteLogitsError, generate, plain_batch
from tests.unit.table_model import EOS, SPECIAL, TableModel, as_transformer

VOCAB_SIZE = 14
WORDS = st.integers(EOS + 1, VOCAB_SIZE - 1)


def alone(model: TableModel, item: GenerationInput) -> list[Hypothesis]:
    return generate(as_transformer(model), [item], SPECIAL)[0]


def some_inputs(count: int, seed: int = 0) -> list[GenerationInput]:
    choose = random.Random(seed)
    inputs = []
    for index in range(count):
        source = [choose.randrange(EOS + 1, VOCAB_SIZE) for _ in range(choose.randint(1, 12))]
        options = [
            GenerationConfig(beam_size=1),
            GenerationConfig(beam_size=3, num_hypotheses=2),
            GenerationConfig(beam_size=1, sampling=True, seed=index, num_hypotheses=2),
            GenerationConfig(beam_size=2, no_repeat_ngram_size=2, repetition_penalty=1.3, banned_tokens=(9,)),
        ]
        inputs.append(GenerationInput(source, options[index % len(options)]))
    return inputs


@st.composite
def configs(draw: st.DrawFn) -> GenerationConfig:
    sampling = draw(st.booleans())
    beam_size = 1 if sampling else draw(st.integers(1, 5))
    num_hypotheses = draw(st.integers(1, 4 if sampling else beam_size))
    return GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=num_hypotheses,
        patience=draw(st.sampled_from([0.5, 1.0, 2.0])),
        length_penalty=draw(st.sampled_from([-0.5, 0.0, 1.0])),
        sampling=sampling,
        temperature=draw(st.sampled_from([0.6, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 3])),
        top_p=draw(st.sampled_from([0.8, 1.0])),
        seed=draw(st.integers(0, 99)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.4])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 2])),
        min_new_tokens=draw(st.integers(0, 3)),
        max_new_tokens=draw(st.integers(6, 12)),
        target_prefix=tuple(draw(st.lists(WORDS, max_size=2))),
        banned_tokens=tuple(draw(st.lists(st.integers(EOS, VOCAB_SIZE - 1), max_size=3))),
    )


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    requests=st.lists(
        st.tuples(st.lists(WORDS, min_size=1, max_size=9), configs(), st.integers(0, 8), st.integers(0, 30)),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 9),
    ties=st.booleans(),
)
def test_requests_that_join_and_are_cancelled_at_any_time_do_not_disturb_each_other(
    requests: list[tuple[list[int], GenerationConfig, int, int]], seed: int, ties: bool
) -> None:
    model = TableModel(VOCAB_SIZE, seed, sharpness=1.0)
    if ties:
        model.table.data.round_()
    inputs = [GenerationInput(source, config) for source, config, _, _ in requests]
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    results: dict[int, list[Hypothesis]] = {}
    cancelled: set[int] = set()
    for step in range(40):
        batch.add([(key, inputs[key]) for key, (_, _, joins, _) in enumerate(requests) if joins == step])
        for key, (_, _, joins, leaves) in enumerate(requests):
            if joins < leaves == step and key not in results:
                batch.remove(key)
                cancelled.add(key)
        results |= dict(batch.step())
    assert (batch.num_requests, batch.num_rows) == (0, 0)
    assert set(results) == set(range(len(requests))) - cancelled
    for key, hypotheses in results.items():
        assert hypotheses == alone(model, inputs[key])


@pytest.mark.parametrize("max_batch_rows", [1, 5, 16, 1000])
def test_results_come_in_the_order_of_the_inputs_and_do_not_depend_on_the_batch(max_batch_rows: int) -> None:
    model = TableModel(VOCAB_SIZE, seed=1, sharpness=1.0)
    inputs = some_inputs(23)
    found = generate(as_transformer(model), inputs, SPECIAL, max_batch_rows)
    assert found == [alone(model, item) for item in inputs]
    assert generate(as_transformer(model), [], SPECIAL) == []


def test_finished_rows_leave_and_cost_nothing_more() -> None:
    model = TableModel(VOCAB_SIZE, seed=1, sharpness=0.2)
    batch: DecodingBatch[str] = plain_batch(as_transformer(model), SPECIAL)
    ban = (EOS,)
    batch.add(
        [
            ("short", GenerationInput([4, 5], GenerationConfig(beam_size=3, max_new_tokens=2, banned_tokens=ban))),
            ("long", GenerationInput([4] * 6, GenerationConfig(beam_size=2, max_new_tokens=5, banned_tokens=ban))),
        ]
    )
    assert (batch.num_requests, batch.num_rows, batch.max_rows) == (2, 2, 5)
    assert batch.num_positions == 3 * (6 + 2) + 2 * (6 + 5)
    assert batch.step() == []
    assert batch.num_rows == 5
    assert [key for key, _ in batch.step()] == ["short"]
    assert (batch.num_requests, batch.num_rows, batch.max_rows, batch.num_positions) == (1, 2, 2, 2 * (6 + 5))
    results = [batch.step() for _ in range(3)]
    assert [[key for key, _ in result] for result in results] == [[], [], ["long"]]
    assert (batch.num_requests, batch.num_rows, batch.num_positions) == (0, 0, 0)
    assert model.row_steps == 2 + 5 + 3 * 2
    assert batch.step() == []
    assert model.steps == 5


def test_rows_change_hands_while_their_number_stays() -> None:
    model = TableModel(VOCAB_SIZE, seed=2, sharpness=1.0)
    leaving = GenerationInput([9, 9, 9], GenerationConfig(beam_size=1, max_new_tokens=1))
    growing = GenerationInput([4, 5, 6], GenerationConfig(beam_size=2, min_new_tokens=3))
    batch: DecodingBatch[str] = plain_batch(as_transformer(model), SPECIAL)
    batch.add([("leaving", leaving), ("growing", growing)])
    assert batch.num_rows == 2
    results = dict(batch.step())
    assert (list(results), batch.num_rows) == (["leaving"], 2)  # the beam has taken both rows
    while batch.num_requests:
        results |= dict(batch.step())
    assert results == {"leaving": alone(model, leaving), "growing": alone(model, growing)}


def best_tokens_with_the_greatest_ids_first(log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What a device may do with ties as well."""
    found = log_probs.flip(1).sort(dim=1, descending=True, stable=True)
    return found.values[:, :count], log_probs.shape[1] - 1 - found.indices[:, :count]


@pytest.mark.parametrize("vocab_size", [300, 5000])
@pytest.mark.parametrize("device", ["as it is", "the other way round"])
def test_among_equally_probable_tokens_the_smallest_id_comes_first(
    vocab_size: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "the other way round":
        monkeypatch.setattr("model.generation.decoding_batch.best_tokens", best_tokens_with_the_greatest_ids_first)
    for seed in range(10):
        model = TableModel(vocab_size, seed, sharpness=1.0)
        model.table.data.round_()  # one or two tokens have the greatest logit, and a tenth the next ones
        logits = model.next_logits([4, 5, 6], ())
        best = sorted(range(EOS, vocab_size), key=lambda token: (-logits[token], token))[:10]
        inputs = [
            GenerationInput([4, 5, 6], GenerationConfig(beam_size=size, num_hypotheses=size, max_new_tokens=1))
            for size in (1, 2, 4, 7, 10)
        ]
        together = generate(as_transformer(model), inputs, SPECIAL)
        for item, found in zip(inputs, together, strict=True):
            first = [each.token_ids[0] if each.token_ids else EOS for each in found]
            assert sorted(first) == sorted(best[: item.max_rows])
            assert alone(model, item) == found


def test_an_empty_batch_can_be_filled_again() -> None:
    model = TableModel(VOCAB_SIZE, seed=3, sharpness=1.0)
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    item = GenerationInput([4, 5, 6], GenerationConfig(beam_size=2))
    for key in range(3):
        batch.add([(key, item)])
        batch.add([])
        results: dict[int, list[Hypothesis]] = {}
        while batch.num_requests:
            results |= dict(batch.step())
        assert results == {key: alone(model, item)}
    batch.add([(9, item)])
    batch.remove(8)
    assert batch.num_requests == 1
    batch.remove(9)
    assert (batch.num_requests, batch.num_rows) == (0, 0)


@pytest.mark.parametrize("config", [dataclasses.replace(item.config) for item in some_inputs(4)])
def test_where_everything_is_banned_the_end_token_is_forced(config: GenerationConfig) -> None:
    model = TableModel(VOCAB_SIZE, seed=3, sharpness=1.0)
    config = dataclasses.replace(config, banned_tokens=tuple(range(VOCAB_SIZE)), min_new_tokens=3)
    [first, *others] = alone(model, GenerationInput([4, 5], config))
    assert (first.token_ids, first.finish_reason) == ((), "end")
    assert first.log_prob == pytest.approx(model.next_log_probs([4, 5], ())[EOS], abs=1e-5)
    assert all(other == first for other in others)


def test_words_can_run_out_in_the_middle() -> None:
    model = TableModel(VOCAB_SIZE, seed=3, sharpness=1.0)
    banned = tuple(range(EOS, VOCAB_SIZE - 2))  # two words are left, each once, and no end token
    for beam_size in (1, 4):
        config = GenerationConfig(beam_size=beam_size, no_repeat_ngram_size=1, banned_tokens=banned)
        [found] = alone(model, GenerationInput([4, 5], config))
        assert (sorted(found.token_ids), found.finish_reason) == ([VOCAB_SIZE - 2, VOCAB_SIZE - 1], "end")


def test_tokens_that_are_always_banned_never_come_except_in_a_prefix() -> None:
    model = TableModel(VOCAB_SIZE, seed=5, sharpness=0.3)
    for item in some_inputs(12):
        for each in generate(as_transformer(model), [item], [*SPECIAL, 7, 8])[0]:
            assert not set(each.token_ids) & {*SPECIAL, 7, 8}
    unrestricted = generate(as_transformer(model), some_inputs(12))
    assert {token for found in unrestricted for token in found[0].token_ids} & {*SPECIAL, 7, 8}
    config = GenerationConfig(beam_size=2, target_prefix=(7, 0))
    [forced] = generate(as_transformer(model), [GenerationInput([4], config)], [*SPECIAL, 7, 8])[0]
    assert forced.token_ids[:2] == (7, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_fail_their_own_requests_only(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TableModel(VOCAB_SIZE, seed=5, sharpness=0.3)
    intact = model.decode_step
    expected = [alone(model, item) for item in some_inputs(6)]

    def damaged(token_ids: torch.Tensor, cache: object) -> torch.Tensor:
        logits = intact(token_ids, cache).clone()  # type: ignore[arg-type]
        if model.steps == 2:
            logits[1, :] = value
            logits[2, 4 if value > 0 else slice(None)] = value
        return logits

    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    batch.add(list(enumerate(some_inputs(6))))
    model.steps = 0
    monkeypatch.setattr(model, "decode_step", damaged)
    results = dict(batch.step())
    with pytest.raises(NonFiniteLogitsError, match=r"not finite for 1 request") as caught:
        batch.step()
    assert caught.value.keys == (1,)  # its beams were rows 1 to 3
    while batch.num_requests:
        results |= dict(batch.step())
    assert results == {key: expected[key] for key in (0, 2, 3, 4, 5)}


def test_what_finishes_in_a_failing_step_is_returned_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TableModel(VOCAB_SIZE, seed=5, sharpness=0.3)
    one = GenerationInput([4, 5], GenerationConfig(beam_size=1, max_new_tokens=1))
    expected = alone(model, one)
    batch: DecodingBatch[str] = plain_batch(as_transformer(model), SPECIAL)
    batch.add([("good", one), ("bad", one), ("cancelled", one)])
    intact = model.decode_step

    def damaged(token_ids: torch.Tensor, cache: object) -> torch.Tensor:
        logits = intact(token_ids, cache).clone()  # type: ignore[arg-type]
        logits[1] = float("nan")
        return logits

    monkeypatch.setattr(model, "decode_step", damaged)
    with pytest.raises(NonFiniteLogitsError):
        batch.step()
    assert (batch.num_requests, batch.num_rows) == (2, 0)
    batch.remove("cancelled")
    assert batch.step() == [("good", expected)]
    assert batch.num_requests == 0


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([], {}, InvalidRequestError, r"source_ids must have 1 to 64 tokens, got 0"),
        ([4] * 65, {}, InvalidRequestError, r"source_ids must have 1 to 64 tokens, got 65"),
        ([4, VOCAB_SIZE], {}, InvalidRequestError, r"source_ids must be token ids from 0 to 13, got \[4, 14\]"),
        ([4], {"target_prefix": (-1,)}, InvalidOptionError, r"target_prefix must be token ids"),
        ([4], {"target_prefix": (5, EOS)}, InvalidOptionError, r"target_prefix must not contain the end token 3"),
        (
            [4],
            {"target_prefix": (5,) * 64},
            InvalidOptionError,
            r"target_prefix must have fewer than 64 tokens, got 64",
        ),
        ([4], {"target_prefix": (5, 6), "max_new_tokens": 2}, InvalidOptionError, r"fewer than 2 tokens, got 2"),
        ([4], {"banned_tokens": (99,)}, InvalidOptionError, r"banned_tokens must be token ids"),
    ],
)
def test_an_input_that_does_not_fit_the_model_is_refused_and_nobody_joins(
    source: list[int], options: dict[str, object], error: type[InvalidRequestError], message: str
) -> None:
    model = TableModel(VOCAB_SIZE, seed=5)
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    bad = GenerationInput(source, GenerationConfig(**options))  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        batch.add([(0, GenerationInput([4])), (1, bad)])
    assert batch.num_requests == 0
    with pytest.raises(error, match=message):
        generate(as_transformer(model), [bad])


def test_a_prefix_makes_room_for_itself_where_no_limit_was_stated() -> None:
    model = TableModel(VOCAB_SIZE, seed=5)
    prefix = tuple(4 + index % 9 for index in range(40))
    item = GenerationInput([4], GenerationConfig(beam_size=2, target_prefix=prefix))
    assert item.token_limit(model.config) == 41
    assert alone(model, item)[0].token_ids[:40] == prefix


def test_steps_are_counted_and_an_interrupt_changes_nothing() -> None:
    items = [dataclasses.replace(item, config=GenerationConfig(beam_size=2)) for item in some_inputs(3)]
    model = TableModel(VOCAB_SIZE, seed=4)
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    assert batch.step() == []
    assert batch.num_steps == 0
    batch.add(list(enumerate(items)))
    results: dict[int, list[Hypothesis]] = {}
    steps = 0
    while batch.num_requests:
        batch.interrupt()
        results |= dict(batch.step())
        steps += 1
        assert batch.num_steps == steps
    assert [results[index] for index in range(3)] == [alone(model, item) for item in items]
