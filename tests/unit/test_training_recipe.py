"""A TOML file becomes a checked TrainingConfig whose paths start at the file's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import ConfigurationError
from model.training.recipe import load_recipe
from model.training_config import SourceConfig

RECIPES = Path(__file__).parents[2] / "recipes"
TEXT = """
run_directory = "runs/first"
tokenizer = "../tokenizer.model"
seed = 5

[model]
vocab_size = 8000
d_model = 64

[optimizer]
name = "muon"
learning_rate = 1

[data]
directory = "~/text"
sources = [{ path = "a.tsv.xz", weight = 2 }, { path = "b.tsv" }]

[evaluation]
directory = "/dev-sets"
sets = ["one", "two"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_defaults_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir("/")  # paths must not depend on where the command is run
    config = load_recipe(write(tmp_path, TEXT))
    assert Path(config.run_directory) == tmp_path / "runs" / "first"
    assert Path(config.tokenizer).resolve() == (tmp_path.parent / "tokenizer.model").resolve()
    assert config.data.directory == "/home/someone/text"
    assert config.evaluation is not None
    assert (config.evaluation.directory, config.evaluation.sets) == ("/dev-sets", ("one", "two"))
    assert config.data.sources == (SourceConfig("a.tsv.xz", 2.0), SourceConfig("b.tsv", 1.0))
    assert config.data.languages == ("fr", "en")
    assert (config.model.d_model, config.model.num_heads, config.seed) == (64, 8, 5)
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.initial_checkpoint is None


def test_initial_checkpoint_starts_at_the_folder_too(tmp_path: Path) -> None:
    config = load_recipe(write(tmp_path, 'initial_checkpoint = "base"\n' + TEXT))
    assert config.initial_checkpoint is not None
    assert Path(config.initial_checkpoint) == tmp_path / "base"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 5", "seed = five"), "recipe must be TOML"),
        (("seed = 5", "sead = 5"), "sead must be one of run_directory, tokenizer"),
        (("seed = 5", 'seed = "5"'), "seed must be of type int, got '5'"),
        (("d_model = 64", "d_model = 63"), r"num_heads must divide d_model \(63\), got 8"),
        (("weight = 2", "weight = -2"), "weight must be above 0"),
        (('name = "muon"', 'name = "sgd"'), "name must be one of adamw, muon, got 'sgd'"),
        (('tokenizer = "../tokenizer.model"', ""), "tokenizer must be given"),
    ],
)
def test_what_is_wrong_is_told_by_name(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in TEXT
    with pytest.raises(ConfigurationError, match=message):
        load_recipe(write(tmp_path, TEXT.replace(*change)))


def test_missing_or_undecodable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"recipe must be a readable file \(No such file"):
        load_recipe(tmp_path / "absent.toml")
    path = tmp_path / "run.toml"
    path.write_bytes(b'tokenizer = "caf\xe9"')
    with pytest.raises(ConfigurationError, match="recipe must be TOML"):
        load_recipe(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.name)
def test_our_recipes_are_valid(path: Path) -> None:
    config = load_recipe(path)
    assert config.evaluation is not None
    assert config.evaluation.every_steps % config.log_every_steps == 0


def test_a_source_of_the_recipe_itself_starts_at_its_folder(tmp_path: Path) -> None:
    config = load_recipe(write(tmp_path, TEXT.replace('"b.tsv"', '"./own.tsv"')))
    assert [Path(source.path) for source in config.data.sources] == [Path("a.tsv.xz"), tmp_path / "own.tsv"]
