"""A corpus, tokeniser and recipe so small that a test can train on them; nothing here asserts anything."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from model.config import DataConfig, ModelConfig, OptimizerConfig, SourceConfig, TrainingConfig
from model.text.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZE = 320

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
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on networks this small, more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
