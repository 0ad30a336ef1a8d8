"""Back-translation: what is translated, dropped and why, what a cut-off run does again, and training with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.cli import cli, run
from model.config import EngineConfig, GenerationConfig
from model.errors import ConfigurationError, CorpusError
from model.text.tokenizer import Tokenizer
from model.training.back_translation import BackTranslationPlan, back_translate
from model.training.batching import Batches
from model.training.corpus import load_corpus, read_pairs
from model.training.filters import STRICT
from model.training.text_file import read_lines, write_lines
from model.training.trainer import Trainer
from model.training_config import AugmentationConfig, DataConfig, SourceConfig
from model.translation import Translation, TranslationWarning
from tests.unit.stub_translator import Install
from tests.unit.tiny_training import model_config, one_cpu_thread, optimizer_config, recipe, sentence_pairs, tokenizer

ENGLISH = {english: french for french, english in sentence_pairs()}


class Dictionary:
    """Knows the test's sentences; anything else it repeats. Texts in ``failing`` end the run, as a power cut would."""

    fingerprint = "first weights"

    def __init__(self, failing: str = "", warning: str = "") -> None:
        self.asked: list[str] = []
        self.failing = failing
        self.warning = warning

    def submit(self, text: str, source: str | None, target: str, *_: object, **__: object) -> Any:
        assert (source, target) == ("en", "fr")
        if text == self.failing:
            raise KeyboardInterrupt
        self.asked.append(text)
        warnings = (TranslationWarning("length", "", 0, 1),) if text == self.warning else ()
        pending = type("Pending", (), {"future": Future(), "cancel": lambda _: None})()
        written = ENGLISH.get(text, text)
        pending.future.set_result(Translation(written, "en", "fr", None, (), (), 0.0, "end", warnings, 1, 1))
        return pending


def plan(folder: Path, lines: list[str], **changes: Any) -> BackTranslationPlan:
    file = folder / "mono.en"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    values: dict[str, Any] = {
        "files": (file,),
        "column": None,
        "language": "en",
        "languages": ("fr", "en"),
        "output": folder / "bt.tsv",
        "block_lines": 50,
    }
    return BackTranslationPlan(**(values | changes))


def sentences(count: int) -> list[str]:
    return [english for _, english in sentence_pairs()[:count]]


# What is written


def test_the_models_side_stands_in_its_languages_column(tmp_path: Path) -> None:
    report = back_translate(plan(tmp_path, sentences(120)), Dictionary())
    assert list(read_pairs(tmp_path / "bt.tsv")) == sentence_pairs()[:120]
    assert (report.lines, report.translated, report.kept, report.rejected) == (120, 120, 120, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bt.tsv", "mono.en"]

    other = plan(tmp_path, sentences(3), languages=("en", "fr"), output=tmp_path / "other.tsv")
    back_translate(other, Dictionary())
    assert list(read_pairs(other.output)) == [(english, french) for french, english in sentence_pairs()[:3]]


@pytest.mark.parametrize("ending", [".xz", ".gz", ".bz2", ".zst"])
def test_input_and_output_may_be_compressed(tmp_path: Path, ending: str) -> None:
    write_lines(tmp_path / f"mono{ending}", [f"{line}\n" for line in sentences(4)])
    compressed = plan(tmp_path, [], files=(tmp_path / f"mono{ending}",), output=tmp_path / f"bt.tsv{ending}")
    back_translate(compressed, Dictionary())
    assert list(read_pairs(compressed.output)) == sentence_pairs()[:4]
    first = compressed.output.read_bytes()
    assert not first.startswith(b"le chat")
    back_translate(compressed, Dictionary())
    assert compressed.output.read_bytes() == first


def test_one_column_of_tab_separated_text(tmp_path: Path) -> None:
    lines = [f"{number}\t{english}" for number, english in enumerate(sentences(5))]
    back_translate(plan(tmp_path, lines, column=2), Dictionary())
    assert list(read_pairs(tmp_path / "bt.tsv")) == sentence_pairs()[:5]
    with pytest.raises(CorpusError, match=r"mono\.en, line 1: must have 3 tab-separated columns, got 2"):
        back_translate(plan(tmp_path, lines, column=3, output=tmp_path / "x.tsv"), Dictionary())


def test_lines_and_pairs_fall_out_for_a_reason(tmp_path: Path) -> None:
    good = sentences(3)
    copied = "Nobody knows why the little engine stopped on the bridge."
    lines = [*good, good[0], "", "12 345", "x" * 601, copied]
    stub = Dictionary(warning=good[2])
    report = back_translate(plan(tmp_path, lines), stub)
    assert stub.asked == [*good, copied]
    assert list(read_pairs(tmp_path / "bt.tsv")) == sentence_pairs()[:2]
    assert report.lines == 8
    assert report.rejected == {
        "duplicate line": 1,
        "empty line": 1,
        "no letters": 1,
        "too long": 1,
        "translation: copied": 1,
        "translation: length": 1,
    }
    assert report.kept + report.rejected.total() == report.lines


def test_further_filters_are_applied_to_the_pairs(tmp_path: Path) -> None:
    # They differ in punctuation alone, which is a near duplicate under the strict rules only.
    lines = ["the cat sees the cat.", "the cat sees the cat!"]
    ENGLISH_BEFORE = dict(ENGLISH)
    ENGLISH["the cat sees the cat!"] = "le chat voit le chat !"
    try:
        assert back_translate(plan(tmp_path, lines), Dictionary()).kept == 2
        report = back_translate(plan(tmp_path, lines, filters=STRICT), Dictionary())
    finally:
        ENGLISH.clear()
        ENGLISH.update(ENGLISH_BEFORE)
    assert report.rejected == {"near duplicate": 1}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no pair is left of 2 lines"):
        back_translate(plan(tmp_path, ["", "1"]), Dictionary())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "de"}, "language must be one of fr, en"),
        ({"column": 0}, "column must be at least 1"),
    ],
)
def test_a_bad_plan_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(tmp_path, [], **changes)


def test_a_file_is_never_its_own_output(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must not be one of the files"):
        plan(tmp_path, [], output=tmp_path / "mono.en")


# Going on


def test_a_run_that_was_cut_off_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = plan(tmp_path, [*sentences(170), *sentences(3), "", "ok 1"], output=tmp_path / "whole.tsv")
    expected = back_translate(whole, Dictionary())
    broken = plan(tmp_path, [*sentences(170), *sentences(3), "", "ok 1"])
    with pytest.raises(KeyboardInterrupt):
        back_translate(broken, Dictionary(failing=sentences(170)[130]))
    again = Dictionary()
    report = back_translate(broken, again)
    assert again.asked == [*sentences(170)[100:], "ok 1"]  # two blocks of 50 were done
    assert broken.output.read_bytes() == whole.output.read_bytes()
    assert (report.lines, report.kept, report.rejected) == (expected.lines, expected.kept, expected.rejected)


@pytest.mark.parametrize("change", ["model", "decoding", "files", "filters"])
def test_an_unfinished_run_must_go_on_as_it_began(tmp_path: Path, change: str) -> None:
    lines = sentences(80)
    with pytest.raises(KeyboardInterrupt):
        back_translate(plan(tmp_path, lines), Dictionary(failing=lines[70]))
    stub = Dictionary()
    if change == "model":
        stub.fingerprint = "other weights"
    decoding = GenerationConfig(beam_size=2) if change == "decoding" else None
    other = plan(tmp_path, lines[1:] if change == "files" else lines, filters=STRICT if change == "filters" else None)
    with pytest.raises(ConfigurationError, match=f"{change} must be .* as the unfinished .*bt.tsv.parts began"):
        back_translate(other, stub, decoding)
    assert stub.asked == []


# The command


def test_the_command(tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    class Loader(Dictionary):
        @classmethod
        def load(cls, path: Path | None, engine: EngineConfig) -> Loader:
            assert (path, engine.max_queued_requests) == (None, sys.maxsize)
            return cls()

        def __enter__(self) -> Loader:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    install("model.translator", Translator=Loader)
    write_lines(tmp_path / "mono.xz", [f"{line}\n" for line in [*sentences(6), ""]])
    words = ["back-translate", str(tmp_path / "mono.xz"), "-l", "en", "-o", str(tmp_path / "bt.tsv.xz"), "--basic"]
    assert run(cli, words) == 0
    shown = capsys.readouterr().out
    assert "6 pairs of 7 lines" in shown
    assert "  empty line: 1\n" in shown
    assert '{ path = "bt.tsv.xz", back_translated = "fr" }' in shown
    assert list(read_lines(tmp_path / "bt.tsv.xz")) == ["\t".join(pair) for pair in sentence_pairs()[:6]]
    assert run(cli, [*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == {"empty line": 1}
    assert run(cli, ["back-translate", str(tmp_path / "mono.xz"), "-l", "de", "-o", str(tmp_path / "x.tsv")]) == 2


# Training


def data(folder: Path) -> DataConfig:
    for name, pairs in (("pairs.tsv", sentence_pairs()[:100]), ("bt.tsv", sentence_pairs()[100:])):
        (folder / name).write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    sources = SourceConfig("pairs.tsv"), SourceConfig("bt.tsv", 2.0, back_translated="fr")
    return DataConfig(str(folder), sources, max_tokens=60)


def rows_of(batches: Batches) -> list[tuple[list[int], list[int]]]:
    rows = []
    for examples in batches.epoch(0):
        batch = batches.collate(examples, 0)
        for source, target in zip(batch.source_ids.tolist(), batch.targets.tolist(), strict=True):
            rows.append(([token for token in source if token], [token for token in target if token]))
    return rows


@pytest.mark.parametrize("shares", [{}, {"upper_case": 0.2, "joined": 0.3}])
@pytest.mark.parametrize("num_shapes", [0, 4])
def test_only_the_models_side_is_a_source_and_it_is_marked(
    tmp_path: Path, shares: dict[str, float], num_shapes: int
) -> None:
    from model.training.augmentation import Augmentation

    config = data(tmp_path)
    corpus, _ = load_corpus(config, tokenizer())
    changes = None
    if shares:
        changes = Augmentation(corpus, tokenizer(), ("fr", "en"), AugmentationConfig(**shares), 60, 1)
    batches = Batches(corpus, tokenizer(), model_config(), ("fr", "en"), 512, 1, changes, num_shapes)
    rows = [row for row in rows_of(batches) if row[1]]
    mark = tokenizer().pieces(range(320)).index("<bt>")
    english, french = tokenizer().language_id("en"), tokenizer().language_id("fr")
    marked = [source for source, _ in rows if mark in source]
    assert len(rows) == 2 * 100 + 2 * 156
    assert len(marked) == 2 * 156
    assert {tuple(source[:2]) for source in marked} == {(english, mark)}
    assert {source[0] for source, _ in rows if mark not in source} == {english, french}
    if not shares:
        wanted = [tokenizer().encode_target(french) for french, _ in sentence_pairs()[100:]]
        assert sorted(source[2:-1] for source in marked) == sorted(wanted * 2)


def test_cached_corpora_keep_the_mark(tmp_path: Path) -> None:
    config = data(tmp_path)
    for _ in range(2):
        corpus, _ = load_corpus(config, tokenizer(), tmp_path / "cache")
        assert corpus.synthetic_sides == (-1, 0)


def test_a_run_with_back_translated_text(tmp_path: Path) -> None:
    with one_cpu_thread():
        config = recipe(tmp_path, data=data(tmp_path), optimizer=optimizer_config(3, warmup_steps=1))
        trainer = Trainer(config, show_progress=False)
        trainer.train()
        found = trainer.checkpoint().metadata["data"]
    assert [entry.get("back_translated") for entry in found] == [None, "fr"]


def test_a_vocabulary_without_the_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, _ = load_corpus(data(tmp_path), tokenizer())
    plain: Callable[..., list[str]] = Tokenizer.pieces
    monkeypatch.setattr(Tokenizer, "pieces", lambda self, ids: [p.replace("<bt>", "<other>") for p in plain(self, ids)])
    with pytest.raises(ConfigurationError, match="must have the token <bt>"):
        Batches(corpus, tokenizer(), model_config(), ("fr", "en"), 512, 1)


def test_the_language_must_be_one_of_the_two(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="back_translated must be one of fr, en"):
        DataConfig(str(tmp_path), (SourceConfig("a.tsv", back_translated="de"),))


def test_special_tokens_leave_room(tmp_path: Path) -> None:
    longest = recipe(tmp_path, data=DataConfig(str(tmp_path), (SourceConfig("a.tsv"),), max_tokens=64))
    assert longest.data.num_special_tokens == 2
    with pytest.raises(ConfigurationError, match="max_tokens must be at most 63"):
        recipe(tmp_path, data=DataConfig(str(tmp_path), (SourceConfig("a.tsv", back_translated="en"),), max_tokens=64))
    assert np.unique(longest.data.synthetic_sides).tolist() == [-1]
