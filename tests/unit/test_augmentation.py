"""Changed training examples of a run: which, how often, the same each time, and never too long."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoints.checkpoint import load_checkpoint
from model.errors import ConfigurationError
from model.text.tokenizer import MARKERS, PLACEHOLDERS, normalize
from model.training import word_lexicon
from model.training.augmentation import Augmentation
from model.training.batching import Batches, Position, steps
from model.training.corpus import Corpus, load_corpus
from model.training.trainer import Trainer
from model.training.word_lexicon import estimate_word_lexicon
from model.training_config import AugmentationConfig, DataConfig, SourceConfig, TrainingConfig
from tests.unit.tiny_training import (
    after_each_step,
    all_equal,
    model_config,
    one_cpu_thread,
    optimizer_config,
    recipe,
    run,
    sentence_pairs,
    tokenizer,
    weights_of,
    write_pairs,
)

ALL = AugmentationConfig(
    upper_case=0.1,
    title_case=0.1,
    lower_case=0.1,
    no_final_punctuation=0.2,
    typos=0.2,
    joined=0.2,
    placeholders=0.3,
    terms=0.3,
)


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


@pytest.fixture(autouse=True)
def _every_word_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small corpora of these tests have fewer words than a language has function words."""
    monkeypatch.setattr(word_lexicon, "_NUM_FREQUENT", 0)


def tiny_corpus(folder: Path, sources: Sequence[str] = ("pairs.tsv",)) -> Corpus:
    pairs = sentence_pairs()
    for index, name in enumerate(sources):
        write_pairs(folder / "corpus" / name, pairs[index :: len(sources)])
    data = DataConfig(str(folder / "corpus"), tuple(SourceConfig(name) for name in sources), max_tokens=64)
    return load_corpus(data, tokenizer())[0]


def augmentation(corpus: Corpus, config: AugmentationConfig = ALL, max_tokens: int = 62, seed: int = 3) -> Augmentation:
    lexicon = estimate_word_lexicon(corpus, tokenizer()) if config.markers else None
    return Augmentation(corpus, tokenizer(), ("fr", "en"), config, max_tokens, seed, lexicon)


def text_of(ids: Sequence[int]) -> str:
    return tokenizer().decode_marked(list(ids))


def test_an_example_depends_on_seed_epoch_and_number_alone(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    changes = augmentation(corpus)
    draws = np.arange(2 * len(corpus))
    plan = changes.plan(draws, epoch=2)
    whole = [changes.example(plan, index) for index in range(len(draws))]
    order = np.random.default_rng(1).permutation(len(draws))
    other = augmentation(corpus)
    shuffled = other.plan(draws[order], epoch=2)
    assert [other.example(shuffled, place) for place in range(len(draws))] == [whole[index] for index in order]
    for seed, epoch in ((3, 1), (4, 2)):
        again = augmentation(corpus, seed=seed)
        other_plan = again.plan(draws, epoch=epoch)
        differing = sum(again.example(other_plan, index) != whole[index] for index in range(len(draws)))
        assert differing > len(draws) / 2
    # The same pair once more in the same epoch is another draw.
    repeated = changes.plan(draws + len(draws), epoch=2)
    assert np.array_equal(repeated.examples, plan.examples)
    assert sum(changes.example(repeated, index) != whole[index] for index in range(len(draws))) > len(draws) / 2


def test_each_kind_has_its_share(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    config = dataclasses.replace(ALL, upper_case=0.02, placeholders=0.5)
    plan = augmentation(corpus, config, max_tokens=400).plan(np.arange(20_000), epoch=0)
    found = {
        "upper_case": plan.cases == 1,
        "title_case": plan.cases == 2,
        "lower_case": plan.cases == 3,
        "no_final_punctuation": plan.unpunctuated,
        "typos": plan.mistyped,
        "joined": (plan.joined >= 0).any(axis=1),
        "placeholders": plan.num_placeholders > 0,
        "terms": plan.num_terms > 0,
    }
    assert set(found) == set(config.shares)
    for name, share in config.shares.items():
        # Five standard deviations of a proportion.
        assert abs(found[name].mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5, name
    # Kinds are drawn apart from each other: both as often as the product says.
    both = (found["typos"] & found["terms"]).mean()
    assert abs(both - 0.06) < 5 * (0.06 * 0.94 / 20_000) ** 0.5
    assert set(plan.num_placeholders.tolist()) == set(range(17))


def test_without_shares_every_example_is_as_it_was(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    changes = augmentation(corpus, AugmentationConfig())
    plan = changes.plan(np.arange(2 * len(corpus)), epoch=0)
    for index in range(2 * len(corpus)):
        pair, direction = divmod(index, 2)
        wanted = corpus.side(direction, pair).tolist(), corpus.side(1 - direction, pair).tolist()
        assert changes.example(plan, index) == wanted
        assert (plan.source_lengths[index], plan.target_lengths[index]) == tuple(map(len, wanted))


@pytest.mark.parametrize(("max_tokens", "numbers"), [(200, {2, 3, 4}), (50, {1, 2, 3})])
def test_joined_examples_are_of_one_source_and_fit(tmp_path: Path, max_tokens: int, numbers: set[int]) -> None:
    corpus = tiny_corpus(tmp_path, ("a.tsv", "b.tsv"))
    changes = augmentation(corpus, AugmentationConfig(joined=1.0), max_tokens=max_tokens)
    plan = changes.plan(np.arange(2 * len(corpus)), epoch=0)
    by_text = {normalize(side): index % 2 for index, pair in enumerate(sentence_pairs()) for side in pair}
    counts: Counter[int] = Counter()
    for index in range(2 * len(corpus)):
        source, target = changes.example(plan, index)
        assert (len(source), len(target)) == (plan.source_lengths[index], plan.target_lengths[index])
        assert max(len(source), len(target)) <= max_tokens
        sentences = [re.findall(r"[^.]+\.", text_of(side)) for side in (source, target)]
        assert len(sentences[0]) == len(sentences[1])
        counts[len(sentences[0])] += 1
        files = {by_text[sentence.strip()] for side in sentences for sentence in side}
        assert files == {int(corpus.source_of[index // 2])}
        pairs = set(sentence_pairs())
        for couple in zip(*sentences, strict=True):
            first, second = (sentence.strip() for sentence in couple)
            assert ((first, second) if index % 2 == 0 else (second, first)) in pairs
    assert set(counts) == numbers


def test_bounds_hold_and_what_would_be_longer_stays_as_it_was(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    for max_tokens in (62, 20):
        changes = augmentation(corpus, max_tokens=max_tokens)
        plan = changes.plan(np.arange(4 * len(corpus)), epoch=0)
        for index in range(4 * len(corpus)):
            pair, direction = divmod(int(plan.examples[index]), 2)
            for side, found, bound in zip(
                (direction, 1 - direction),
                changes.example(plan, index),
                (plan.source_lengths[index], plan.target_lengths[index]),
                strict=True,
            ):
                assert 0 < len(found) <= bound <= max(max_tokens, len(corpus.side(side, pair)))


def test_changed_examples_are_what_their_kinds_say(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    plain = set(sentence_pairs())
    changes = augmentation(corpus, AugmentationConfig(upper_case=0.5, placeholders=0.5, terms=0.5), max_tokens=200)
    plan = changes.plan(np.arange(2 * len(corpus)), epoch=0)
    seen: Counter[str] = Counter()
    for index in range(2 * len(corpus)):
        source, target = map(text_of, changes.example(plan, index))
        marks = Counter(MARKERS[character] for character in source if character in MARKERS)
        assert Counter(character for character in target if character in MARKERS) == Counter(
            character for character in source if character in PLACEHOLDERS
        )
        assert marks["<term>"] == marks["<as>"] == marks["</term>"] <= plan.num_terms[index]
        if not marks and not plan.cases[index]:
            assert ((source, target) if index % 2 == 0 else (target, source)) in plain
        seen.update(kind for kind in ("<term>", "<x0>") if marks[kind])
        seen["upper"] += source.isupper() and target.isupper()
    assert min(seen.values()) > 100


def test_a_text_with_a_private_character_is_left_alone(tmp_path: Path) -> None:
    pairs = [(f"le chat {PLACEHOLDERS[0]} {index}", f"the cat {PLACEHOLDERS[0]} {index}") for index in range(20)]
    write_pairs(tmp_path / "corpus" / "pairs.tsv", pairs)
    data = DataConfig(str(tmp_path / "corpus"), (SourceConfig("pairs.tsv"),), max_tokens=64)
    corpus = load_corpus(data, tokenizer())[0]
    changes = augmentation(corpus, AugmentationConfig(placeholders=1.0, terms=1.0))
    plan = changes.plan(np.arange(40), epoch=0)
    for index in range(40):
        assert not tokenizer().special_ids & set(changes.example(plan, index)[0])


# Batches and runs


def augmented_batches(corpus: Corpus, config: AugmentationConfig = ALL, batch_tokens: int = 256) -> Batches:
    return Batches(corpus, tokenizer(), model_config(), ("fr", "en"), batch_tokens, 3, augmentation(corpus, config))


def test_batches_stay_within_the_budget_and_hold_every_example(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    weighted = dataclasses.replace(corpus, weights=(2.0,))
    batches = augmented_batches(weighted)
    epoch = batches.epoch(1)
    draws = np.concatenate(epoch)
    assert sorted(draws.tolist()) == list(range(4 * len(corpus)))  # each example twice, each time as another draw
    for examples in epoch:
        batch = batches.collate(examples, 1)
        assert batch.source_ids.numel() <= 256
        assert batch.targets.numel() <= 256


def test_ranks_see_the_same_examples_and_share_them(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path)
    both = [steps(augmented_batches(corpus), Position(1, 2), 1, rank, 2) for rank in (0, 1)]
    alone = steps(augmented_batches(corpus), Position(1, 2), 2, 0, 1)
    for _ in range(3):
        parts = [next(each)[0][0] for each in both]
        whole, _ = next(alone)
        assert [part.source_ids.tolist() for part in parts] == [batch.source_ids.tolist() for batch in whole]
        assert [part.targets.tolist() for part in parts] == [batch.targets.tolist() for batch in whole]


def augmented_recipe(folder: Path, **changes: Any) -> TrainingConfig:
    return recipe(folder, **{"augmentation": ALL, "batch_tokens": 512, **changes})


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"optimizer": optimizer_config(20), "batch_tokens": 2048}
    whole = run(augmented_recipe(tmp_path / "whole", **options))
    assert whole.position.epoch > 0  # so that an epoch begins in between
    config = augmented_recipe(tmp_path / "parts", **options)
    trainer = Trainer(config, show_progress=False)
    after_each_step(monkeypatch, trainer, lambda done: setattr(trainer, "_stop", done == 9))
    trainer.train()
    assert trainer.optimizer.steps_done == 9
    resumed = run(config)
    assert resumed.optimizer.steps_done == 20
    assert all_equal(weights_of(whole), weights_of(resumed))


def test_metadata_tells_shares_and_markers(tmp_path: Path) -> None:
    trainer = run(augmented_recipe(tmp_path))
    newest = trainer.run.newest_path()
    assert newest is not None
    metadata = load_checkpoint(newest).metadata
    assert metadata["augmentation"] == dataclasses.asdict(ALL)
    assert metadata["markers"] == ["placeholders", "terms"]
    only_typos = run(augmented_recipe(tmp_path / "typos", augmentation=AugmentationConfig(typos=0.5)))
    assert only_typos.checkpoint().metadata["augmentation"] == {"typos": 0.5}
    assert "markers" not in only_typos.checkpoint().metadata
    assert "augmentation" not in run(recipe(tmp_path / "plain")).checkpoint().metadata


def test_a_warm_start_keeps_the_markers_also_when_it_is_resumed(tmp_path: Path) -> None:
    first = run(augmented_recipe(tmp_path / "first", augmentation=AugmentationConfig(terms=0.5)))
    start = str(first.run.newest_path())
    config = recipe(tmp_path / "second", initial_checkpoint=start, checkpoint_every_steps=4)
    second = run(config)
    assert second.checkpoint().metadata["markers"] == ["terms"]
    longer = dataclasses.replace(config, optimizer=optimizer_config(14), initial_checkpoint=None)
    assert run(longer).checkpoint().metadata["markers"] == ["terms"]
    both = recipe(tmp_path / "third", initial_checkpoint=start, augmentation=AugmentationConfig(placeholders=0.5))
    assert run(both).checkpoint().metadata["markers"] == ["placeholders", "terms"]


def test_a_run_cannot_go_on_with_another_augmentation(tmp_path: Path) -> None:
    config = augmented_recipe(tmp_path)
    run(config)
    with pytest.raises(ConfigurationError) as caught:
        Trainer(dataclasses.replace(config, augmentation=AugmentationConfig(typos=0.1)), show_progress=False)
    assert caught.value.name == "augmentation"
