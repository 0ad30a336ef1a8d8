"""The engine measured alone, and the command: what is run, counted, refused and shown; no speed is asserted."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from model.config import EngineConfig, GenerationConfig
from model.errors import ConfigurationError, CorpusError
from model.evaluation.benchmark import SENTENCES, Workload, measure, measure_engine
from model.evaluation.latency import Latency, percentile
from tests.unit.stub_translator import StubPending, StubTranslation, StubTranslator

TEXTS = tuple(f"text {number}" for number in range(10))


def test_percentiles_are_nearest_ranks() -> None:
    # Reference: the nearest-rank definition's textbook example, 15 20 35 40 50.
    values = [35.0, 20.0, 15.0, 50.0, 40.0]
    assert [percentile(values, percent) for percent in (5, 30, 40, 50, 100)] == [15.0, 20.0, 20.0, 35.0, 50.0]
    assert percentile([7.0], 95) == 7.0


def test_latencies_are_in_milliseconds() -> None:
    latency = Latency.of([number / 1000 for number in range(1, 101)])
    assert (latency.p50_ms, latency.p95_ms, latency.p99_ms) == (50.0, 95.0, 99.0)
    assert latency.mean_ms == pytest.approx(50.5)


# Texts


def test_a_workload_has_the_lines_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("un\r\ndeux\u2028x\n\ntrois\n".encode())
    (tmp_path / "b").write_bytes(b"one\ntwo\n\nthree\n")
    workload = Workload.read(tmp_path / "a", tmp_path / "b", "fr", "en", None)
    assert workload.texts == ("un", "deux\u2028x", "", "trois")
    assert workload.references == ("one", "two", "", "three")
    assert Workload.read(tmp_path / "a", tmp_path / "b", "fr", "en", 2).references == ("one", "two")
    assert Workload.read(tmp_path / "a", None, "fr", "en", None).references == ()


def test_a_workload_without_a_file_has_our_own_sentences() -> None:
    assert Workload.read(None, None, "fr", "en", None).texts == SENTENCES["fr"]
    assert Workload.read(None, None, "en", "fr", 3).texts == SENTENCES["en"][:3]


@pytest.mark.parametrize(
    ("references", "message"),
    [(b"one\n", "must have as many lines, got 2 and 1"), (b"\xff\n", "cannot read")],
)
def test_files_that_do_not_fit_together_are_refused(references: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"un\ndeux\n")
    (tmp_path / "b").write_bytes(references)
    with pytest.raises(CorpusError, match=message):
        Workload.read(tmp_path / "a", tmp_path / "b", "fr", "en", None)


def test_a_workload_must_have_texts_and_as_many_references() -> None:
    with pytest.raises(CorpusError, match="nothing must have at least one text"):
        Workload((), (), "fr", "en", "nothing")
    with pytest.raises(CorpusError, match="2 references must match 1 texts of x"):
        Workload(("un",), ("one", "two"), "fr", "en", "x")


# One run


def test_callers_are_kept_busy_and_every_text_is_counted_once() -> None:
    running: list[tuple[str, StubPending]] = []
    most = 0
    submitted: list[str] = []

    def submit(text: str) -> Any:
        nonlocal most
        pending = StubPending()
        submitted.append(text)
        running.append((text, pending))
        most = max(most, len(running))
        if len(running) == 3 or len(submitted) == 10:  # a batch is full, or no text will follow
            done, running[:] = running[::-1], []  # the last one first, so that order has to be restored
            for name, each in done:
                each.future.set_result(StubTranslation(f"<{name}>"))
        return pending

    result, translations = measure(submit, TEXTS, 3, 512)
    assert submitted == list(TEXTS)
    assert most == 3
    assert [translation.text for translation in translations] == [f"<{text}>" for text in TEXTS]
    assert (result.texts, result.source_tokens, result.target_tokens) == (10, 30, 50)
    assert (result.concurrency, result.max_batch_tokens) == (3, 512)
    assert result.tokens_per_second == pytest.approx(50 / result.seconds)
    assert result.texts_per_second == pytest.approx(10 / result.seconds)
    assert 0 <= result.latency.p50_ms <= result.latency.p95_ms <= 1000 * result.seconds


class BudgetTranslator(StubTranslator):
    """Claims a thousand million tokens where the budget is the best one, so that speed does not decide."""

    def __init__(self, budget: int) -> None:
        super().__init__()
        self.budget = budget

    def submit(self, text: str, *arguments: Any, **options: Any) -> StubPending:
        super().submit(text, *arguments, **options)
        tokens = 10**9 if self.budget == 1024 else 1
        better = StubPending()
        better.future.set_result(StubTranslation(f"{text} by {self.budget}", target_tokens=tokens))
        return better


def test_an_engine_is_measured_at_each_concurrency_and_budget() -> None:
    loaded: list[BudgetTranslator] = []
    progress: list[int] = []

    @contextlib.contextmanager
    def load(engine: EngineConfig) -> Iterator[Any]:
        loaded.append(BudgetTranslator(engine.max_batch_tokens))
        yield loaded[-1]
        loaded[-1].close()

    workload = Workload(TEXTS[:4], tuple(f"{text} by 1024" for text in TEXTS[:4]), "fr", "en", "x")
    result = measure_engine(
        load,
        workload,
        GenerationConfig(beam_size=2),
        EngineConfig(max_batch_tokens=99),
        concurrencies=(1, 3),
        budgets=(512, 1024, 2048),
        repeat=2,
        after_each=lambda: progress.append(1),
    )
    assert [(each.concurrency, each.max_batch_tokens, each.texts) for each in result.callers] == [
        (1, 99, 8),
        (3, 99, 8),
    ]
    assert [(each.max_batch_tokens, each.texts) for each in result.at_once] == [(512, 8), (1024, 8), (2048, 8)]
    assert result.best.max_batch_tokens == 1024
    assert result.bleu == pytest.approx(100.0)  # the translations of the best run, each text once
    assert "stub" in result.model
    assert [translator.budget for translator in loaded] == [99, 512, 1024, 2048]
    assert all(translator.closed for translator in loaded)
    assert len(progress) == 5
    assert {entry[1:4] for translator in loaded for entry in translator.submitted} == {
        ("fr", "en", GenerationConfig(beam_size=2))
    }


@pytest.mark.parametrize(
    ("concurrencies", "budgets", "message"),
    [((0,), (), "concurrency must be at least 1, got 0"), ((), (4, -1), "budget must be at least 1, got -1")],
)
def test_numbers_below_one_are_refused_before_anything_is_loaded(
    concurrencies: tuple[int, ...], budgets: tuple[int, ...], message: str
) -> None:
    def load(_: EngineConfig) -> Any:
        raise AssertionError

    workload = Workload(TEXTS, (), "fr", "en", "x")
    with pytest.raises(ConfigurationError, match=message):
        measure_engine(load, workload, GenerationConfig(), EngineConfig(), concurrencies=concurrencies, budgets=budgets)


# The command


def test_the_command_ends_with_a_line_of_json(
    translator: StubTranslator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["-c", "2", "-c", "5", "--budget", "700", "--repeat", "2", "--beam-size", "1", "--starts", "0"]
    assert main(["benchmark", *arguments, "--plot", str(tmp_path / "new" / "picture.svg")]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert [each["concurrency"] for each in report["engine"]["callers"]] == [1, 2, 5]
    assert {each["texts"] for each in report["engine"]["callers"]} == {24}
    assert [each["max_batch_tokens"] for each in report["engine"]["at_once"]] == [700]
    assert (report["footprints"], report["comparisons"], report["server"]) == ({}, [], None)
    assert {"machine", "versions", "threads", "engine", "command", "model", "texts"} <= set(report["circumstances"])
    assert "tokens/s" in captured.err
    assert "all at once" in captured.err
    assert {entry[3] for entry in translator.submitted} == {GenerationConfig(beam_size=1)}
    assert "callers at once" in (tmp_path / "new" / "picture.svg").read_text(encoding="utf-8")


def test_bleu_is_shown_where_there_are_references(
    translator: StubTranslator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("un deux trois quatre\ncinq six sept huit\nneuf\n", encoding="utf-8")
    (tmp_path / "b").write_text("UN DEUX TROIS QUATRE\nCINQ SIX SEPT HUIT\nX\n", encoding="utf-8")
    files = [str(tmp_path / "a"), "--reference", str(tmp_path / "b"), "--max-sentences", "2"]
    assert main(["benchmark", *files, "--starts", "0", "--budget", "512"]) == 0
    captured = capsys.readouterr()
    assert "BLEU: 100.00" in captured.err
    assert math.isclose(json.loads(captured.out)["engine"]["bleu"], 100.0)
    assert translator.closed is True


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("ctranslate2", ["--peer", "ctranslate2"]),
        ("httpx", ["--server", "http://x"]),
        ("sacrebleu", [__file__, "--reference", __file__]),
        ("matplotlib", ["--plot", "x.svg"]),
    ],
)
def test_a_missing_package_is_named_before_anything_is_measured(
    package: str,
    arguments: list[str],
    translator: StubTranslator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["benchmark", *arguments]) == 2
    assert f"{package} must be installed (extra '" in capsys.readouterr().err
    assert translator.loaded is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--peer", "engine"],
            "peer must be one of ctranslate2, ctranslate2-sequential beside the engine, got 'engine'",
        ),
        (["--peer", "x"], "peer must be one of ctranslate2, ctranslate2-sequential beside the engine, got 'x'"),
        (
            ["--server", "http://x", "--peer", "ctranslate2"],
            "peer must be one of engine, ctranslate2-sequential beside a service, got 'ctranslate2'",
        ),
        (["--plot", "picture.gif"], "plot must end in .svg, .png, .pdf, got 'picture.gif'"),
        (["--reference", __file__], "--reference needs FILE"),
        (["--server", "http://x", "--rate", "0"], "rate must be above 0, got 0.0"),
        (["--server", "http://x", "--latency-bound", "0"], "latency_bound_ms must be above 0, got 0.0"),
        (["--concurrency", "0"], "concurrency must be at least 1, got 0"),
        (["--max-sentences", "0"], "max-sentences"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    arguments: list[str], message: str, translator: StubTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert translator.submitted == []
