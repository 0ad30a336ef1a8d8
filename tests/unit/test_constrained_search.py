"""Search with required phrases against enumeration of all targets, over every kind of rows, alone and in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig, ModelConfig
from model.errors import InvalidOptionError
from model.generation import DecodingBatch, GenerationInput, Hypothesis, generate, plain_batch, score_target
from model.generation.constrained import PhraseProgress, beam_shares
from model.transformer import Transformer
from tests.unit.table_model import EOS, SPECIAL, TableModel, as_transformer

SOURCE = [5, 4, 5, 4, 4]
Phrases = tuple[tuple[int, ...], ...]


def num_found(target: Sequence[int], phrases: Phrases) -> int:
    """Return how many of the phrases fit into a target without overlap, by trying every place for every phrase."""
    if not phrases:
        return 0
    first, rest = phrases[0], phrases[1:]
    best = num_found(target, rest)
    for start in range(len(target) - len(first) + 1):
        if tuple(target[start : start + len(first)]) == first:
            taken = [*target[:start], *[-1] * len(first), *target[start + len(first) :]]
            best = max(best, 1 + num_found(taken, rest))
    return best


def decode(model: TableModel, config: GenerationConfig, source: list[int] | None = None) -> list[Hypothesis]:
    return generate(as_transformer(model), [GenerationInput(source or SOURCE, config)], SPECIAL)[0]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("phrases", [((4,),), ((5, 5, 4),), ((4, 5), (5, 4)), ((4,), (4,), (5,)), ((5, 4), (5, 5))])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_wide_enough_finds_the_best_targets_with_the_phrases(
    seed: int, phrases: Phrases, length_penalty: float
) -> None:
    model = TableModel(vocab_size=6, seed=seed)  # two words and the end token: 63 targets of up to 6 tokens
    config = GenerationConfig(
        beam_size=64, num_hypotheses=5, length_penalty=length_penalty, max_new_tokens=6, required_phrases=phrases
    )
    ranking = sorted(
        (
            (sum(scores) / len(scores) ** length_penalty, target)
            for target, scores in model.all_targets(SOURCE, 6)
            if num_found(target, phrases) == len(phrases)
        ),
        reverse=True,
    )[:5]
    found = decode(model, config)[: len(ranking)]
    assert [each.token_ids for each in found] == [target for _, target in ranking]
    assert [each.score for each in found] == pytest.approx([score for score, _ in ranking], abs=1e-5)
    assert {each.unmet_phrases for each in found} == {0}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    phrases=st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4).map(tuple),
    target=st.lists(st.integers(4, 6), max_size=9),
)
def test_progress_finds_as_many_phrases_as_trying_every_place(phrases: Phrases, target: list[int]) -> None:
    progress = PhraseProgress(phrases)
    for end, token_id in enumerate(target, start=1):
        wanted = progress.wanted()
        before, progress = progress, progress.extend(token_id)
        assert len(phrases) - progress.num_unmet == num_found(target[:end], phrases)
        if token_id in wanted:
            assert progress.num_tokens == before.num_tokens + 1
    assert (progress.wanted() == []) == (progress.num_unmet == 0)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 30),
    phrases=st.lists(st.lists(st.integers(4, 19), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3).map(
        tuple
    ),
    beam_size=st.integers(2, 6),
    prefix=st.lists(st.integers(4, 19), max_size=3).map(tuple),
    min_new_tokens=st.integers(0, 12),
)
def test_small_beams_have_every_phrase_and_true_scores(
    seed: int, phrases: Phrases, beam_size: int, prefix: tuple[int, ...], min_new_tokens: int
) -> None:
    model = TableModel(vocab_size=20, seed=seed, sharpness=1.0)
    config = GenerationConfig(
        beam_size=beam_size,
        num_hypotheses=2,
        required_phrases=phrases,
        target_prefix=prefix,
        min_new_tokens=min_new_tokens,
        max_new_tokens=30,
    )
    found = decode(model, config)
    assert 1 <= len(found) <= 2
    assert found[0].unmet_phrases == 0
    for each in found:
        end = [EOS] if each.finish_reason == "end" else []
        assert num_found(each.token_ids, phrases) == len(phrases) - each.unmet_phrases
        assert each.finish_reason == "length" or each.unmet_phrases == 0
        assert each.token_ids[: len(prefix)] == prefix
        assert len(each.token_ids) + len(end) >= min(min_new_tokens, 30)
        expected = model.token_log_probs(SOURCE, [*each.token_ids, *end])
        assert each.token_log_probs == pytest.approx(expected, abs=1e-5)


def test_every_required_token_gets_a_row_as_far_as_rows_go() -> None:
    assert GenerationConfig(beam_size=4).max_rows == 4
    assert GenerationConfig(beam_size=1, sampling=True, num_hypotheses=3).max_rows == 3
    assert GenerationConfig(beam_size=4, required_phrases=((4, 5), (6,))).max_rows == 7
    assert GenerationConfig(beam_size=4, required_phrases=((4,) * 99,)).max_rows == 64


def test_more_required_tokens_than_rows_are_met() -> None:
    model = TableModel(vocab_size=20, seed=6, sharpness=1.0, max_target_length=200)
    phrases = tuple((4 + index % 16, 4 + index % 13) for index in range(32))
    config = GenerationConfig(beam_size=4, max_new_tokens=100, required_phrases=phrases)
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    batch.add([(0, GenerationInput(SOURCE, config))])
    found: list[Hypothesis] = []
    while batch.num_requests:
        assert batch.num_rows <= 64
        for _, found in batch.step():
            assert found[0].unmet_phrases == 0
    assert found


def test_the_limit_comes_first_and_the_fewest_missing_phrases_win() -> None:
    model = TableModel(vocab_size=20, seed=1)
    phrases = ((7, 8), (9,), (10, 11, 12))
    for limit, most in ((1, 1), (2, 1), (3, 2), (5, 2), (6, 3)):
        config = GenerationConfig(beam_size=8, max_new_tokens=limit, required_phrases=phrases)
        [found] = decode(model, config)
        assert found.finish_reason == "length"
        assert len(found.token_ids) == limit
        assert 3 - found.unmet_phrases == num_found(found.token_ids, phrases) == most


def test_a_prefix_can_have_a_phrase_and_half_of_another() -> None:
    model = TableModel(vocab_size=20, seed=2)
    config = GenerationConfig(
        beam_size=4, max_new_tokens=20, target_prefix=(7, 8, 9), required_phrases=((7, 8), (9, 10))
    )
    [found] = decode(model, config)
    assert found.token_ids[:3] == (7, 8, 9)
    assert found.unmet_phrases == 0


def test_required_tokens_are_exempt_from_what_is_always_banned() -> None:
    model = TableModel(vocab_size=20, seed=3)
    config = GenerationConfig(beam_size=4, max_new_tokens=20, required_phrases=((1, 7),))
    [found] = decode(model, config)
    assert found.token_ids.count(1) == 1
    assert found.unmet_phrases == 0


def test_requests_of_a_batch_do_not_know_of_each_others_phrases() -> None:
    model = TableModel(vocab_size=20, seed=4, sharpness=1.0)
    configs = [
        GenerationConfig(beam_size=4, max_new_tokens=15, required_phrases=((7, 8),)),
        GenerationConfig(beam_size=3, max_new_tokens=12),
        GenerationConfig(beam_size=6, max_new_tokens=18, required_phrases=((9,), (10, 11)), no_repeat_ngram_size=2),
        GenerationConfig(beam_size=1, sampling=True, seed=3, max_new_tokens=9),
    ]
    alone = [decode(model, config, [5 + index, 4]) for index, config in enumerate(configs)]
    batch: DecodingBatch[int] = plain_batch(as_transformer(model), SPECIAL)
    results: dict[int, list[Hypothesis]] = {}
    waiting = list(enumerate(configs))
    while waiting or batch.num_requests:
        if waiting:  # one joins at each step
            index, config = waiting.pop(0)
            batch.add([(index, GenerationInput([5 + index, 4], config))])
        assert batch.num_rows <= batch.max_rows
        results.update(batch.step())
    assert [results[index] for index in range(len(configs))] == alone


def test_over_compiled_weights_as_in_the_plain_path() -> None:
    pytest.importorskip("numba")
    from model.kernels.batch import KernelBatch
    from model.kernels.packing import PackedNetwork

    torch.manual_seed(5)
    config = ModelConfig(
        vocab_size=23, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
        max_target_length=40, tie_output=False, output_scale=3.0,
    )  # fmt: skip
    model = Transformer(config).eval()
    source = [5, 6, 7, 8, EOS]
    generation = GenerationConfig(beam_size=5, required_phrases=((9, 10), (11,)), max_new_tokens=14)
    batch: KernelBatch[int] = KernelBatch(PackedNetwork(model, "float32"), SPECIAL)
    batch.add([(0, GenerationInput(source, generation)), (1, GenerationInput(source, GenerationConfig()))])
    results: dict[int, list[Hypothesis]] = {}
    while batch.num_requests:
        results.update(batch.step())
    [[expected]] = generate(model, [GenerationInput(source, generation)], SPECIAL)
    [found] = results[0]
    assert found.token_ids == expected.token_ids
    assert found.unmet_phrases == 0
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=1e-4)
    end = [EOS] if found.finish_reason == "end" else []
    assert found.token_log_probs == pytest.approx(score_target(model, source, [*found.token_ids, *end]), abs=1e-4)


def test_shares_of_the_beam() -> None:
    assert beam_shares({0: 9, 1: 9, 2: 9}, 6) == {0: 2, 1: 2, 2: 2}
    assert beam_shares({0: 9, 1: 9, 2: 9}, 8) == {0: 2, 1: 3, 2: 3}
    assert beam_shares({0: 9, 3: 1}, 6) == {0: 5, 3: 1}
    assert beam_shares({0: 1, 1: 1}, 6) == {0: 1, 1: 1}
    for beam_size, counts in itertools.product(range(1, 9), itertools.product(range(1, 5), repeat=3)):
        available = {level: count for level, count in enumerate(counts) if level < beam_size}
        shares = beam_shares(available, beam_size)
        assert sum(shares.values()) == min(beam_size, sum(available.values()))
        assert all(1 <= shares[level] <= count for level, count in available.items())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"required_phrases": ((),)}, "required_phrases"),
        ({"required_phrases": ((4,),) * 33}, "required_phrases"),
        ({"required_phrases": ((4,),), "beam_size": 1}, "beam_size"),
    ],
)
def test_bad_phrases_are_refused(fields: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        GenerationConfig(**fields)  # type: ignore[arg-type]
    assert caught.value.name == name


@pytest.mark.parametrize("phrase", [(4, EOS), (20,), (-1,), (7, 9)])
def test_phrases_that_no_target_can_have_are_refused(phrase: tuple[int, ...]) -> None:
    config = GenerationConfig(required_phrases=(phrase,), banned_tokens=(9,))
    with pytest.raises(InvalidOptionError) as caught:
        decode(TableModel(vocab_size=20, seed=0), config)
    assert caught.value.name == "required_phrases"
