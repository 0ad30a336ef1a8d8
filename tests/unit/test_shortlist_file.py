"""The short-list of a checkpoint folder, there and back, its damages, and the command that makes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import typer
from safetensors import safe_open
from typer.testing import CliRunner

from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_shortlist
from model.config import ModelConfig
from model.errors import CheckpointError, UnsupportedLanguageError
from model.generation.shortlist import Shortlist
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.training.shortlist_command import shortlist as shortlist_command
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

FILE = "shortlist.safetensors"
EOS = Tokenizer.eos_id
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "4.offsets": np.minimum(np.arange(VOCAB_SIZE + 1), 2).astype(np.int32),
    "4.targets": np.array([50, 60], np.uint16),
    "4.frequent": np.array([EOS, 70], np.uint16),
}


@pytest.fixture
def checkpoint() -> Checkpoint:
    config = ModelConfig(VOCAB_SIZE, d_model=4, d_ff=4, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
    return Checkpoint(config, {"matrix": torch.ones(2, 2)}, tiny_tokenizer(), shortlist=ARRAYS)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", checkpoint)
    return tmp_path / "model"


def assert_same(found: Any, expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(folder)
    assert_same(loaded.shortlist, ARRAYS)
    save_checkpoint(tmp_path / "again", loaded)
    assert_same(load_checkpoint(tmp_path / "again").shortlist, ARRAYS)


def test_others_may_read_the_file(folder: Path) -> None:
    """A service may run as another user than the one who installed the model."""
    assert (folder / FILE).stat().st_mode & 0o777 == 0o644


def test_a_checkpoint_without_one_removes_that_of_its_predecessor(checkpoint: Checkpoint, folder: Path) -> None:
    save_checkpoint(folder, dataclasses.replace(checkpoint, shortlist=None))
    assert not (folder / FILE).exists()
    assert load_checkpoint(folder).shortlist is None


def test_it_can_be_written_alone(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILE}
    changed = ARRAYS | {"4.targets": np.array([61, 51], np.uint16)[::-1]}
    save_shortlist(folder, changed, tiny_tokenizer())
    assert_same(load_checkpoint(folder).shortlist, changed)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILE} == before


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_told(folder: Path, keep: float) -> None:
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match=FILE):
        load_checkpoint(folder)


def test_garbage_is_told(folder: Path) -> None:
    (folder / FILE).write_bytes(b"\xff\xfe garbage \x00" * 50)
    with pytest.raises(CheckpointError, match=FILE):
        load_checkpoint(folder)


def test_a_folder_in_its_place_is_told(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()
    with pytest.raises(CheckpointError, match=FILE):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_number_formats_that_numpy_lacks_are_told(folder: Path, kind: torch.dtype) -> None:
    from safetensors.torch import save_file

    with safe_open(folder / FILE, framework="numpy") as stored:
        metadata = stored.metadata()
    save_file({"4.offsets": torch.ones(2).to(kind)}, folder / FILE, metadata)
    with pytest.raises(CheckpointError, match=FILE):
        load_checkpoint(folder)


def test_one_that_was_made_for_another_tokenizer_is_told(folder: Path, tmp_path: Path) -> None:
    other = train_tokenizer(sentences()[1:], tmp_path / "other.model", vocab_size=VOCAB_SIZE, num_threads=1)
    assert other.serialized != tiny_tokenizer().serialized
    save_shortlist(folder, ARRAYS, other)
    with pytest.raises(CheckpointError, match=r"shortlist\.safetensors: tokenizer must be that of the model"):
        load_checkpoint(folder)


@pytest.mark.parametrize("metadata", [None, {}, {"tokenizer": "x"}])
def test_one_that_names_no_tokenizer_is_told(folder: Path, metadata: dict[str, str] | None) -> None:
    safetensors.numpy.save_file(ARRAYS, folder / FILE, metadata)
    with pytest.raises(CheckpointError, match="tokenizer must be that of the model"):
        load_checkpoint(folder)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match=f"cannot write .*{FILE}"):
        save_shortlist(tmp_path, ARRAYS, tiny_tokenizer())


# The command

WORDS = {"ba": "zen", "con": "xo", "fri": "ton", "gla": "lu", "ker": "mi"}


def command() -> typer.Typer:
    application = typer.Typer()
    application.command()(shortlist_command)
    return application


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    random = Random(3)
    lines = []
    for _ in range(400):
        words = random.choices(list(WORDS), k=random.randint(3, 6))
        lines.append(f"{' '.join(words)}\t{' '.join(WORDS[word] for word in words)}\n")
    path = tmp_path / "corpus.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_the_command_adds_a_shortlist_to_a_model(corpus: Path, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILE}
    options = ["--model", str(folder), "--best", "6", "--frequent", "2"]
    result = CliRunner().invoke(command(), [str(corpus), *options], catch_exceptions=False)
    assert result.exit_code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILE} == before
    loaded = load_checkpoint(folder)
    assert loaded.shortlist is not None
    made = Shortlist(loaded.shortlist, VOCAB_SIZE, EOS)
    tokenizer = loaded.tokenizer
    for french, english in WORDS.items():
        for text, translation, target in ((french, english, "en"), (english, french, "fr")):
            assert {*tokenizer.encode_target(translation)} <= {*made.candidates(tokenizer.encode_source(text, target))}
    shown = result.stdout
    assert f"wrote {folder / FILE}" in shown
    assert "fr to en" in shown
    assert "en to fr" in shown
    assert "100.00% of their tokens covered, 100.00% of them whole" in shown


def test_the_command_writes_elsewhere_and_does_the_same_again(corpus: Path, folder: Path, tmp_path: Path) -> None:
    before = (folder / FILE).read_bytes()
    for out in ("a", "b"):
        arguments = [str(corpus), "--model", str(folder), "--output", str(tmp_path / out)]
        assert CliRunner().invoke(command(), arguments, catch_exceptions=False).exit_code == 0
    assert (folder / FILE).read_bytes() == before
    assert [path.name for path in (tmp_path / "a").iterdir()] == [FILE]
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_the_command_refuses_a_language_that_the_model_lacks(corpus: Path, folder: Path) -> None:
    arguments = [str(corpus), "--model", str(folder), "--languages", "fr", "de"]
    with pytest.raises(UnsupportedLanguageError, match="de"):
        CliRunner().invoke(command(), arguments, catch_exceptions=False)
