"""Sampling against exact probabilities, exact supports, and the promise that a seed gives the same text anywhere."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.generation import GenerationInput, Hypothesis, generate
from model.generation.sampling import derived_seed, draw_token, truncated_probabilities
from tests.unit.table_model import EOS, SPECIAL, TableModel, as_transformer

SOURCE = [5, 4, 7]


def sample(
    model: TableModel, seed: int, num_samples: int = 64, *, others: tuple[GenerationInput, ...] = (), **options: float
) -> list[Hypothesis]:
    plain = GenerationConfig(beam_size=1, sampling=True, seed=seed, num_hypotheses=num_samples)
    config = GenerationConfig(**{**vars(plain), **options})
    return generate(as_transformer(model), [*others, GenerationInput(SOURCE, config)], SPECIAL)[-1]


def brute_force_probabilities(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The definition, with sorted lists of (probability, token)."""
    highest = max(logits)
    weights = [math.exp((logit - highest) / temperature) for logit in logits]
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))[: top_k or len(logits)]
    total = math.fsum(weights[token] for token in order)
    kept: list[int] = []
    while math.fsum(weights[token] for token in kept) / total < top_p and len(kept) < len(order):
        kept.append(order[len(kept)])
    total = math.fsum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(logits))]


@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(
    logits=st.lists(st.sampled_from([-math.inf, -3.0, -1.25, 0.0, 0.5, 0.75, 2.0, 6.5]), min_size=1, max_size=12),
    temperature=st.sampled_from([0.01, 0.5, 1.0, 3.0]),
    top_k=st.integers(0, 13),
    top_p=st.sampled_from([0.05, 0.31, 0.6, 0.83, 0.97, 1.0]),
)
def test_truncation_follows_its_definition(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    logits.append(1.0)  # one token is always allowed
    found = truncated_probabilities(torch.tensor(logits), temperature, top_k, top_p)
    assert found.tolist() == pytest.approx(brute_force_probabilities(logits, temperature, top_k, top_p), abs=1e-12)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99, 1 - 1e-12])
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 4.0])
def test_truncation_follows_its_definition_in_a_large_vocabulary(top_p: float, sharpness: float) -> None:
    logits = torch.randn(3000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * sharpness
    found = truncated_probabilities(logits, top_p=top_p)
    ordered = logits.softmax(0).sort(descending=True)
    size = next(size for size in range(1, 3001) if size == 3000 or float(ordered.values[:size].sum()) >= top_p)
    assert set(found.nonzero()[:, 0].tolist()) == set(ordered.indices[:size].tolist())
    assert float(found.sum()) == pytest.approx(1.0)


def test_extreme_temperatures_stay_finite() -> None:
    logits = torch.tensor([50.0, 49.9, -50.0])
    assert truncated_probabilities(logits, temperature=1e-300).tolist() == [1.0, 0.0, 0.0]
    assert truncated_probabilities(logits, temperature=100.0).sum() == pytest.approx(1.0)


def test_a_draw_is_the_token_whose_interval_holds_the_number() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    drawn = [draw_token(probabilities, uniform) for uniform in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53)]
    assert drawn == [1, 1, 3, 3, 4, 4]
    assert draw_token(probabilities, 1.0) == 4  # only rounding leads there


def test_derived_seeds_are_the_known_sequence_of_splitmix64() -> None:
    # The test vector that is published for seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert [derived_seed(1234567, index) for index in range(6)] == [1234567, *known]


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 0), (1.5, 4)])
def test_targets_are_drawn_with_their_exact_probabilities(temperature: float, top_k: int) -> None:
    model = TableModel(vocab_size=9, seed=4, sharpness=0.8)
    counts: Counter[tuple[tuple[int, ...], str]] = Counter()
    for seed in range(64):
        samples = sample(model, seed, temperature=temperature, top_k=top_k, max_new_tokens=2)
        counts.update((each.token_ids, each.finish_reason) for each in samples)

    def probabilities(target: tuple[int, ...]) -> list[float]:
        logits = [
            -math.inf if token in SPECIAL else logit for token, logit in enumerate(model.next_logits(SOURCE, target))
        ]
        return brute_force_probabilities(logits, temperature, top_k, 1.0)

    expected: dict[tuple[tuple[int, ...], str], float] = {}
    for first, probability in enumerate(probabilities(())):
        if first == EOS:
            expected[(), "end"] = probability
        elif probability:
            for second, conditional in enumerate(probabilities((first,))):
                target = (first,) if second == EOS else (first, second)
                expected[target, "end" if second == EOS else "length"] = probability * conditional
    expected = {outcome: probability for outcome, probability in expected.items() if probability}
    assert set(counts) <= set(expected)
    # Chi-square with the rare outcomes as one; the limit is 4 standard deviations of the distribution's normal form.
    total = counts.total()
    common = [outcome for outcome, probability in expected.items() if probability * total >= 8]
    observed = [counts[outcome] for outcome in common]
    wanted = [expected[outcome] * total for outcome in common]
    observed.append(total - sum(observed))
    wanted.append(total - sum(wanted))
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True) if w > 1)
    degrees = len(common)
    assert degrees > 10
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (3, 1.0), (0, 0.5), (0, 0.9), (5, 0.6)])
def test_exactly_the_allowed_tokens_are_drawn(top_k: int, top_p: float) -> None:
    model = TableModel(vocab_size=30, seed=2, sharpness=1.0)
    drawn = {
        each.token_ids[0] if each.token_ids else EOS
        for seed in range(30)
        for each in sample(model, seed, top_k=top_k, top_p=top_p, temperature=1.0, max_new_tokens=1)
    }
    logits = [-math.inf if token in SPECIAL else logit for token, logit in enumerate(model.next_logits(SOURCE, ()))]
    allowed = brute_force_probabilities(logits, 1.0, top_k, top_p)
    assert drawn == {token for token, probability in enumerate(allowed) if probability > 0}


def test_top_k_of_one_is_greedy_search() -> None:
    model = TableModel(vocab_size=30, seed=5, sharpness=1.0)
    [greedy] = generate(as_transformer(model), [GenerationInput(SOURCE, GenerationConfig(beam_size=1))], SPECIAL)[0]
    assert sample(model, 1, 1, top_k=1) == [greedy]


def test_scores_are_the_models_own_log_probabilities() -> None:
    model = TableModel(vocab_size=30, seed=5, sharpness=1.0)
    for each in sample(model, 3, 10, temperature=2.0, top_k=7, length_penalty=0.5):
        target = [*each.token_ids, EOS] if each.finish_reason == "end" else list(each.token_ids)
        expected = model.token_log_probs(SOURCE, target)
        assert each.token_log_probs == pytest.approx(expected, abs=1e-4)
        assert each.score == pytest.approx(sum(expected) / math.sqrt(len(target)), abs=1e-4)


def test_samples_are_sorted_by_score_and_do_not_depend_on_how_many_there_are() -> None:
    model = TableModel(vocab_size=30, seed=6, sharpness=1.0)
    many = sample(model, 11, 12)
    assert [each.score for each in many] == sorted((each.score for each in many), reverse=True)
    assert len({each.token_ids for each in many}) > 6
    few = sample(model, 11, 5)
    assert len(few) == 5
    assert not Counter(each.token_ids for each in few) - Counter(each.token_ids for each in many)
    assert sample(model, 11, 1)[0] in few


def test_a_seed_gives_the_same_text_alone_and_in_any_batch() -> None:
    model = TableModel(vocab_size=30, seed=7, sharpness=1.0)
    others = (
        GenerationInput([4] * 9, GenerationConfig(beam_size=5, num_hypotheses=2)),
        GenerationInput([6], GenerationConfig(beam_size=1, sampling=True, seed=5, num_hypotheses=3, top_k=2)),
        GenerationInput([6, 8], GenerationConfig(beam_size=1, repetition_penalty=2.0)),
    )
    for seed in range(10):
        alone = sample(model, seed, 3, top_p=0.95)
        assert sample(model, seed, 3, top_p=0.95) == alone
        assert sample(model, seed, 3, top_p=0.95, others=others) == alone


def test_different_seeds_and_fresh_seeds_give_different_texts() -> None:
    model = TableModel(vocab_size=100, seed=7, sharpness=0.3)
    texts = {sample(model, seed, 1, min_new_tokens=8)[0].token_ids for seed in range(20)}
    assert len(texts) == 20
    config = GenerationConfig(beam_size=1, sampling=True, min_new_tokens=8)
    fresh = generate(as_transformer(model), [GenerationInput(SOURCE, config)] * 20, SPECIAL)
    assert len({hypotheses[0].token_ids for hypotheses in fresh}) == 20


def test_a_forced_prefix_is_kept_and_uses_no_random_numbers() -> None:
    model = TableModel(vocab_size=100, seed=7, sharpness=0.3)
    config = GenerationConfig(beam_size=1, sampling=True, seed=1, num_hypotheses=6, target_prefix=(9, 1, 9))
    found = generate(as_transformer(model), [GenerationInput(SOURCE, config)], SPECIAL)[0]
    assert {each.token_ids[:3] for each in found} == {(9, 1, 9)}
    assert len({each.token_ids for each in found}) == 6
    for each in found:
        assert each.token_log_probs[:3] == pytest.approx(model.token_log_probs(SOURCE, [9, 1, 9]), abs=1e-4)
