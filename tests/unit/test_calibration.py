"""Quality estimates: words and their labels, the fit against a search by brute force, the error, and what is stored."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import cast

import pytest

from model.cli import cli, run
from model.config import GenerationConfig
from model.errors import CheckpointError, CorpusError
from model.evaluation.calibrate_command import write_calibration
from model.evaluation.calibration import WordExample, calibrate, calibration_error, fit, word_examples
from model.generation.quality import Calibration, logit, quality, word_log_probs, word_qualities
from model.text.tokenizer import Tokenizer
from model.translation import SegmentTranslation, Translation
from model.translator import Translator
from tests.unit.tiny_tokenizer import tiny_tokenizer


def translated(text: str, log_probs: list[float] | None = None, shown: str | None = None) -> Translation:
    """Return a text as the translator returns it; by default every token has the same log-probability."""
    ids = tuple(tiny_tokenizer().encode_target(text))
    scores = tuple([-0.5] * (len(ids) + 1) if log_probs is None else log_probs)
    segment = SegmentTranslation(0, 1, "x", text if shown is None else shown, 0.0, ids, scores)
    return Translation(segment.text, "fr", "en", None, (segment,), (), 0.0, "end", (), 1, len(ids))


def draw(scale: float, bias: float, count: int, seed: int) -> list[WordExample]:
    """Return examples whose labels are drawn from a known calibration."""
    random_numbers = random.Random(seed)
    examples = []
    for _ in range(count):
        probability = random_numbers.uniform(0.001, 0.999)
        odds = (probability / (1 - probability)) ** scale * math.exp(bias)
        examples.append(WordExample(probability, random_numbers.random() < odds / (1 + odds)))
    return examples


def test_scaling_by_hand() -> None:
    assert Calibration()(0.3) == pytest.approx(0.3)
    assert Calibration(2.0, 0.0)(0.75) == pytest.approx(0.9)  # odds of 3 become 9
    assert Calibration(1.0, math.log(3))(0.5) == pytest.approx(0.75)
    assert Calibration(0.5, 0.0)(0.9) == pytest.approx(0.75)
    assert 0 < Calibration(3.0, 1.0)(0.0) < 1e-15
    assert 1 - 1e-12 < Calibration(3.0, 1.0)(1.0) <= 1
    assert quality([math.log(0.5), math.log(0.4)], Calibration(0.5)) == pytest.approx(1 / 3)  # odds of 1 to 4
    assert quality([0.1], Calibration()) == quality([], Calibration()) == Calibration()(1.0)
    assert logit(0.75) == pytest.approx(math.log(3))


def test_words_have_the_tokens_that_touch_them() -> None:
    words = [(0, 3), (4, 7), (7, 8)]
    spans = [(0, 2), (2, 3), (4, 5), (5, 8), (8, 8)]
    assert word_log_probs(words, spans, [-1, -2, -3, -4, -5, -6]) == [[-1, -2], [-3, -4], [-4]]
    assert word_log_probs([], spans, [-1] * 5) == []
    found = word_qualities(words, spans, [math.log(0.5)] * 5, Calibration())
    assert found == pytest.approx([0.25, 0.25, 0.5])


def test_a_word_is_right_as_often_as_the_reference_has_it() -> None:
    translation = translated("the cat , The cat sees the hat .")
    found = list(word_examples(translation, "The cat sees the dog, the.", tiny_tokenizer()))
    assert [example.is_right for example in found] == [True, True, True, False, True, True, False]
    for example, word in zip(found, ["the", "cat", "The", "cat", "sees", "the", "hat"], strict=True):
        assert 0 < example.probability <= math.exp(-0.5), word
    again = translated("the the the the")
    assert [each.is_right for each in word_examples(again, "the the.", tiny_tokenizer())] == [True, True, False, False]


def test_parts_without_scores_or_with_other_text_give_no_examples() -> None:
    for translation in (translated("the cat", []), translated("the cat", shown="the {cat}")):
        assert list(word_examples(translation, "the cat", tiny_tokenizer())) == []


@pytest.mark.parametrize(("scale", "bias"), [(0.5, 0.4), (1.0, 0.0), (1.7, -1.0)])
def test_the_fit_is_the_best_of_a_fine_grid(scale: float, bias: float) -> None:
    examples = draw(scale, bias, 3000, seed=5)
    found = fit(examples)

    num_right = sum(each.is_right for each in examples)

    def loss(calibration: Calibration) -> float:
        """Cross-entropy with Platt's targets, which are just inside of 0 and 1."""
        total = 0.0
        for each in examples:
            target = (num_right + 1) / (num_right + 2) if each.is_right else 1 / (len(examples) - num_right + 2)
            estimate = calibration(each.probability)
            total -= target * math.log(estimate) + (1 - target) * math.log(1 - estimate)
        return total

    steps = (-0.01, 0, 0.01)
    around = [Calibration(found.scale + s, found.bias + b) for s in steps for b in steps if (s, b) != (0, 0)]
    assert loss(found) < min(map(loss, around))
    assert found.scale == pytest.approx(scale, abs=0.25)  # four standard errors of 3000 examples
    assert found.bias == pytest.approx(bias, abs=0.2)


def test_the_error_is_small_where_it_should_be_and_known_where_it_is_not() -> None:
    held_out = draw(0.5, 0.4, 5000, seed=9)
    fitted = fit(draw(0.5, 0.4, 5000, seed=8))
    assert calibration_error(held_out, fitted) < 0.03
    assert calibration_error(held_out, Calibration()) > 0.08
    certain = [WordExample(0.95, True)] * 3 + [WordExample(0.95, False)] + [WordExample(0.15, False)] * 4
    assert calibration_error(certain, Calibration()) == pytest.approx((0.2 * 4 + 0.15 * 4) / 8)
    assert calibration_error([WordExample(1.0, True)], Calibration()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_fit_stays_finite_where_everything_is_right_or_wrong(is_right: bool) -> None:
    same = fit([WordExample(0.1 + 0.8 * index / 200, is_right) for index in range(200)])
    assert math.isfinite(same.scale)
    assert same.scale > 0
    assert (same(0.5) > 0.9) is is_right
    apart = fit([WordExample(0.2 if index % 2 else 0.8, index % 2 == 0) for index in range(200)])
    assert apart(0.8) > 0.95
    assert apart(0.2) < 0.05
    upside_down = fit([WordExample(0.8 if index % 2 else 0.2, index % 2 == 0) for index in range(200)])
    assert upside_down(0.2) == pytest.approx(upside_down(0.8), abs=1e-3) == pytest.approx(0.5, abs=0.01)


class FixedTranslator:
    """Translates every line to the same words, of which every second line's reference has half."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = tiny_tokenizer()
        self.languages = ("en", "fr")
        self.configs: list[GenerationConfig] = []

    def translate(self, lines: list[str], source: str, target: str, config: GenerationConfig) -> list[Translation]:
        assert (source, target) in (("fr", "en"), ("en", "fr"))
        self.configs.append(config)
        return [translated("the cat sees the hat") for _ in lines]

    def __enter__(self) -> FixedTranslator:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_one_half_is_fitted_and_the_other_measured() -> None:
    translator = FixedTranslator()
    references = ["the cat sees the hat", "a cat"] * 50  # the first half is all right, of the second one word in five
    result = calibrate(cast(Translator, translator), [(["x"] * 100, references, "fr", "en")])
    assert (result.num_fitted, result.num_held_out) == (250, 250)
    assert result.accuracy == pytest.approx(0.2)
    assert result.calibration(0.5) > 0.95
    assert result.error_after > 0.7  # because the halves have nothing in common
    assert all(config.return_token_scores for config in translator.configs)


def test_dev_sets_that_do_not_do_are_refused() -> None:
    translator = cast(Translator, FixedTranslator())
    with pytest.raises(CorpusError, match="3 source lines must match 2"):
        calibrate(translator, [(["x"] * 3, ["y"] * 2, "fr", "en")])
    with pytest.raises(CorpusError, match="must give 200 words, got 20"):
        calibrate(translator, [(["x"] * 4, ["y"] * 4, "fr", "en")])


def test_a_checkpoint_has_a_calibration_or_none() -> None:
    assert Calibration.from_metadata({}) == Calibration()
    assert Calibration.from_metadata({"quality_calibration": {"scale": 2, "bias": -1.5, "more": 1}}) == Calibration(
        2, -1.5
    )
    for wrong in (
        {},
        {"scale": 1},
        {"scale": "x", "bias": 0},
        [1, 2],
        {"scale": 0, "bias": 0},
        {"scale": 1, "bias": math.nan},
    ):
        with pytest.raises(CheckpointError, match="quality_calibration"):
            Calibration.from_metadata({"quality_calibration": wrong})


def test_only_the_calibration_of_a_config_changes(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    before = {"format_version": 1, "model": {"vocab_size": 8}, "metadata": {"name": "é", "steps": 3}}
    path.write_text(json.dumps(before, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_calibration(tmp_path, {"scale": 0.5, "bias": 0.25})
    write_calibration(tmp_path, {"scale": 0.75, "bias": 0.25})
    after = json.loads(path.read_text(encoding="utf-8"))
    assert Calibration.from_metadata(after["metadata"]) == Calibration(0.75, 0.25)
    del after["metadata"]["quality_calibration"]
    assert after == before
    assert "é" in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot store"):
        write_calibration(tmp_path, {})
    with pytest.raises(CheckpointError, match="cannot store"):
        write_calibration(tmp_path / "nowhere", {})


def test_the_command_writes_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loader:
        @classmethod
        def load(cls, path: Path) -> FixedTranslator:
            assert path == tmp_path
            return FixedTranslator()

    monkeypatch.setattr("model.translator.Translator", Loader)
    (tmp_path / "config.json").write_text('{"metadata": {}}', encoding="utf-8")
    for code in ("en", "fr"):
        (tmp_path / f"set.{code}").write_text("the cat sees a dog\n" * 60, encoding="utf-8")
    command = ["calibrate", str(tmp_path), "--model", str(tmp_path), "--max-lines", "50"]
    assert run(cli, command) == 0
    shown = capsys.readouterr().out
    assert "fitted on 250 words; of 250 held-out words 60.0% are in the reference" in shown
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == '{"metadata": {}}'
    assert run(cli, [*command, "--write"]) == 0
    metadata = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["metadata"]
    stored = metadata["quality_calibration"]
    assert stored["num_words"] == 250
    probability = quality([-0.5], Calibration.from_metadata(metadata))
    assert 0 < probability < 1
    assert stored["expected_calibration_error"] < 0.05
    assert run(cli, ["calibrate", str(tmp_path / "none")]) == 2
