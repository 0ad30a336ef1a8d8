"""A corpus, tokeniser and recipe so small that a test can train on them, and what a test asks of such a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.training.batching import Batch, Batches
from model.training.corpus import load_corpus
from model.training.run_log import StepMetrics
from model.training.trainer import Trainer
from model.training_config import DataConfig, OptimizerConfig, SourceConfig, TrainingConfig

VOCAB_SIZE = 320
NOT_REPEATED = ("time", "tokens_per_second", "flop_utilization", "peak_flops")
"""What the log says of the clock."""

_NOUNS = (("le chat", "the cat"), ("la maison", "the house"), ("le train", "the train"), ("une amie", "a friend"))
_VERBS = (("voit", "sees"), ("cherche", "looks for"), ("aime bien", "quite likes"), ("attend", "is waiting for"))
_PLACES = (
    ("", ""),
    (" ici", " here"),
    (" près de la gare", " near the station"),
    (" depuis deux heures", " for hours"),
)


def sentence_pairs() -> list[tuple[str, str]]:
    """Return 256 different French and English sentences of 4 to 12 words."""
    combinations = itertools.product(_NOUNS, _VERBS, _NOUNS, _PLACES)
    return [tuple(" ".join((a[i], b[i], c[i])) + d[i] + "." for i in (0, 1)) for a, b, c, d in combinations]  # type: ignore[misc]


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """Write tab-separated pairs and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{first}\t{second}\n" for first, second in pairs), encoding="utf-8")
    return path


@functools.cache
def tokenizer() -> Tokenizer:
    """Return a tokeniser of 320 tokens, trained on the sentences."""
    sentences = [side for pair in sentence_pairs() for side in pair]
    with tempfile.TemporaryDirectory() as folder:
        return train_tokenizer(sentences, Path(folder) / "tokenizer.model", vocab_size=VOCAB_SIZE, num_threads=1)


def model_config(**changes: Any) -> ModelConfig:
    """Return a network of one layer on either side, with dropout."""
    small = ModelConfig(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        max_source_length=66,
        max_target_length=66,
        dropout=0.1,
        attention_dropout=0.1,
    )
    return dataclasses.replace(small, **changes)


def recipe(folder: Path, **changes: Any) -> TrainingConfig:
    """Return a run of 12 steps in ``folder``, whose corpus and tokeniser are written there too."""
    write_pairs(folder / "data" / "pairs.tsv", sentence_pairs())
    (folder / "tokenizer.model").write_bytes(tokenizer().serialized)
    config = TrainingConfig(
        run_directory=str(folder / "run"),
        tokenizer=str(folder / "tokenizer.model"),
        model=model_config(),
        data=DataConfig(str(folder / "data"), (SourceConfig("pairs.tsv"),), max_tokens=64),
        optimizer=OptimizerConfig(name="muon", warmup_steps=4, total_steps=12),
        batch_tokens=1024,
        ema_decay=0.9,
        log_every_steps=2,
        checkpoint_every_steps=100,
    )
    return dataclasses.replace(config, **changes)


@contextlib.contextmanager
def one_cpu_thread() -> Iterator[None]:
    """Run torch on one thread of the CPU: on networks this small, more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch("torch.cuda.is_available", return_value=False):
            yield
    finally:
        torch.set_num_threads(before)


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
