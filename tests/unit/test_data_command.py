"""The command `dragoman data`: counts and reasons, JSON, kept pairs on request, and nothing written otherwise."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from model.cli import cli, run
from model.training.corpus import file_hash
from tests.unit.tiny_training import write_pairs

RECIPE = """
run_directory = "run"
tokenizer = "tokenizer.model"
model = {{ vocab_size = 320 }}
[data]
directory = "data"
sources = [{{ path = "a.tsv" }}, {{ path = "b.tsv.xz", weight = 3.0 }}]
{filters}
"""
FIRST = [
    ("Le chat dort.", "The cat is asleep."),
    ("Le chat dort.", "The cat is asleep."),
    ("La version 3 est sortie.", "Version 3 is out."),
    ("La version 4 est sortie.", "Version 5 is out."),
    ("...", "..."),
]
SECOND = [("Le chat dort.", "The cat is asleep."), ("le chat  dort !", "The cat is asleep!"), ("Oui.", "Yes.")]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "data" / "a.tsv", FIRST)
    text = "".join(f"{first}\t{second}\n" for first, second in SECOND)
    (tmp_path / "data" / "b.tsv.xz").write_bytes(lzma.compress(text.encode()))
    return write_recipe(tmp_path, "")


def write_recipe(folder: Path, filters: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(filters=filters), encoding="utf-8")
    return file


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run(cli, ["data", *map(str, arguments), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def all_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_counts_and_reasons_of_each_file(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = all_files(recipe.parent)
    report = found(capsys, recipe)
    assert report["filters"] is None
    assert report["sources"] == [
        {
            "path": "a.tsv",
            "blake2b": file_hash(recipe.parent / "data" / "a.tsv"),
            "lines": 5,
            "kept": 3,
            "rejected": {"duplicate": 1, "no letters": 1},
        },
        {
            "path": "b.tsv.xz",
            "blake2b": file_hash(recipe.parent / "data" / "b.tsv.xz"),
            "lines": 3,
            "kept": 2,
            "rejected": {"duplicate": 1},
        },
    ]
    assert all_files(recipe.parent) == before


def test_strict_applies_every_rule(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = found(capsys, recipe, "--strict")
    assert report["filters"]["near_duplicates"] is True
    assert [source["rejected"] for source in report["sources"]] == [
        {"different numbers": 1, "duplicate": 1, "no letters": 1},
        {"duplicate": 1, "near duplicate": 1},
    ]


def test_the_recipes_own_rules_are_applied(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(recipe.parent, "[data.filters]\nnumbers = true")
    report = found(capsys, recipe)
    assert report["filters"]["numbers"] is True
    assert report["sources"][0]["rejected"] == {"different numbers": 1, "duplicate": 1, "no letters": 1}
    assert report["sources"][1]["rejected"] == {"duplicate": 1}


def test_kept_pairs_are_written_on_request_and_always_the_same(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found(capsys, recipe, "--output", tmp_path / "one")
    found(capsys, recipe, "--output", tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["a.tsv.xz", "b.tsv.xz"]
    for name in ("a.tsv.xz", "b.tsv.xz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert lzma.decompress((tmp_path / "one" / "a.tsv.xz").read_bytes()).decode() == (
        "Le chat dort.\tThe cat is asleep.\nLa version 3 est sortie.\tVersion 3 is out.\n"
        "La version 4 est sortie.\tVersion 5 is out.\n"
    )
    assert lzma.decompress((tmp_path / "one" / "b.tsv.xz").read_bytes()).decode() == (
        "le chat  dort !\tThe cat is asleep!\nOui.\tYes.\n"
    )


def test_a_table_for_people(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["data", str(recipe)]) == 0
    table = capsys.readouterr().out
    rows = {line.split()[1]: line.split() for line in table.splitlines() if line.startswith("│")}
    assert rows["a.tsv"][3:8:2] == ["5", "3", "60.0%"]
    assert rows["all"][3:8:2] == ["8", "5", "62.5%"]
    assert "duplicate 2" in table


def test_corpus_files_are_never_overwritten(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (recipe.parent / "data" / "b.tsv.xz").read_bytes()
    assert run(cli, ["data", str(recipe), "--output", str(recipe.parent / "data")]) == 2
    assert "is a corpus file itself" in capsys.readouterr().err
    assert (recipe.parent / "data" / "b.tsv.xz").read_bytes() == before
    assert all_files(recipe.parent / "data") == {"a.tsv", "b.tsv.xz"}


def test_two_files_of_one_name_are_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(recipe.parent / "data" / "more" / "a.tsv", FIRST)
    text = recipe.read_text(encoding="utf-8").replace("b.tsv.xz", "more/a.tsv")
    recipe.write_text(text, encoding="utf-8")
    assert run(cli, ["data", str(recipe), "--output", str(recipe.parent / "out")]) == 2
    assert "2 corpus files would be written to" in capsys.readouterr().err


def test_a_missing_file_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "data" / "a.tsv").unlink()
    assert run(cli, ["data", str(recipe)]) == 2
    assert "cannot read" in capsys.readouterr().err
