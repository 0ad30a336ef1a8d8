"""The commands that make and measure models: what reaches the rooms that do the work, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.config import EngineConfig, GenerationConfig, ModelConfig, config_from_mapping
from model.errors import CheckpointError
from model.evaluation.evaluate import EvaluationResult
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.training_config import TrainingConfig
from tests.unit.stub_translator import Install, StubTranslator


def _sentences() -> list[str]:
    """Return words of random letters, so that there are pieces enough for a vocabulary beyond the 256 bytes."""
    random = Random(1)
    words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyzé", k=6)) for _ in range(2000)]
    return [" ".join(words[n : n + 5]) for n in range(0, 2000, 5)]


def test_tokenizer_is_trained_from_corpora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.tsv"
    lines = [f"{sentence}\tnuméro {number}\n" for number, sentence in enumerate(_sentences())]
    corpus.write_text("".join(lines), encoding="utf-8")
    out = tmp_path / "new" / "tokenizer.model"
    assert main(["tokenizer", str(corpus), "--out", str(out), "--vocab-size", "580"]) == 0
    trained = Tokenizer.load(out)
    assert trained.vocab_size == 580
    assert trained.decode(trained.encode_target("numéro 7")) == "numéro 7"
    assert str(out) in capsys.readouterr().out


def test_a_damaged_corpus_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("two\tcolumns\none column\n", encoding="utf-8")
    assert main(["tokenizer", str(corpus), "--out", str(tmp_path / "out")]) == 2
    assert f"{corpus}, line 2: must have two tab-separated columns" in capsys.readouterr().err


def test_detector_is_trained_from_corpora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from model.text.languages import LanguageDetector

    # Two alphabets without a common letter, so that anything but a perfect detector is a fault of the command.
    random = Random(1)
    lines = [["".join(random.choices(letters, k=5)) for letters in ("abcdef", "uvwxyz")] for _ in range(400)]
    corpus = tmp_path / "corpus.tsv"
    corpus.write_text("".join(f"{first} {first}\t{second} {second}\n" for first, second in lines), encoding="utf-8")
    out = tmp_path / "detector.npz"
    assert main(["detector", str(corpus), "--out", str(out), "--languages", "en", "fr"]) == 0
    found = LanguageDetector(out).detect("fedcba", ("fr", "en"))
    assert found[0].language == "en"
    shown = capsys.readouterr().out
    assert f"wrote {out}" in shown
    assert "1 words 100.00%" in shown


def test_train_gives_the_recipe_to_the_trainer(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        'run_directory = "run"\ntokenizer = "t.model"\nseed = 7\n[model]\nvocab_size = 900\n'
        '[data]\ndirectory = "data"\nsources = [{ path = "pairs.tsv" }]\n',
        encoding="utf-8",
    )
    trained: list[TrainingConfig] = []

    def train(config: TrainingConfig) -> Path:
        trained.append(config)
        return Path("run/checkpoints/step-00000010")

    install("model.training.trainer", train=train)
    assert main(["train", str(recipe)]) == 0
    assert [(config.seed, config.run_directory) for config in trained] == [(7, str(tmp_path / "run"))]
    shown, _, rest = capsys.readouterr().out.rpartition("newest checkpoint: ")
    assert rest == "run/checkpoints/step-00000010\n"
    # The whole recipe is shown, defaults included.
    assert config_from_mapping(TrainingConfig, json.loads(shown)) == trained[0]


def test_train_says_which_part_of_a_recipe_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "run.toml"
    recipe.write_text("learning_speed = 3\n", encoding="utf-8")
    assert main(["train", str(recipe)]) == 2
    assert capsys.readouterr().err.startswith("dragoman: learning_speed must be one of ")


@pytest.fixture
def small_tokenizer(tmp_path: Path) -> Tokenizer:
    """Return a tokeniser with as good as no pieces beside the bytes."""
    return train_tokenizer(_sentences(), tmp_path / "tokenizer.model", vocab_size=580)


@pytest.mark.parametrize(("arguments", "dtype"), [([], "F16"), (["--format", "float32", "--name", "mine"], "F32")])
def test_export_writes_the_newest_checkpoint_of_a_run(
    arguments: list[str], dtype: str, small_tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ModelConfig(vocab_size=580, d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    run, out = tmp_path / "run", tmp_path / "out"
    for step in (9, 10):
        weights = {"matrix": torch.full((4, 4), float(step))}
        checkpoint = Checkpoint(config, weights, small_tokenizer, {"steps": step})
        save_checkpoint(run / "checkpoints" / f"step-{step:08d}", checkpoint)
    assert main(["export", str(run), str(out), *arguments]) == 0
    exported = load_checkpoint(out)
    assert torch.equal(exported.weights["matrix"], torch.full((4, 4), 10.0))
    assert exported.config == config
    assert exported.metadata["steps"] == 10
    assert exported.metadata["name"] == ("mine" if arguments else "out")
    with safe_open(out / "weights.safetensors", framework="pt") as stored:
        assert stored.get_slice("matrix").get_dtype() == dtype
    assert f"wrote {out}: " in capsys.readouterr().out
    # One checkpoint of the run can be named as well.
    assert main(["export", str(run / "checkpoints" / "step-00000009"), str(out)]) == 0
    assert load_checkpoint(out).metadata["steps"] == 9


def test_export_of_a_folder_without_a_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch, translator: StubTranslator) -> list[tuple[Any, ...]]:
    """Return the arguments of all evaluations; a set's BLEU is its number of sentences."""
    calls: list[tuple[Any, ...]] = []

    def evaluate_pairs(
        given: StubTranslator,
        sources: Sequence[str],
        references: Sequence[str],
        source: str,
        target: str,
        config: GenerationConfig,
        glossaries: object = (),
    ) -> EvaluationResult:
        assert given is translator
        assert not glossaries
        calls.append((list(sources), list(references), source, target, config))
        return EvaluationResult(len(sources), 50.0, "bleu|1", "chrf|2", 1.5, tuple(map(str.upper, sources)), 0)

    monkeypatch.setattr("model.evaluation.evaluate.evaluate_pairs", evaluate_pairs)
    return calls


def test_evaluate_scores_a_pair_of_files(
    evaluated: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.fr").write_text("un\ndeux\n", encoding="utf-8")
    (tmp_path / "b.en").write_text("one\ntwo\n", encoding="utf-8")
    files = [str(tmp_path / "a.fr"), str(tmp_path / "b.en")]
    out = tmp_path / "out.txt"
    languages = ["--source", "fr", "--target", "en"]
    assert main(["evaluate", *files, *languages, "--beam-size", "1", "--output", str(out)]) == 0
    assert evaluated == [(["un", "deux"], ["one", "two"], "fr", "en", GenerationConfig(beam_size=1))]
    shown = capsys.readouterr().out
    assert "BLEU 2.00  bleu|1" in shown
    assert "chrF2++ 50.00  chrf|2" in shown
    assert out.read_text(encoding="utf-8") == "UN\nDEUX\n"
    assert main(["evaluate", *files, *languages, "--json", "--max-sentences", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "set": "a",
        "source": "fr",
        "target": "en",
        "sentences": 1,
        "bleu": 1.0,
        "chrf": 50.0,
        "bleu_signature": "bleu|1",
        "chrf_signature": "chrf|2",
        "seconds": 1.5,
        "warnings": 0,
        "warning_codes": {},
    }


def test_evaluate_takes_all_dev_sets_in_both_directions(
    evaluated: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("short", "long"):
        (tmp_path / f"{name}.fr").write_text(f"{name} fr\n", encoding="utf-8")
        (tmp_path / f"{name}.en").write_text(f"{name} en\n", encoding="utf-8")
    (tmp_path / "alone.fr").write_text("seul\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("not a set\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["evaluate", "--dev-dir", str(tmp_path), "--json", "--output", str(out)]) == 0
    assert [call[:4] for call in evaluated] == [
        ([f"{name} {source}"], [f"{name} {target}"], source, target)
        for name in ("long", "short")
        for source, target in (("en", "fr"), ("fr", "en"))
    ]
    assert [json.loads(line)["set"] for line in capsys.readouterr().out.splitlines()] == [
        "long",
        "long",
        "short",
        "short",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["long.en-fr", "long.fr-en", "short.en-fr", "short.fr-en"]


@pytest.mark.parametrize(
    ("sources", "references", "languages", "message"),
    [
        ("un\ndeux\n", "one\n", ["-s", "fr", "-t", "en"], "got 2 and 1"),
        ("", "", ["-s", "fr", "-t", "en"], "got 0 and 0"),
        ("un\n", "one\n", ["-s", "fr"], "--source and --target"),
    ],
)
def test_evaluate_refuses_files_that_do_not_fit(
    sources: str,
    references: str,
    languages: list[str],
    message: str,
    evaluated: list[tuple[Any, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a").write_text(sources, encoding="utf-8")
    (tmp_path / "b").write_text(references, encoding="utf-8")
    assert main(["evaluate", str(tmp_path / "a"), str(tmp_path / "b"), *languages]) == 2
    assert message in capsys.readouterr().err
    assert evaluated == []


def test_evaluate_refuses_a_folder_without_sets(
    evaluated: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--dev-dir", str(tmp_path)]) == 2
    assert "NAME.LANGUAGE" in capsys.readouterr().err
    assert evaluated == []


def test_doctor_reports_line_by_line(translator: StubTranslator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    subjects = [line[5:].partition(":")[0] for line in lines]
    assert {"python", "machine", "versions", "workers", "device", "model", "fr to en", "en to fr"} <= set(subjects)
    assert any(line.startswith("ok   device: cpu, auto") for line in lines)
    assert "parameters 7" in next(line for line in lines if "model:" in line)
    assert translator.closed is True


def test_doctor_fails_where_something_is_wrong(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        @classmethod
        def load(cls, path: Path | None, _: EngineConfig) -> StubTranslator:
            raise CheckpointError(f"no config.json in {path}")

    install("model.translator", Translator=Broken)
    assert main(["doctor", "--model", str(tmp_path), "--device", "nonsense"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"fail model: CheckpointError: no config.json in {tmp_path}" in lines
    assert any(line.startswith("fail torch: ") and "nonsense" in line for line in lines)
    assert any(line.startswith("ok   python: ") for line in lines)
