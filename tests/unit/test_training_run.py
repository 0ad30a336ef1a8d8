"""What a run leaves behind and goes on from: log, evaluations, checkpoints, recipe and initial weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint
from model.config import config_to_mapping
from model.errors import CheckpointError, ConfigurationError, TrainingDivergedError
from model.text.tokenizer import train_tokenizer
from model.training.trainer import Trainer, TrainingNetwork
from model.training_config import EvaluationConfig, OptimizerConfig, TrainingConfig
from tests.unit.tiny_training import (
    after_each_step,
    all_equal,
    checkpoints_of,
    log_of,
    micro_batches,
    model_config,
    one_cpu_thread,
    optimizer_config,
    recipe,
    run,
    sentence_pairs,
    tokenizer,
    weights_of,
)


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


# The log


def test_metrics_lines(tmp_path: Path) -> None:
    config = recipe(tmp_path, log_every_steps=5)
    trainer = run(config)
    lines = [json.loads(line) for line in (trainer.run.path / "metrics.jsonl").read_text().splitlines()]
    num_parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    peak = lines[0].pop("peak_flops")
    assert lines[0] == {"event": "start", "step": 0, "parameters": num_parameters}
    # Every five steps, and the rest when the run ends: every step is in exactly one line.
    assert [(line["event"], line["step"]) for line in lines[1:]] == [("step", 5), ("step", 10), ("step", 12)]
    for line in lines[1:]:
        names = (
            "event step time loss nll learning_rate gradient_norm tokens_per_second target_tokens padding flops "
            "flops_on_padding flop_utilization"
        )
        assert set(line) == set(names.split())
        # All three are of the same seconds.
        rate = line["flops"] / line["target_tokens"] * line["tokens_per_second"]
        assert line["flop_utilization"] == pytest.approx(rate / peak)
        assert line["tokens_per_second"] > 0
        assert line["gradient_norm"] > 0
    # Warm-up over four steps, then a cosine over the eight others; the fifth and the tenth step.
    assert lines[1]["learning_rate"] == pytest.approx(1e-3)
    batches = micro_batches(config, 5)
    assert lines[1]["target_tokens"] == sum(batch.num_target_tokens for batch in batches)
    assert lines[1]["flops"] == pytest.approx(sum(batch.flops.useful for batch in batches))
    ids = sum(batch.source_ids.numel() + batch.targets.numel() for batch in batches)
    kept = sum(int((t != 0).sum()) for batch in batches for t in (batch.source_ids, batch.targets))
    assert 0 < lines[1]["padding"] == pytest.approx(1 - kept / ids)


def test_run_folder_tells_recipe_and_corpus(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    trainer = run(config)
    saved = json.loads((trainer.run.path / "recipe.json").read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(config_to_mapping(config)))
    corpus = json.loads((trainer.run.path / "corpus.json").read_text(encoding="utf-8"))
    assert corpus == {"pairs": 256, "sources": [{"path": "pairs.tsv", "lines": 256, "kept": 256, "rejected": {}}]}
    assert list((trainer.run.path / "tensorboard").glob("events*"))


def test_progress_and_evaluation_are_shown_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = EvaluationConfig(str(tmp_path), ("dev",), every_steps=6)
    config = recipe(tmp_path, evaluation=evaluation)
    Trainer(config, lambda *_: ({"dev.bleu": 12.5}, [("Où [est] le chat ?", "Where is [it]?")])).train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 12/12" in captured.err
    assert "step 6: dev.bleu 12.50" in captured.err
    assert "Où [est] le chat ? -> Where is [it]?" in captured.err


# Evaluation


def test_evaluation_is_asked_with_the_averaged_weights(tmp_path: Path) -> None:
    evaluation = EvaluationConfig(str(tmp_path), ("dev",), every_steps=5)
    config = recipe(tmp_path, evaluation=evaluation)
    asked: list[tuple[int, dict[str, Tensor], TrainingConfig]] = []

    def evaluate(checkpoint: Checkpoint, given: TrainingConfig) -> tuple[dict[str, float], list[tuple[str, str]]]:
        weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
        asked.append((checkpoint.metadata["steps"], weights, given))
        return {"dev.bleu": 10.0 + len(asked)}, [("un", "one")]

    trainer = run(config, evaluate=evaluate)
    assert [steps for steps, _, _ in asked] == [5, 10]
    assert all(given is config for _, _, given in asked)
    stored = load_checkpoint(trainer.run.path / "checkpoints" / "step-00000010")
    assert all_equal(dict(stored.weights), asked[1][1])
    assert checkpoints_of(config) == ["step-00000005", "step-00000010", "step-00000012"]
    assert log_of(config, "evaluation") == [
        {"event": "evaluation", "step": 5, "scores": {"dev.bleu": 11.0}, "samples": [["un", "one"]]},
        {"event": "evaluation", "step": 10, "scores": {"dev.bleu": 12.0}, "samples": [["un", "one"]]},
    ]


def test_without_dev_sets_nothing_is_evaluated(tmp_path: Path) -> None:
    def unexpected(*_: object) -> Any:
        raise AssertionError("there is nothing to evaluate")

    run(recipe(tmp_path), evaluate=unexpected)


# Checkpoints


def test_checkpoint_holds_the_average_and_the_state_beside_it(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    trainer = run(config)
    assert trainer.average is not None
    folder = trainer.run.newest_path()
    assert folder is not None
    stored = load_checkpoint(folder)
    assert stored.config == config.model
    assert stored.tokenizer.serialized == tokenizer().serialized
    digest = hashlib.blake2b((tmp_path / "data" / "pairs.tsv").read_bytes(), digest_size=16).hexdigest()
    assert stored.metadata == {"steps": 12, "data": [{"path": "pairs.tsv", "weight": 1.0, "blake2b": digest}]}
    assert all_equal(dict(stored.weights), trainer.average.weights)
    state = trainer.run.newest()
    assert state is not None
    assert all_equal(dict(state.weights), weights_of(trainer))
    assert not all_equal(dict(state.weights), dict(stored.weights))


def test_without_average_the_checkpoint_holds_the_weights(tmp_path: Path) -> None:
    trainer = run(recipe(tmp_path, ema_decay=0.0))
    folder = trainer.run.newest_path()
    assert folder is not None
    assert all_equal(dict(load_checkpoint(folder).weights), weights_of(trainer))


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    config = recipe(tmp_path, checkpoint_every_steps=3, keep_checkpoints=2)
    run(config)
    assert checkpoints_of(config) == ["step-00000009", "step-00000012"]


def test_a_partly_written_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(6))
    run(config)
    partial = Path(config.run_directory) / "checkpoints" / "step-00000012.partial"
    shutil.copytree(Path(config.run_directory) / "checkpoints" / "step-00000006", partial)
    (partial / "training" / "optimizer.pt").write_bytes(b"cut")
    longer = dataclasses.replace(config, optimizer=optimizer_config(12))
    assert Trainer(longer, show_progress=False).optimizer.steps_done == 6
    run(longer)
    assert checkpoints_of(config) == ["step-00000006", "step-00000012"]


def test_a_write_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(tmp_path, checkpoint_every_steps=6)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    trainer = Trainer(config, show_progress=False)
    plain = trainer.run.save

    def save(step: int, *arguments: Any) -> Path:
        if step == 12:
            monkeypatch.setattr(torch, "save", full_disk)
        return plain(step, *arguments)

    monkeypatch.setattr(trainer.run, "save", save)
    with pytest.raises(CheckpointError, match=r"cannot write .*step-00000012.*No space left"):
        trainer.train()
    monkeypatch.undo()
    assert Trainer(config, show_progress=False).optimizer.steps_done == 6


def test_a_damaged_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    run(config)
    newest = Path(config.run_directory) / "checkpoints" / "step-00000012"
    (newest / "training" / "optimizer.pt").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"cannot resume from .*step-00000012"):
        Trainer(config, show_progress=False)


def test_a_diverged_run_stops_before_it_replaces_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(tmp_path, checkpoint_every_steps=4, keep_checkpoints=1)
    trainer = Trainer(config, show_progress=False)

    def diverge(done: int) -> None:
        if done == 6:
            with torch.no_grad():
                next(trainer.network.parameters())[0, 0] = float("nan")

    after_each_step(monkeypatch, trainer, diverge)
    with pytest.raises(TrainingDivergedError, match=r"not finite at step 8; lower optimizer\.learning_rate \(0\.001\)"):
        trainer.train()
    assert checkpoints_of(config) == ["step-00000004"]


# What a begun run may change, and what it may not


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": model_config(d_ff=48)}, r"model\.d_ff must be 32 as the run .* began, got 48"),
        ({"model": model_config(activation="gelu")}, r"model\.activation must be relu as the run .* began, got 'gelu'"),
        ({"seed": 2}, r"seed must be 1 as the run .* began, got 2"),
        ({"batch_tokens": 512}, r"batch_tokens must be 1024 as the run .* began, got 512"),
        ({"accumulation_steps": 2}, r"accumulation_steps must be 1 as the run .* began, got 2"),
        ({"optimizer": OptimizerConfig(name="adamw")}, r"optimizer\.name must stay as the run began, got 'adamw'"),
    ],
)
def test_a_begun_run_refuses_what_would_change_its_meaning(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(4))
    run(config)
    recorded = (Path(config.run_directory) / "recipe.json").read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        Trainer(dataclasses.replace(config, **changes), show_progress=False)
    assert (Path(config.run_directory) / "recipe.json").read_bytes() == recorded


def test_a_begun_run_refuses_another_tokeniser_but_not_another_place_for_it(tmp_path: Path) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(4))
    run(config)
    moved = Path(config.tokenizer).rename(tmp_path / "moved.model")
    config = dataclasses.replace(config, tokenizer=str(moved))
    Trainer(config, show_progress=False)
    sentences = (side for pair in sentence_pairs()[:100] for side in pair)
    train_tokenizer(sentences, moved, vocab_size=config.model.vocab_size, num_threads=1)
    with pytest.raises(ConfigurationError, match=r"tokenizer must be the same as the run .* began"):
        Trainer(config, show_progress=False)


def test_a_begun_run_may_go_on_longer_with_other_rates_and_data(tmp_path: Path) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(4))
    run(config)
    (source,) = config.data.sources
    data = dataclasses.replace(config.data, sources=(dataclasses.replace(source, weight=0.5),), max_tokens=40)
    changed = dataclasses.replace(
        config, optimizer=optimizer_config(8, learning_rate=5e-4, schedule="linear"), data=data, ema_decay=0.5
    )
    assert run(changed).optimizer.steps_done == 8
    assert log_of(config)[-1]["learning_rate"] == pytest.approx(
        5e-4 * (0.05 + 0.95 * 1 / 4)
    )  # one of four steps is left


def test_a_run_without_a_checkpoint_has_not_begun(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    Path(config.run_directory).mkdir()
    (Path(config.run_directory) / "recipe.json").write_text("{}", encoding="utf-8")
    assert Trainer(config, show_progress=False).optimizer.steps_done == 0


def test_vocabulary_must_be_the_tokenisers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.vocab_size must be the tokeniser's \(320\), got 321"):
        Trainer(recipe(tmp_path, model=model_config(vocab_size=321)), show_progress=False)


def test_the_same_seed_begins_with_the_same_weights_and_another_with_others(tmp_path: Path) -> None:
    first, same = (Trainer(recipe(tmp_path), show_progress=False) for _ in range(2))
    other = Trainer(recipe(tmp_path, seed=10**30), show_progress=False)
    assert all_equal(weights_of(first), weights_of(same))
    assert not all_equal(weights_of(first), weights_of(other))
    other.train_step(TrainingNetwork(other.network, 0.1, compiled=False), micro_batches(other.config, 1))


# Starting from another run's weights


def test_initial_checkpoint(tmp_path: Path) -> None:
    trained = run(recipe(tmp_path / "first"))
    folder = trained.run.newest_path()
    assert folder is not None
    model = model_config(dropout=0.3, max_source_length=100)
    config = recipe(tmp_path / "second", initial_checkpoint=str(folder), model=model)
    trainer = Trainer(config, show_progress=False)
    assert trained.average is not None
    assert all_equal(weights_of(trainer), trained.average.weights)
    assert trainer.optimizer.steps_done == 0
    trainer.train()
    # A run that has begun goes on with its own weights.
    assert all_equal(weights_of(Trainer(config, show_progress=False)), weights_of(trainer))


def test_initial_checkpoint_of_another_network_or_tokeniser_is_refused(tmp_path: Path) -> None:
    folder = run(recipe(tmp_path / "first", optimizer=optimizer_config(4))).run.newest_path()
    # The same shapes, another meaning.
    config = recipe(tmp_path / "second", initial_checkpoint=str(folder), model=model_config(num_heads=4))
    with pytest.raises(ConfigurationError, match=r"model\.num_heads must be 2 as in initial_checkpoint .*, got 4"):
        Trainer(config, show_progress=False)
    config = recipe(tmp_path / "third", initial_checkpoint=str(folder))
    sentences = (side for pair in sentence_pairs()[:100] for side in pair)
    train_tokenizer(sentences, Path(config.tokenizer), vocab_size=config.model.vocab_size, num_threads=1)
    with pytest.raises(ConfigurationError, match=r"tokenizer must be the same as in initial_checkpoint"):
        Trainer(config, show_progress=False)
    with pytest.raises(CheckpointError, match="cannot read"):
        Trainer(recipe(tmp_path / "fourth", initial_checkpoint=str(tmp_path / "absent")), show_progress=False)
