"""Which examples an epoch holds, how they are cut into batches, shared between ranks and padded into tensors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from model.training.batching import Batch, Batches, Position, steps
from model.training.corpus import Corpus
from tests.unit.tiny_training import model_config, tokenizer

LANGUAGES = ("fr", "en")


def make_corpus(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], source_of: Sequence[int], weights: tuple[float, ...]
) -> Corpus:
    """Return a corpus of given token ids."""
    sides = [[np.array(pair[language], dtype=np.int32) for pair in pairs] for language in (0, 1)]
    offsets = [np.concatenate([[0], np.cumsum([len(ids) for ids in side])]).astype(np.int64) for side in sides]
    return Corpus(
        (np.concatenate(sides[0]), np.concatenate(sides[1])),
        (offsets[0], offsets[1]),
        np.array(source_of, dtype=np.int32),
        weights,
    )


def random_corpus(num_pairs: int = 300, weights: tuple[float, ...] = (1.0,)) -> Corpus:
    """Return pairs of 1 to 30 random tokens, spread evenly over as many files as there are weights."""
    rng = np.random.default_rng(11)
    pairs = [tuple(rng.integers(50, 300, rng.integers(1, 31)).tolist() for _ in LANGUAGES) for _ in range(num_pairs)]
    return make_corpus(pairs, [index % len(weights) for index in range(num_pairs)], weights)


def make_batches(corpus: Corpus, batch_tokens: int = 128, seed: int = 1) -> Batches:
    return Batches(corpus, tokenizer(), model_config(), LANGUAGES, batch_tokens, seed)


def same_batches(left: Sequence[object], right: Sequence[object]) -> bool:
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))  # type: ignore[arg-type]


def same_tensors(left: Batch, right: Batch) -> bool:
    return torch.equal(left.source_ids, right.source_ids) and torch.equal(left.targets, right.targets)


# Epochs


def test_an_epoch_holds_every_example_of_both_directions_once() -> None:
    examples = np.concatenate(make_batches(random_corpus()).epoch(0))
    assert sorted(examples.tolist()) == list(range(600))


def test_padded_sides_stay_within_the_budget() -> None:
    batches = make_batches(random_corpus(), batch_tokens=128)
    for examples in batches.epoch(0):
        batch = batches.collate(examples)
        assert batch.source_ids.numel() <= 128
        assert batch.targets.numel() <= 128


def test_budget_is_used_and_little_of_it_padded() -> None:
    batches = make_batches(random_corpus(3000), batch_tokens=1024)
    collated = [batches.collate(examples) for examples in batches.epoch(0)]
    targets = sum(batch.targets.numel() for batch in collated)
    # Sorted by target length, so only the step from one length to the next is padded.
    assert sum(batch.num_target_tokens for batch in collated) > 0.97 * targets
    # No two neighbours in length could have been one batch: there are at most twice as many as the budget needs.
    longer = sum(max(batch.targets.numel(), batch.source_ids.numel()) for batch in collated)
    assert longer > 0.5 * 1024 * len(collated)


def test_an_example_over_the_budget_is_a_batch_of_its_own() -> None:
    corpus = make_corpus([([50] * 30, [60] * 3), ([51], [61])], [0, 0], (1.0,))
    batches = make_batches(corpus, batch_tokens=16).epoch(0)
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0], [1], [2, 3]]


def test_order_depends_on_seed_and_epoch_only() -> None:
    corpus = random_corpus()
    begun = make_batches(corpus, seed=7).epoch(3)
    assert same_batches(make_batches(corpus, seed=7).epoch(3), begun)
    assert not same_batches(make_batches(corpus, seed=7).epoch(4), begun)
    assert not same_batches(make_batches(corpus, seed=8).epoch(3), begun)


def test_batches_of_all_lengths_come_in_any_order() -> None:
    batches = make_batches(random_corpus(2000))
    lengths = [float(batches.example_lengths(examples)[1].mean()) for examples in batches.epoch(0)]
    # Neighbours of a sorted order correlate almost perfectly, of a shuffled one (about 300 batches) hardly.
    assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.3


def test_whole_weights_repeat_and_fractions_draw_anew_in_each_epoch() -> None:
    corpus = random_corpus(4000, weights=(2.0, 0.5, 1.25, 1.0))
    batches = make_batches(corpus, batch_tokens=4096)
    epochs = [Counter((np.concatenate(batches.epoch(epoch)) // 2).tolist()) for epoch in (0, 1)]
    for counts in epochs:
        # Every pair that is drawn is drawn for both directions.
        per_file = [[counts[pair] // 2 for pair in range(file, 4000, 4)] for file in range(4)]
        assert all(count % 2 == 0 for count in counts.values())
        assert set(per_file[0]) == {2}
        assert set(per_file[1]) == {0, 1}
        assert set(per_file[2]) == {1, 2}
        assert set(per_file[3]) == {1}
        # 1000 draws of one half and of one quarter: five standard deviations are 79 and 68.
        assert abs(sum(per_file[1]) - 500) < 79
        assert abs(sum(per_file[2]) - 1250) < 68
    assert epochs[0] != epochs[1]


# Tensors


def test_collate_by_hand() -> None:
    corpus = make_corpus([([50, 51, 52], [60]), ([53], [61, 62])], [0, 0], (1.0,))
    batches = make_batches(corpus)
    english, french = tokenizer().language_id("en"), tokenizer().language_id("fr")
    batch = batches.collate([0, 3])  # French to English of the first pair, English to French of the second
    assert batch.source_ids.tolist() == [[english, 50, 51, 52, 3], [french, 61, 62, 3, 0]]
    assert batch.source_mask is not None
    assert batch.source_mask.tolist() == [[True] * 5, [True] * 4 + [False]]
    assert batch.target_input_ids.tolist() == [[2, 60], [2, 53]]
    assert batch.targets.tolist() == [[60, 3], [53, 3]]
    assert batch.num_target_tokens == 4
    assert batch.source_ids.dtype == batch.targets.dtype == torch.long


def test_collate_pads_targets_behind() -> None:
    corpus = make_corpus([([50], [60, 61, 62])], [0], (1.0,))
    batch = make_batches(corpus).collate([0, 1])
    assert batch.target_input_ids.tolist() == [[2, 60, 61, 62], [2, 50, 0, 0]]
    assert batch.targets.tolist() == [[60, 61, 62, 3], [50, 3, 0, 0]]
    assert batch.num_target_tokens == 6


def test_no_mask_where_nothing_is_padded() -> None:
    corpus = make_corpus([([50, 51], [60, 61])], [0], (1.0,))
    assert make_batches(corpus).collate([0, 1]).source_mask is None


def test_lengths_are_those_of_the_tensors() -> None:
    batches = make_batches(random_corpus(20))
    sources, targets = batches.example_lengths(np.arange(40))
    for example in range(40):
        batch = batches.collate([example])
        assert (batch.source_ids.shape[1], batch.targets.shape[1]) == (sources[example], targets[example])


# Steps


def test_ranks_share_each_step_and_leave_nothing_but_an_epochs_rest() -> None:
    batches = make_batches(random_corpus())
    order = [batches.collate(examples) for examples in batches.epoch(0)]
    num_steps = len(order) // 6
    assert len(order) % 6 != 0, "the test wants a rest"
    shares = [itertools.islice(steps(batches, Position(), 2, rank, 3), num_steps) for rank in range(3)]
    for step, parts in enumerate(zip(*shares, strict=True)):
        # Rank r takes batches r and r + 3 of the six of this step.
        expected = order[6 * step : 6 * step + 6]
        for rank, (micro_batches, _) in enumerate(parts):
            assert len(micro_batches) == 2
            assert same_tensors(micro_batches[0], expected[rank])
            assert same_tensors(micro_batches[1], expected[rank + 3])


def test_steps_go_on_with_the_next_epoch() -> None:
    batches = make_batches(random_corpus())
    per_epoch = [len(batches.epoch(epoch)) for epoch in (0, 1)]
    taken = list(itertools.islice(steps(batches, Position(), 1, 0, 1), per_epoch[0] + 2))
    positions = [position for _, position in taken]
    assert positions[0] == Position(0, 1)
    assert positions[per_epoch[0] - 1] == Position(1, 0)
    assert positions[-1] == Position(1, 2)
    assert same_tensors(taken[per_epoch[0]][0][0], batches.collate(batches.epoch(1)[0]))


@pytest.mark.parametrize("done", [1, 5])
def test_a_position_leads_to_the_same_continuation(done: int) -> None:
    batches = make_batches(random_corpus(40))
    epoch_steps = len(batches.epoch(0)) // 2
    total = 2 * epoch_steps + 3  # across two ends of an epoch
    straight = list(itertools.islice(steps(batches, Position(), 2, 0, 1), total))
    _, position = straight[done - 1]
    again = make_batches(random_corpus(40))
    resumed = list(itertools.islice(steps(again, position, 2, 0, 1), total - done))
    for (left, left_position), (right, right_position) in zip(straight[done:], resumed, strict=True):
        assert all(same_tensors(a, b) for a, b in zip(left, right, strict=True))
        assert left_position == right_position


def test_fewer_batches_than_ranks_are_seen_again_by_the_others() -> None:
    corpus = make_corpus([([50], [60]), ([51], [61])], [0, 0], (1.0,))
    batches = make_batches(corpus, batch_tokens=16)
    assert len(batches.epoch(0)) == 1
    for rank in (0, 1, 2):
        (micro_batches, position), *_ = itertools.islice(steps(batches, Position(), 2, rank, 3), 1)
        assert [len(batch.targets) for batch in micro_batches] == [4, 4]
        assert position == Position(1, 0)


def test_an_epoch_that_draws_nothing_is_passed_over() -> None:
    corpus = make_corpus([([50], [60])], [0], (0.05,))
    batches = make_batches(corpus)
    empty = [epoch for epoch in range(40) if not batches.epoch(epoch)]
    assert 0 in empty
    (_, position), *_ = itertools.islice(steps(batches, Position(), 1, 0, 1), 1)
    assert position.epoch - 1 not in empty
