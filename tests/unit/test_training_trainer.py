"""Training steps of a tiny network: exact resume, accumulation, dropout, precision, compilation and signals."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import config_to_mapping
from model.training.batching import Batches
from model.training.corpus import load_corpus
from model.training.trainer import Trainer, TrainingNetwork
from tests.unit.tiny_training import (
    after_each_step,
    all_equal,
    checkpoints_of,
    flat_state,
    log_of,
    micro_batches,
    model_config,
    one_cpu_thread,
    optimizer_config,
    recipe,
    run,
    tokenizer,
    weights_of,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


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


# torch's own compiler looks at the gradients of a layer's inputs, and warns itself of it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_network_computes_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Capturing the network as one graph, whose sizes change from batch to batch, is what our code can break. The usual
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
    assert len(captured) == 2, "one encoder layer, one decoder layer"
    losses = [[line["loss"] for line in log_of(config)] for config in (plain, compiled)]
    # The same operations in the same order; the tolerance is for fusions that round otherwise.
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# Signals


def test_sigterm_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(100_000), log_every_steps=1)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(config_to_mapping(config)), encoding="utf-8")
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from model.config import config_from_mapping\n"
        "from model.training_config import TrainingConfig\n"
        "from model.training.trainer import Trainer\n"
        "trainer = Trainer(config_from_mapping(TrainingConfig, json.load(open(sys.argv[1]))), show_progress=False)\n"
        "plain = trainer.log.step\n"
        "trainer.log.step = lambda *a: (plain(*a), print(a[0], flush=True))\n"
        "trainer.train()\n"
        "print('ended', trainer.optimizer.steps_done, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
