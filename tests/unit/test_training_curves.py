"""The course of training runs: what is read of a log, the numbers that sum it up, and pictures that can be drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from model.cli import cli, run
from model.errors import CorpusError
from model.evaluation.training_curves import draw_curves, read_curve


def write_log(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def step(number: int, **values: float) -> dict[str, Any]:
    plain = {"nll": 5.0, "learning_rate": 1e-3, "tokens_per_second": 100.0, "target_tokens": 400.0}
    return {"event": "step", "step": number, **plain, **values}


def evaluation(number: int, bleu: float) -> dict[str, Any]:
    scores = {"news.fr-en.bleu": bleu, "news.fr-en.chrf": 50.0, "talks.en-fr.bleu": bleu + 1}
    return {"event": "evaluation", "step": number, "scores": scores, "samples": []}


LOG = [
    {"event": "start", "step": 0, "parameters": 7},
    step(10),
    step(20, nll=4.0, tokens_per_second=200.0),
    evaluation(20, 12.0),
    {"event": "start", "step": 20, "parameters": 7},
    step(20, nll=4.5, target_tokens=600.0),
    step(30, nll=3.0),
    evaluation(30, 11.0),
]


def test_numbers_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    summary = read_curve(write_log(tmp_path / "first", LOG)).summary()
    assert summary == {
        "run": "first",
        "steps": 30,
        "target_tokens": 1400.0,
        "seconds": 400 / 100 + 600 / 100 + 400 / 100,
        "tokens_per_second": 100.0,
        "nll": 3.0,
        "bleu": {"news.fr-en": 11.0, "talks.en-fr": 12.0},
        "best_bleu": {"news.fr-en": 12.0, "talks.en-fr": 13.0},
    }


@pytest.mark.parametrize("lines", [[], [{"event": "start", "step": 0}]])
def test_a_run_without_a_step_is_an_error(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    with pytest.raises(CorpusError, match="has no step yet"):
        read_curve(write_log(tmp_path / "run", lines))


def test_a_missing_or_damaged_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read the log .*metrics\.jsonl"):
        read_curve(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"event": "st', encoding="utf-8")
    with pytest.raises(CorpusError, match="cannot read the log"):
        read_curve(tmp_path)


def test_the_command_draws_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_log(tmp_path / "first", LOG), write_log(tmp_path / "second", LOG[:2])]
    picture = tmp_path / "pictures" / "runs.svg"
    words = ["plot", *map(str, runs), "-o", str(picture), "--in-turn"]
    assert run(cli, words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "first: 30 steps, 1,400 target tokens in 0.2 minutes of training, negative log-likelihood 3.000",
        "  news.fr-en: BLEU 11.00, best 12.00",
        "  talks.en-fr: BLEU 12.00, best 13.00",
        "second: 10 steps, 400 target tokens in 0.1 minutes of training, negative log-likelihood 5.000",
    ]
    assert "<svg" in picture.read_text(encoding="utf-8")
    assert run(cli, [*words, "--json"]) == 0
    assert [json.loads(line)["run"] for line in capsys.readouterr().out.splitlines()] == ["first", "second"]


def test_stages_are_drawn_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: dict[str, list[float]] = {}
    monkeypatch.setattr(Axes, "plot", lambda _, across, *__, label, **___: drawn.setdefault(label, list(across)))
    curves = [read_curve(write_log(tmp_path / name, LOG)) for name in ("first", "second")]
    draw_curves(tmp_path / "a.png", curves, in_turn=True)
    assert drawn["first"] == [10, 20, 30]
    assert drawn["second"] == [40, 50, 60]
    assert drawn["second: news.fr-en"] == [50, 60]
    drawn.clear()
    draw_curves(tmp_path / "b.png", curves)
    assert drawn["second"] == [10, 20, 30]


def test_a_picture_needs_a_known_ending_and_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_log(tmp_path / "run", LOG)
    assert run(cli, ["plot", str(folder), "-o", str(tmp_path / "runs.gif")]) == 2
    assert "must end in .svg, .png, .pdf" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes the import fail
    assert run(cli, ["plot", str(folder), "-o", str(tmp_path / "runs.svg")]) == 2
    assert "extra 'benchmark'" in capsys.readouterr().err
