"""Evaluation: scores against sacrebleu itself, dev sets found and aligned, a checkpoint measured while training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import sacrebleu

from model.config import GenerationConfig
from model.errors import CorpusError
from model.evaluation.evaluate import dev_sets, evaluate_pairs, read_lines
from model.evaluation.metrics import corpus_scores
from model.translator import Translator

HYPOTHESES = ["the cat sat on the red mat", "it rains a lot in the north", "good evening"]
REFERENCES = ["the cat sat on the mat", "it rains much in the north", "good evening to you all"]


def test_scores_are_sacrebleus() -> None:
    bleu, chrf = corpus_scores(HYPOTHESES, REFERENCES)
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score)
    assert (bleu.name, chrf.name) == ("BLEU", "chrF2++")
    assert "tok:13a" in bleu.signature
    assert "nw:2" in chrf.signature


def test_perfect_translations_score_100() -> None:
    bleu, chrf = corpus_scores(REFERENCES, REFERENCES)
    assert bleu.value == pytest.approx(100)
    assert chrf.value == pytest.approx(100)


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), (["a"], ["a", "b"])])
def test_nothing_to_compare_is_an_error(hypotheses: list[str], references: list[str]) -> None:
    with pytest.raises(CorpusError, match="must match"):
        corpus_scores(hypotheses, references)


class UpperCaser:
    """Stands in for a translator: upper case is its translation, and a question mark its warning."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], str, str, GenerationConfig | None]] = []

    def translate(
        self, texts: list[str], source: str, target: str, config: GenerationConfig | None
    ) -> Sequence[SimpleNamespace]:
        self.asked.append((texts, source, target, config))
        warning = SimpleNamespace(code="copied")
        return [SimpleNamespace(text=text.upper(), warnings=(warning,) * text.count("?")) for text in texts]


def test_evaluate_pairs_translates_all_lines_and_counts_warnings() -> None:
    stub = UpperCaser()
    config = GenerationConfig(beam_size=2)
    result = evaluate_pairs(
        cast(Translator, stub), ["a b c d", "e f g h??"], ["A B C D", "E F G H??"], "fr", "en", config
    )
    assert stub.asked == [(["a b c d", "e f g h??"], "fr", "en", config)]
    assert result.hypotheses == ("A B C D", "E F G H??")
    assert result.bleu == pytest.approx(100)
    assert result.warnings == 1
    assert result.warning_codes == {"copied": 1}
    assert result.seconds >= 0


def test_lines_that_do_not_align_are_refused() -> None:
    with pytest.raises(CorpusError, match="2 source lines must match 1"):
        evaluate_pairs(cast(Translator, UpperCaser()), ["a", "b"], ["A"], "fr", "en")


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "set.en"
    path.write_bytes("one\u2028still one\x85\x0b\r\n\ntwo".encode())
    assert read_lines(path) == ["one\u2028still one\x85\x0b", "", "two"]
    with pytest.raises(CorpusError, match="cannot read"):
        read_lines(tmp_path / "missing")
    path.write_bytes(b"\xff")
    with pytest.raises(CorpusError, match="cannot read"):
        read_lines(path)


def test_dev_sets_need_both_languages(tmp_path: Path) -> None:
    for name in ("news.fr", "news.en", "talks.fr", "web.page.en", "web.page.fr", "README.md"):
        (tmp_path / name).write_text("x\n", encoding="utf-8")
    assert list(dev_sets(tmp_path, ("en", "fr"))) == [
        ("news", "en", "fr"),
        ("news", "fr", "en"),
        ("web.page", "en", "fr"),
        ("web.page", "fr", "en"),
    ]
    with pytest.raises(CorpusError, match="has no file pair"):
        list(dev_sets(tmp_path, ("de", "nl")))
