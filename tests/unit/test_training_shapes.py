"""Fixed padded shapes: chosen well, kept to by every batch, and without influence on the loss."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.errors import ConfigurationError
from model.training.augmentation import Augmentation
from model.training.batching import Batches
from model.training.corpus import Corpus, load_corpus
from model.training.shapes import MULTIPLE, LongArray, Shapes, choose_shapes
from model.training.trainer import Trainer, TrainingNetwork
from model.training_config import AugmentationConfig
from model.transformer import Transformer
from tests.unit.test_training_batching import LANGUAGES, random_corpus
from tests.unit.tiny_training import (
    all_equal,
    log_of,
    model_config,
    one_cpu_thread,
    optimizer_config,
    recipe,
    run,
    tokenizer,
    weights_of,
)


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


def padded_sum(shapes: Shapes, sources: LongArray, targets: LongArray) -> int:
    return int(np.array(shapes.lengths)[shapes.of(sources, targets)].sum())


# Which shapes


def test_enough_shapes_pad_to_the_next_multiple_only() -> None:
    rng = np.random.default_rng(3)
    sources, targets = rng.integers(1, 40, 300), rng.integers(1, 40, 300)
    shapes = choose_shapes(sources, targets, 100, 512, (40, 40))
    rounded = -(-sources // MULTIPLE) * MULTIPLE + -(-targets // MULTIPLE) * MULTIPLE
    assert padded_sum(shapes, sources, targets) == rounded.sum()


def test_the_cheapest_union_by_hand() -> None:
    # 100 examples of (8, 8), some of (16, 8), 90 of (40, 40). Those between would grow by 56 each to join the large
    # ones; the small ones by 8 each to join them, 800 in all.
    for count, expected in ((14, ((8, 8), (40, 40), (48, 48))), (15, ((16, 8), (40, 40), (48, 48)))):
        sources = np.repeat([8, 16, 40], [100, count, 90])
        targets = np.repeat([8, 8, 40], [100, count, 90])
        assert choose_shapes(sources, targets, 3, 512, (48, 48)).lengths == expected
        assert len(choose_shapes(sources, targets, 4, 512, (48, 48)).lengths) == 4


def test_shapes_are_few_aligned_and_hold_everything() -> None:
    rng = np.random.default_rng(2)
    sources, targets = rng.integers(3, 90, 4000), rng.integers(2, 100, 4000)
    for count in (1, 2, 3, 8, 16):
        shapes = choose_shapes(sources, targets, count, 2048, (95, 101))
        assert 1 <= len(shapes.lengths) <= count
        assert all(length % MULTIPLE == 0 for lengths in shapes.lengths for length in lengths)
        assert shapes.lengths[-1] == (96, 104)
        numbers = shapes.of(sources, targets)
        for source, target, number in zip(sources.tolist(), targets.tolist(), numbers.tolist(), strict=True):
            fitting = [i for i, (s, t) in enumerate(shapes.lengths) if source <= s and target <= t]
            assert number == fitting[0]


def test_more_shapes_pad_less() -> None:
    rng = np.random.default_rng(2)
    targets = rng.geometric(0.05, 5000).clip(2, 100)
    sources = (targets * rng.normal(1.1, 0.15, 5000)).astype(np.int64).clip(3, 110)
    padded = []
    for count in (1, 4, 8, 16):
        shapes = choose_shapes(sources, targets, count, 2048, (110, 100))
        chosen = np.array(shapes.lengths)[shapes.of(sources, targets)]
        padded.append(1 - (sources.sum() + targets.sum()) / chosen.sum())
    assert padded == sorted(padded, reverse=True)
    assert padded[-1] < 0.2 < 0.6 < padded[0]


def test_rows_fill_the_budget() -> None:
    shapes = Shapes(((8, 8), (16, 24), (600, 8)), 480)
    assert [shapes.padded(number) for number in range(3)] == [(60, 8, 8), (20, 16, 24), (1, 600, 8)]


# Batches


def make_batches(corpus: Corpus, num_shapes: int, augmentation: Augmentation | None = None) -> Batches:
    return Batches(corpus, tokenizer(), model_config(), LANGUAGES, 256, 1, augmentation, num_shapes)


@pytest.mark.parametrize("shares", [{}, {"upper_case": 0.3, "typos": 0.2, "joined": 0.2}])
def test_every_batch_has_a_shape_of_the_set_and_every_example_occurs_once(
    tmp_path: Path, shares: dict[str, float]
) -> None:
    corpus, _ = load_corpus(recipe(tmp_path).data, tokenizer())
    changes = Augmentation(corpus, tokenizer(), LANGUAGES, AugmentationConfig(**shares), 62, 1) if shares else None
    batches = make_batches(corpus, 6, changes)
    assert batches.shapes is not None
    allowed = {batches.shapes.padded(number) for number in range(len(batches.shapes.lengths))}
    assert 3 <= len(allowed) <= 6
    for epoch in (0, 1):
        order = batches.epoch(epoch)
        assert sorted(np.concatenate(order).tolist()) == list(range(512))
        seen = set()
        for examples in order:
            batch = batches.collate(examples, epoch)
            rows, source, target = (*batch.source_ids.shape, batch.targets.shape[1])
            seen.add((rows, source, target))
            assert batch.source_mask is not None
            assert batch.source_mask.any(dim=1).all(), "attention without a key has no meaning"
            assert int((batch.targets != 0).any(dim=1).sum()) == len(examples)
            kept = int((batch.targets != 0).sum()), int(batch.source_mask[: len(examples)].sum())
            assert batch.num_target_tokens == len(batch.positions) == kept[0]
            assert batch.num_padding == rows * (source + target) - sum(kept)
        assert seen <= allowed
        assert len(seen) >= 3


def test_order_depends_on_seed_and_epoch_only() -> None:
    first, second = (make_batches(random_corpus(), 4) for _ in range(2))
    for epoch in (0, 3):
        left, right = first.epoch(epoch), second.epoch(epoch)
        assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.epoch(0), first.epoch(3), strict=False))


# Training


def test_loss_and_gradients_equal_those_without_filling() -> None:
    corpus = random_corpus(60)
    config = model_config(dropout=0.0, attention_dropout=0.0)
    fixed = make_batches(corpus, 4)
    free = Batches(corpus, tokenizer(), config, LANGUAGES, 256, 1)
    torch.manual_seed(0)
    network = TrainingNetwork(Transformer(config), 0.1, compiled=False)
    results = []
    for batches in (free, fixed):
        total = torch.zeros(2)
        network.zero_grad()
        for examples in fixed.epoch(0):
            loss, likelihood = network(*batches.collate(examples).tensors)
            loss.backward()
            total += torch.stack([loss.detach(), likelihood])
        results.append((total, [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    # The same sums with zeros in them: only the order of float32 additions differs.
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=0)
    for left, right in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-3)


def test_resumed_run_with_shapes_equals_uninterrupted_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_shapes": 5, "batch_tokens": 512}
    straight = recipe(tmp_path / "straight", optimizer=optimizer_config(30), **changes)
    whole = run(straight)
    broken = recipe(tmp_path / "broken", optimizer=optimizer_config(30), checkpoint_every_steps=11, **changes)
    trainer = Trainer(broken, show_progress=False)
    plain = trainer.log.step
    trainer.log.step = lambda step, metrics: (plain(step, metrics), setattr(trainer, "_stop", step == 11))  # type: ignore[method-assign, assignment, func-returns-value]
    trainer.train()
    assert trainer.optimizer.steps_done == 11
    assert all_equal(weights_of(run(broken)), weights_of(whole))
    assert log_of(broken)[-1] == log_of(straight)[-1]


def test_shapes_must_stay_as_the_run_began(tmp_path: Path) -> None:
    run(recipe(tmp_path))
    with pytest.raises(ConfigurationError, match="num_shapes must be 0 as the run"):
        Trainer(recipe(tmp_path, num_shapes=4), show_progress=False)


# torch's own compiler looks at the gradients of a layer's inputs, and warns itself of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_each_shape_is_compiled_once_and_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Any:
        graphs.append(graph)
        return graph.forward

    plain_compile = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", functools.partialmethod(plain_compile, backend=backend, fullgraph=True)
    )
    changes: dict[str, Any] = {
        "optimizer": optimizer_config(12),
        "model": model_config(dropout=0.0, attention_dropout=0.0, num_encoder_layers=3, num_decoder_layers=2),
        "num_shapes": 3,
        "batch_tokens": 2048,
        "log_every_steps": 1,
    }
    plain = recipe(tmp_path / "plain", **changes)
    run(plain)
    assert graphs == []
    compiled = recipe(tmp_path / "compiled", compile=True, **changes)
    trainer = run(compiled)
    batches = make_batches(load_corpus(compiled.data, tokenizer())[0], 3)
    assert batches.shapes is not None
    # One graph for all encoder layers and one for all decoder layers, for each shape that occurred.
    assert 2 < len(graphs) <= 2 * len(batches.shapes.lengths)
    losses = [[line["loss"] for line in log_of(config)] for config in (plain, compiled)]
    # The same operations in the same order; the tolerance is for fusions that round otherwise.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert set(trainer.network.state_dict()) == set(Transformer(compiled.model).state_dict())
