"""Greedy and beam search against enumeration of all targets, against a naive beam search, and rule by rule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.generation import DecodingBatch, GenerationInput, Hypothesis, generate, plain_batch, score_target
from model.generation.beam_search import BeamSearch
from model.generation.greedy import GreedySearch
from tests.unit.naive_beam import naive_beam
from tests.unit.table_model import EOS, SPECIAL, TableModel, as_transformer

SOURCE = [5, 4, 5, 4, 4]


def decode(model: TableModel, config: GenerationConfig, source: list[int] | None = None) -> list[Hypothesis]:
    return generate(as_transformer(model), [GenerationInput(source or SOURCE, config)], SPECIAL)[0]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(each.token_ids, each.finish_reason) for each in found] == [
        (each.token_ids, each.finish_reason) for each in expected
    ]
    for left, right in zip(found, expected, strict=True):
        assert left.score == pytest.approx(right.score, abs=1e-4)
        assert left.log_prob == pytest.approx(right.log_prob, abs=1e-4)
        assert left.token_log_probs == pytest.approx(right.token_log_probs, abs=1e-4)


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_beam_wide_enough_for_everything_finds_what_enumeration_finds(seed: int, length_penalty: float) -> None:
    model = TableModel(vocab_size=6, seed=seed)  # two words and the end token: 31 targets of up to 5 tokens
    config = GenerationConfig(beam_size=64, num_hypotheses=20, length_penalty=length_penalty, max_new_tokens=5)
    ranking = sorted(
        ((sum(scores) / len(scores) ** length_penalty, target) for target, scores in model.all_targets(SOURCE, 5)),
        reverse=True,
    )
    found = decode(model, config)
    assert len(found) == 20
    assert [each.token_ids for each in found] == [target for _, target in ranking[:20]]
    assert [each.score for each in found] == pytest.approx([score for score, _ in ranking[:20]], abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_is_greedy_search(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TableModel(vocab_size=20, seed=seed, sharpness=1.0)
    config = GenerationConfig(beam_size=1, repetition_penalty=1.2)
    greedy = decode(model, config)
    monkeypatch.setattr("model.generation.decoding_batch.create_search", BeamSearch)
    assert decode(model, config) == greedy


def test_greedy_takes_the_most_probable_token_every_time() -> None:
    model = TableModel(vocab_size=20, seed=3, sharpness=0.5)
    target: list[int] = []
    while len(target) < 18 and (not target or target[-1] != EOS):
        log_probs = model.next_log_probs(SOURCE, target)
        target.append(max(set(range(20)) - set(SPECIAL), key=log_probs.__getitem__))
    [found] = decode(model, GenerationConfig(beam_size=1, max_new_tokens=18))
    expected = target[:-1] if target[-1] == EOS else target
    assert list(found.token_ids) == expected
    assert found.token_log_probs == pytest.approx(model.token_log_probs(SOURCE, target), abs=1e-5)


VOCAB_SIZE = 11
TOKENS = st.integers(EOS, VOCAB_SIZE - 1)


@st.composite
def beam_configs(draw: st.DrawFn) -> GenerationConfig:
    beam_size = draw(st.integers(2, 6))
    max_new_tokens = draw(st.integers(4, 12))
    return GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=draw(st.integers(1, beam_size)),
        patience=draw(st.sampled_from([0.4, 1.0, 1.5, 3.0])),
        length_penalty=draw(st.sampled_from([-1.5, 0.0, 0.5, 1.0, 3.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 0.7, 1.8])),
        no_repeat_ngram_size=draw(st.sampled_from([0, 0, 1, 2, 3])),
        min_new_tokens=draw(st.integers(0, 4)),
        max_new_tokens=max_new_tokens,
        target_prefix=tuple(
            draw(st.lists(st.integers(0, VOCAB_SIZE - 1).filter(lambda token: token != EOS), max_size=3))
        ),
        banned_tokens=tuple(draw(st.lists(TOKENS, max_size=8))),
    )


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(config=beam_configs(), seed=st.integers(0, 30), sharpness=st.sampled_from([0.5, 1.5, 3.0]))
def test_every_option_gives_what_a_naive_beam_search_gives(
    config: GenerationConfig, seed: int, sharpness: float
) -> None:
    model = TableModel(VOCAB_SIZE, seed, sharpness)
    assert config.max_new_tokens is not None
    assert_same(decode(model, config), naive_beam(model, SOURCE, config, config.max_new_tokens))


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0])
def test_the_early_exit_saves_steps_and_changes_nothing(length_penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenerationConfig(beam_size=4, patience=4.0, length_penalty=length_penalty, max_new_tokens=30)
    found, steps = [], []
    for _ in range(2):
        models = [TableModel(vocab_size=12, seed=seed, sharpness=3.0) for seed in range(30)]
        found.append([decode(model, config) for model in models])
        steps.append(sum(model.steps for model in models))
        monkeypatch.setattr(BeamSearch, "_best_possible_score", lambda *_: math.inf)
    assert found[0] == found[1]
    assert steps[0] < steps[1]


@pytest.mark.parametrize(
    ("patience", "num_hypotheses", "expected"), [(1.0, 1, 4), (0.5, 1, 2), (0.4, 1, 2), (0.5, 3, 3), (2.0, 1, 8)]
)
def test_patience_counts_finished_hypotheses(patience: float, num_hypotheses: int, expected: int) -> None:
    # The penalty makes longer targets ever better, so that only patience can end this search.
    config = GenerationConfig(beam_size=4, patience=patience, num_hypotheses=num_hypotheses, length_penalty=5.0)
    search = BeamSearch(config, limit=100, eos_id=EOS)
    steps = 0
    while not search.finished:
        rows = search.num_rows
        search.advance([[EOS, 10, 11, 12, 13]] + [[10, 11, 12, 13, 14]] * (rows - 1), [[-1.0] * 5] * rows)
        steps += 1
    assert steps == expected


def test_an_end_token_behind_the_first_k_does_not_finish() -> None:
    search = BeamSearch(GenerationConfig(beam_size=2), limit=9, eos_id=EOS)
    search.advance([[10, 11, EOS]], [[-1.0, -2.0, -3.0]])
    assert (search.finished, search.parents, search.next_tokens) == (False, [0, 0], [10, 11])
    search.advance([[EOS, 12, 13], [14, 15, EOS]], [[-0.5, -4.0, -5.0], [-0.6, -3.0, -9.0]])
    # Ranked: end after 10 (-1.5), 14 after 11 (-2.6), 12 after 10 (-5.0), 15 after 11 (-5.0): two go on beside the end.
    assert (search.parents, search.next_tokens) == ([1, 0], [14, 12])


@pytest.mark.parametrize(("length_penalty", "expected_steps"), [(0.0, 3), (1.0, 5), (-1.0, 2)])
def test_the_early_exit_comes_as_soon_as_it_can(length_penalty: float, expected_steps: int) -> None:
    # One target ends at once with -3 (in the n-best), a worse one next; the live row falls by 1 a step from then on.
    config = GenerationConfig(beam_size=2, patience=9.0, length_penalty=length_penalty)
    search = BeamSearch(config, limit=5, eos_id=EOS)
    search.advance([[10, EOS, 11]], [[-1.0, -3.0, -9.0]])
    steps = 1
    while not search.finished:
        rows = search.num_rows
        search.advance([[12, 13, 14]] * rows, [[-1.0, -9.0, -9.0]] * rows)
        steps += 1
    # Penalty 0: -3 after three steps cannot beat -3. Penalty 1: -3 / 5 still could, up to the limit. Penalty -1: the
    # best that is possible after two steps is -2 * 3, which is worse than -3 * 1.
    assert steps == expected_steps


def test_the_early_exit_asks_for_the_worst_of_the_n_best_not_of_all() -> None:
    search = BeamSearch(GenerationConfig(beam_size=2, patience=9.0, length_penalty=0.0), limit=50, eos_id=EOS)
    search.advance([[10, EOS, 11]], [[-1.0, -2.0, -9.0]])
    search.advance([[11, EOS, 12], [13, 14, 15]], [[-0.5, -3.0, -9.0], [-9.0, -9.0, -9.0]])
    assert not search.finished  # ended: -2 and -4; live: -1.5
    search.advance([[11, 12, 13], [13, 14, 15]], [[-0.5, -9.0, -9.0], [-9.0, -9.0, -9.0]])
    assert search.finished  # live: -2, which could still beat -4 but not enter a 1-best list
    assert [each.score for each in search.hypotheses()] == [-2.0]


def test_a_beam_fans_out_to_all_its_rows_even_if_an_end_token_is_among_the_first() -> None:
    ends = 0
    for seed in range(40):
        model = TableModel(vocab_size=12, seed=seed)
        batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
        batch.add([(0, GenerationInput(SOURCE, GenerationConfig(beam_size=3, patience=9.0)))])
        log_probs = model.next_log_probs(SOURCE, ())
        ends += EOS in sorted(range(EOS, 12), key=log_probs.__getitem__, reverse=True)[:3]
        batch.step()
        assert batch.num_rows in (0, 3)  # 0 after an early exit
    assert ends > 5


def test_a_loop_at_the_limit_does_not_win_over_a_sentence() -> None:
    search = BeamSearch(GenerationConfig(beam_size=2, num_hypotheses=2), limit=3, eos_id=EOS)
    search.advance([[10, EOS, 11]], [[-0.1, -2.0, -3.0]])
    search.advance([[10, 11, EOS], [10, 11, EOS]], [[-0.1, -9.0, -10.0]] * 2)
    search.advance([[10, 11, EOS], [10, 11, EOS]], [[-0.1, -9.0, -10.0]] * 2)
    assert search.finished
    sentence, loop = search.hypotheses()
    assert (sentence.token_ids, sentence.finish_reason, sentence.score) == ((), "end", -2.0)
    assert (loop.token_ids, loop.finish_reason) == ((10, 10, 10), "length")
    assert loop.score == pytest.approx(-0.1)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_limits_hold_and_are_reported(beam_size: int) -> None:
    model = TableModel(vocab_size=40, seed=1, sharpness=1.0)
    config = GenerationConfig(beam_size=beam_size, max_new_tokens=5, banned_tokens=(EOS,))
    [cut] = decode(model, config)
    assert (len(cut.token_ids), len(cut.token_log_probs), cut.finish_reason) == (5, 5, "length")
    [exact] = decode(model, replace(config, banned_tokens=(), min_new_tokens=5))
    assert (len(exact.token_ids), exact.finish_reason) == (5, "length")
    [ended] = decode(model, replace(config, banned_tokens=tuple(range(4, 40)), min_new_tokens=0))
    assert (ended.token_ids, len(ended.token_log_probs), ended.finish_reason) == ((), 1, "end")
    by_ratio = decode(model, replace(config, max_new_tokens=None, max_length_ratio=1.5))
    assert len(by_ratio[0].token_ids) == math.ceil(1.5 * len(SOURCE)) + 10
    short = TableModel(vocab_size=40, seed=1, sharpness=1.0, max_target_length=7)
    assert len(decode(short, replace(config, max_new_tokens=50))[0].token_ids) == 7


@pytest.mark.parametrize("beam_size", [1, 5])
def test_the_sum_of_token_scores_is_what_forced_decoding_gives(beam_size: int) -> None:
    model = TableModel(vocab_size=30, seed=8)
    config = GenerationConfig(
        beam_size=beam_size, num_hypotheses=beam_size, target_prefix=(9, 8), no_repeat_ngram_size=2
    )
    for found in decode(model, config):
        assert found.token_ids[:2] == (9, 8)
        target = [*found.token_ids, EOS] if found.finish_reason == "end" else list(found.token_ids)
        expected = model.token_log_probs(SOURCE, target)
        assert found.token_log_probs == pytest.approx(expected, abs=1e-4)
        assert found.log_prob == pytest.approx(sum(expected), abs=1e-4)
        assert found.score == pytest.approx(sum(expected) / len(target), abs=1e-4)


def test_an_n_best_list_is_sorted_and_has_no_target_twice() -> None:
    for seed in range(10):
        found = decode(TableModel(vocab_size=15, seed=seed), GenerationConfig(beam_size=8, num_hypotheses=8))
        assert len({each.token_ids for each in found}) == len(found) == 8
        ended = [each.score for each in found if each.finish_reason == "end"]
        cut = [each.score for each in found if each.finish_reason == "length"]
        assert ended == sorted(ended, reverse=True)
        assert cut == sorted(cut, reverse=True)
        assert [each.finish_reason for each in found] == ["end"] * len(ended) + ["length"] * len(cut)


@pytest.mark.parametrize("search", [BeamSearch, GreedySearch])
def test_one_step_may_be_all_there_is(search: type[BeamSearch | GreedySearch]) -> None:
    one = search(GenerationConfig(beam_size=1), limit=1, eos_id=EOS)
    one.advance([[7, EOS]], [[-0.5, -1.5]])
    assert one.finished
    assert one.hypotheses() == [Hypothesis((7,), -0.5, -0.5, (-0.5,), "length")]


def test_forced_decoding_of_nothing_is_nothing() -> None:
    assert score_target(as_transformer(TableModel(vocab_size=8, seed=0)), SOURCE, []) == []
