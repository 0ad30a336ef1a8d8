"""Two processes under torchrun, connected by gloo, against one process that sees the same batches."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import config_to_mapping
from model.training.distributed import Ranks, join_ranks
from model.training.trainer import Trainer
from model.training_config import OptimizerConfig, TrainingConfig
from tests.unit.tiny_training import model_config, one_cpu_thread, recipe

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""A hang is a failure; starting three interpreters on a busy machine can take a minute."""
NUM_STEPS = 8
STOP_AFTER = 3
RANK_PROGRAM = f"""
import json, os, signal, sys
from model.config import config_from_mapping
from model.training_config import TrainingConfig
from model.training.trainer import Trainer

config = config_from_mapping(TrainingConfig, json.load(open(sys.argv[1])))
trainer = Trainer(config, show_progress=False)
plain = trainer.train_step

def train_step(*arguments):
    metrics = plain(*arguments)
    if sys.argv[2] == "stop" and trainer.ranks.rank == 1 and trainer.optimizer.steps_done == {STOP_AFTER}:
        os.kill(os.getpid(), signal.SIGTERM)
    return metrics

trainer.train_step = train_step
trainer.train()
total = sum(float(p.detach().double().sum()) for p in trainer.network.parameters())
with open(sys.argv[1] + f".rank-{{trainer.ranks.rank}}", "w") as file:
    json.dump([trainer.ranks.world_size, trainer.optimizer.steps_done, total], file)
"""


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


def launch(folder: Path, config: TrainingConfig, mode: str) -> list[list[Any]]:
    """Run the recipe in two processes; return world size, steps done and sum of the weights of each rank."""
    program, file = folder / "rank.py", folder / "recipe.json"
    program.write_text(RANK_PROGRAM, encoding="utf-8")
    file.write_text(json.dumps(config_to_mapping(config)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [*command, str(program), str(file), mode],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the ranks too, should they hang
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return [json.loads((folder / f"recipe.json.rank-{rank}").read_text()) for rank in (0, 1)]


def events_of(config: TrainingConfig) -> list[dict[str, Any]]:
    lines = (Path(config.run_directory) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_equal_one_with_accumulation_even_when_one_of_them_is_interrupted(tmp_path: Path) -> None:
    one = recipe(
        tmp_path / "one",
        model=model_config(dropout=0.0, attention_dropout=0.0),
        optimizer=OptimizerConfig(name="muon", warmup_steps=4, total_steps=NUM_STEPS),
        accumulation_steps=4,
        log_every_steps=1,
    )
    alone = Trainer(one, show_progress=False)
    alone.train()

    two = dataclasses.replace(one, run_directory=str(tmp_path / "two" / "run"), accumulation_steps=2)
    (tmp_path / "two").mkdir()
    stopped = launch(tmp_path / "two", two, "stop")
    # The signal reached one rank only; both end after the same step, with the same weights.
    assert stopped[0] == stopped[1]
    assert stopped[0][:2] == [2, STOP_AFTER]
    checkpoints = Path(two.run_directory) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == [f"step-{STOP_AFTER:08d}"]

    finished = launch(tmp_path / "two", two, "finish")
    assert finished[0] == finished[1]
    assert finished[0][:2] == [2, NUM_STEPS]

    events = [(event["event"], event["step"]) for event in events_of(two)]
    steps = [("step", step) for step in range(1, NUM_STEPS + 1)]
    # Every line once: only the main rank writes.
    assert events == [("start", 0), *steps[:STOP_AFTER], ("start", STOP_AFTER), *steps[STOP_AFTER:]]
    assert len(list((Path(two.run_directory) / "tensorboard").iterdir())) == 2, "one file for each of the two launches"
    curves = [[event for event in events_of(config) if event["event"] == "step"] for config in (one, two)]
    assert [e["target_tokens"] for e in curves[0]] == [e["target_tokens"] for e in curves[1]]
    for name in ("loss", "nll", "gradient_norm"):
        # The same float32 numbers are summed in another order; over eight steps the difference stays near rounding.
        assert [e[name] for e in curves[1]] == pytest.approx([e[name] for e in curves[0]], rel=1e-5)
    state = Trainer(two, show_progress=False)
    for (key, ours), theirs in zip(state.network.named_parameters(), alone.network.parameters(), strict=True):
        # The softmax does not see a key's bias: its gradient is nothing but rounding, which Adam divides by itself.
        if not key.endswith("k_proj.bias"):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=key)


def test_one_process_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = join_ranks("cpu")
    assert ranks == Ranks(0, 1, torch.device("cpu"))
    assert ranks.is_main
    assert not torch.distributed.is_initialized()
    value = torch.tensor([2.0, 3.0])
    assert ranks.sum(value).tolist() == [2.0, 3.0]
    assert ranks.any(True) is True
    assert ranks.any(False) is False
    module = torch.nn.Linear(2, 2)
    assert ranks.wrap(module) is module
    with ranks.no_sync(module):
        ranks.barrier()
    ranks.close()
