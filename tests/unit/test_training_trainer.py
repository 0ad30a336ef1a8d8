"""Whole runs of a tiny network: exact resume, accumulation, precision, logs, checkpoints, refusals and signals."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint
from model.config import EvaluationConfig, OptimizerConfig, TrainingConfig, config_to_mapping
from model.errors import CheckpointError, ConfigurationError
from model.text.tokenizer import train_tokenizer
from model.training.batching import Batch, Batches
from model.training.corpus import load_corpus
from model.training.run_log import StepMetrics
from model.training.trainer import Trainer, TrainingNetwork
from tests.unit.tiny_training import model_config, one_thread, recipe, sentence_pairs, tokenizer

ROOT = Path(__file__).parents[2]
NOT_REPEATED = ("time", "tokens_per_second")
"""What the log says of the clock."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def run(config: TrainingConfig, **options: Any) -> Trainer:
    trainer = Trainer(config, show_progress=False, **options)
    trainer.train()
    return trainer


def optimizer_config(total_steps: int, **changes: Any) -> OptimizerConfig:
    return OptimizerConfig(**{"name": "muon", "warmup_steps": 4, "total_steps": total_steps, **changes})


def after_each_step(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, action: Callable[[int], object]) -> None:
    """Call ``action`` with the number of steps done at the end of every step, before anything is saved."""
    plain = trainer.train_step

    def train_step(module: torch.nn.Module, micro_batches: list[Batch]) -> StepMetrics:
        metrics = plain(module, micro_batches)
        action(trainer.optimizer.steps_done)
        return metrics

    monkeypatch.setattr(trainer, "train_step", train_step)


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}


def all_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def log_of(config: TrainingConfig, event: str = "step") -> list[dict[str, Any]]:
    lines = (Path(config.run_directory) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    events = [line for line in map(json.loads, lines) if line["event"] == event]
    return [{name: value for name, value in line.items() if name not in NOT_REPEATED} for line in events]


def checkpoints_of(config: TrainingConfig) -> list[str]:
    return sorted(path.name for path in (Path(config.run_directory) / "checkpoints").iterdir())


def flat_state(trainer: Trainer) -> list[Tensor]:
    """Return every tensor of the optimiser's state, in order."""
    states = [state["state"] for state in trainer.optimizer.state_dict()["optimizers"]]
    return [value for state in states for entry in state.values() for value in entry.values()]


def micro_batches(config: TrainingConfig, count: int) -> list[Batch]:
    corpus, _ = load_corpus(config.data, tokenizer())
    batches = Batches(corpus, tokenizer(), config.model, config.data.languages, config.batch_tokens, config.seed)
    return [batches.collate(examples) for examples in batches.epoch(0)[:count]]


# Learning and exact resume


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_resumed_run_equals_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    optimizer = optimizer_config(12, name=name)
    straight, broken = (
        recipe(tmp_path / folder, optimizer=optimizer, accumulation_steps=2, batch_tokens=1024)
        for folder in ("straight", "broken")
    )
    assert straight.model.dropout > 0
    whole = run(straight)

    first = Trainer(broken, show_progress=False)
    after_each_step(monkeypatch, first, lambda done: os.kill(os.getpid(), signal.SIGTERM) if done == 4 else None)
    first.train()
    assert first.optimizer.steps_done == 4
    torch.manual_seed(12345)  # whatever the generator's state is when the run goes on
    resumed = run(broken)

    assert whole.optimizer.steps_done == resumed.optimizer.steps_done == 12
    assert whole.position == resumed.position
    assert whole.position.epoch > first.position.epoch, "the continuation should cross into another epoch"
    assert all_equal(weights_of(whole), weights_of(resumed))
    assert whole.average is not None
    assert resumed.average is not None
    assert all_equal(whole.average.weights, resumed.average.weights)
    assert whole.average.num_updates == resumed.average.num_updates == 12
    states = list(zip(flat_state(whole), flat_state(resumed), strict=True))
    assert len(states) > 20
    assert all(torch.equal(a, b) for a, b in states)
    assert log_of(straight) == log_of(broken)
    assert [line["step"] for line in log_of(broken)] == [2, 4, 6, 8, 10, 12]


def test_steps_that_are_done_again_are_logged_once(tmp_path: Path) -> None:
    config = recipe(tmp_path, checkpoint_every_steps=4)
    run(config)
    whole = log_of(config)
    # As if the process had been killed between step 8 and step 12: the log is ahead of the newest checkpoint.
    shutil.rmtree(Path(config.run_directory) / "checkpoints" / "step-00000012")
    with (Path(config.run_directory) / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "st')
    run(config)
    assert log_of(config) == whole
    assert [line["step"] for line in log_of(config, "start")] == [0, 8]


def test_loss_falls(tmp_path: Path) -> None:
    config = recipe(
        tmp_path, optimizer=optimizer_config(40, learning_rate=1e-2), label_smoothing=0.0, log_every_steps=10
    )
    run(config)
    losses = [line["loss"] for line in log_of(config)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1
    assert [line["loss"] for line in log_of(config)] == pytest.approx(
        [line["nll"] for line in log_of(config)], rel=1e-5
    )


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    config = recipe(tmp_path)
    begun = weights_of(run(config))
    (saved,) = (Path(config.run_directory) / "checkpoints").iterdir()
    before = saved.stat().st_mtime_ns
    assert all_equal(weights_of(run(config)), begun)
    assert saved.stat().st_mtime_ns == before


# One step


def test_accumulation_equals_one_large_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(tmp_path, model=model_config(dropout=0.0, attention_dropout=0.0), ema_decay=0.0)
    small = micro_batches(config, 3)
    examples_per_batch = [len(batch.targets) for batch in small]
    assert len({batch.num_target_tokens for batch in small}) > 1, "a mean of means must not pass"
    corpus, _ = load_corpus(config.data, tokenizer())
    batches = Batches(corpus, tokenizer(), config.model, config.data.languages, config.batch_tokens, config.seed)
    large = batches.collate([example for part in batches.epoch(0)[:3] for example in part])
    assert len(large.targets) == sum(examples_per_batch)
    assert large.source_mask is not None, "rows of other batches make padding necessary"
    gradients, losses = [], []
    for parts in (small, [large]):
        trainer = Trainer(config, show_progress=False)
        monkeypatch.setattr(trainer.optimizer, "step", lambda: torch.zeros(()))  # keep the gradients
        metrics = trainer.train_step(TrainingNetwork(trainer.network, 0.1, compiled=False), parts)
        gradients.append([p.grad for p in trainer.network.parameters()])
        losses.append(metrics.totals / metrics.tokens)
    # float32 sums over some 200 target tokens in another order; gradients of this network are around 1e-2.
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_loss_of_a_step_is_the_mean_over_target_tokens(tmp_path: Path) -> None:
    config = recipe(tmp_path, model=model_config(dropout=0.0, attention_dropout=0.0))
    parts = micro_batches(config, 2)
    trainer = Trainer(config, show_progress=False)
    with torch.no_grad():
        log_probs = [trainer.network(b.source_ids, b.target_input_ids).log_softmax(-1) for b in parts]
    chosen = [
        float(log_probs[i][row, t, target])
        for i, batch in enumerate(parts)
        for row, targets in enumerate(batch.targets.tolist())
        for t, target in enumerate(targets)
        if target != 0
    ]
    metrics = trainer.train_step(TrainingNetwork(trainer.network, 0.1, compiled=False), parts)
    assert float(metrics.tokens) == len(chosen)
    assert float(metrics.totals[1] / metrics.tokens) == pytest.approx(-sum(chosen) / len(chosen), rel=1e-5)


def test_dropout_differs_between_steps(tmp_path: Path) -> None:
    trainer = Trainer(recipe(tmp_path), show_progress=False)
    network = TrainingNetwork(trainer.network, 0.1, compiled=False)
    (batch,) = micro_batches(trainer.config, 1)
    before = trainer.network.state_dict()
    kept = {name: tensor.clone() for name, tensor in before.items()}
    losses = []
    for _ in range(2):
        trainer.network.load_state_dict(kept)
        losses.append(float(trainer.train_step(network, [batch]).totals[1]))
    assert losses[0] != losses[1]


def test_untied_output_bias_and_scale_reach_the_loss(tmp_path: Path) -> None:
    model = model_config(tie_output=False, output_bias=True, output_scale=0.5, dropout=0.0, attention_dropout=0.0)
    config = recipe(tmp_path, model=model)
    trainer = Trainer(config, show_progress=False)
    (batch,) = micro_batches(config, 1)
    with torch.no_grad():
        assert trainer.network.output_bias is not None
        trainer.network.output_bias.normal_()
        logits = trainer.network(batch.source_ids, batch.target_input_ids)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=0, reduction="sum"
    )
    _, likelihood = TrainingNetwork(trainer.network, 0.1, compiled=False)(
        batch.source_ids, batch.source_mask, batch.target_input_ids, batch.targets
    )
    torch.testing.assert_close(likelihood, expected, rtol=1e-5, atol=0)


# Precision and compilation


def test_bfloat16_stays_near_float32_and_keeps_float32_weights(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "optimizer": optimizer_config(12),
        "model": model_config(dropout=0.0, attention_dropout=0.0),
    }
    plain = recipe(tmp_path / "float32", **changes)
    rounded = recipe(tmp_path / "bfloat16", precision="bfloat16", **changes)
    run(plain)
    trainer = run(rounded)
    assert {parameter.dtype for parameter in trainer.network.parameters()} == {torch.float32}
    losses = [[line["loss"] for line in log_of(config)] for config in (plain, rounded)]
    assert losses[0] != losses[1]
    # 8 bits of mantissa: states and logits are off by up to 2**-9, a mean over hundreds of tokens by far less.
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


def test_compiled_network_computes_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Capturing the network as one graph, whose sizes change from batch to batch, is what our code can break. The default
    # backend goes on to turn it into C++, which takes a compiler and over a minute, and is torch's own to test.
    compile_with = functools.partial(torch.compile, backend="eager", fullgraph=True)
    captured: list[object] = []

    def compile_here(function: Any, **options: Any) -> Any:
        captured.append(function)
        return compile_with(function, **options)

    monkeypatch.setattr(torch, "compile", compile_here)
    changes: dict[str, Any] = {
        "optimizer": optimizer_config(5),
        "model": model_config(dropout=0.0, attention_dropout=0.0),
        "log_every_steps": 1,
    }
    plain = recipe(tmp_path / "plain", **changes)
    compiled = recipe(tmp_path / "compiled", compile=True, **changes)
    run(plain)
    assert captured == []
    run(compiled)
    assert len(captured) == 1
    losses = [[line["loss"] for line in log_of(config)] for config in (plain, compiled)]
    # The same operations in the same order; the tolerance is for fusions that round otherwise.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# The log


def test_metrics_lines(tmp_path: Path) -> None:
    config = recipe(tmp_path, log_every_steps=5)
    trainer = run(config)
    lines = [json.loads(line) for line in (trainer.run.path / "metrics.jsonl").read_text().splitlines()]
    num_parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    assert lines[0] == {"event": "start", "step": 0, "parameters": num_parameters}
    # Every five steps, and the rest when the run ends: every step is in exactly one line.
    assert [(line["event"], line["step"]) for line in lines[1:]] == [("step", 5), ("step", 10), ("step", 12)]
    for line in lines[1:]:
        names = "event step time loss nll learning_rate gradient_norm tokens_per_second target_tokens"
        assert set(line) == set(names.split())
        assert line["tokens_per_second"] > 0
        assert line["gradient_norm"] > 0
    # Warm-up over four steps, then a cosine over the eight others; the fifth and the tenth step.
    assert lines[1]["learning_rate"] == pytest.approx(1e-3)
    batches = micro_batches(config, 5)
    assert lines[1]["target_tokens"] == sum(batch.num_target_tokens for batch in batches)


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
    assert stored.metadata == {"steps": 12, "data": [{"path": "pairs.tsv", "weight": 1.0}]}
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
    with pytest.raises(OSError, match="No space left"):
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
    with pytest.raises(ConfigurationError, match=r"learning_rate must keep the weights finite.* by step 8, got 0\.001"):
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


# Signals


def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(100_000), log_every_steps=1)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(config_to_mapping(config)), encoding="utf-8")
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from model.config import TrainingConfig, config_from_mapping\n"
        "from model.training.trainer import Trainer\n"
        "trainer = Trainer(config_from_mapping(TrainingConfig, json.load(open(sys.argv[1]))), show_progress=False)\n"
        "plain = trainer.log.step\n"
        "trainer.log.step = lambda *a: (plain(*a), print(a[0], flush=True))\n"
        "trainer.train()\n"
        "print('ended', trainer.optimizer.steps_done, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(file)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"  # the loop has begun
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    steps_done = int(output.rpartition("ended ")[2])
    assert 1 <= steps_done < 1000
    assert checkpoints_of(config) == [f"step-{steps_done:08d}"]
    assert [line["step"] for line in log_of(config)] == list(range(1, steps_done + 1))
    assert Trainer(config, show_progress=False).optimizer.steps_done == steps_done
