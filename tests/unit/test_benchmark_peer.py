"""Comparisons: the steps on scripted contestants, and our engine against CTranslate2 on a tiny network."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from model.config import EngineConfig, GenerationConfig
from model.errors import ConfigurationError, CorpusError
from model.evaluation.benchmark import Workload
from model.evaluation.contestants import (
    CTranslate2,
    Decoded,
    OwnEngine,
    peer_options,
    peer_settings,
    translate_one_by_one,
)
from model.evaluation.peer import compare
from tests.unit.network_variations import build
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

PLAIN = EngineConfig(device="cpu", dtype="float32", decoder="plain", num_workers=1)
GREEDY = GenerationConfig(beam_size=1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A network that ends most targets by itself."""
    model = build("nothing_tied", vocab_size=VOCAB_SIZE, output_bias=True, max_source_length=40, max_target_length=60)
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randint(VOCAB_SIZE, (40, 12), generator=generator) for _ in range(2))
    with torch.no_grad():
        logits = model(source, target, torch.ones_like(source, dtype=torch.bool)).flatten(0, 1)  # (B * T, V)
        lead = logits.amax(-1) - logits[:, model.config.eos_id]
        model.get_parameter("output_bias")[model.config.eos_id] += lead.quantile(0.4)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Checkpoint(model.config, weights, tiny_tokenizer())


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights for CTranslate2."""
    pytest.importorskip("ctranslate2", reason="ctranslate2 is a benchmark extra")
    from model.checkpoints.ctranslate2_export import export_ctranslate2

    folder = tmp_path_factory.mktemp("peer") / "model"
    export_ctranslate2(folder, checkpoint)
    return folder


@pytest.fixture(scope="module")
def workload() -> Workload:
    """Sentences of the tests' tokeniser, with something as references."""
    texts = tuple(random.Random(2).sample(sentences(), 8))
    return Workload(texts, texts, "fr", "en", "sentences")


class Scripted:
    """Answers with the source's first two pieces, after noting what it was asked for."""

    def __init__(self, name: str, budgets: Sequence[int], cut: Sequence[int] = (), other: Sequence[int] = ()) -> None:
        self.name = name
        self.budgets = budgets
        self.used: list[int] = []
        self.runs: list[tuple[int, int]] = []
        self._cut = cut
        self._other = other

    def use_budget(self, budget: int) -> None:
        self.used.append(budget)

    def prepare(self, sources: Sequence[Sequence[int]], config: GenerationConfig) -> Any:
        assert config == GREEDY
        return [tuple(source) for source in sources]

    def run(self, prepared: Any) -> Any:
        self.runs.append((self.used[-1], len(prepared)))
        return prepared

    def read(self, prepared: Any, result: Any) -> list[Decoded]:
        assert prepared is result
        decoded = []
        for index, source in enumerate(result):
            whole = len(result) == 5  # only the first time: afterwards some are left out
            ids = list(source[1:3]) if whole or index not in self._other else [4]
            decoded.append((ids, not whole or index not in self._cut))
        return decoded

    def close(self) -> None:
        raise AssertionError("the caller closes")


def test_what_one_side_cuts_is_left_out_of_everything(checkpoint: Checkpoint) -> None:
    texts = tuple(sentences()[:5])
    ours, theirs = Scripted("a", (10, 20), cut=[0], other=[1]), Scripted("b", (30,), cut=[0, 3])
    result = compare(ours, theirs, checkpoint, Workload(texts, texts, "fr", "en", "x"), GREEDY, rounds=2)
    assert (result.sentences, result.left_out, result.identical, result.rounds) == (3, 2, 2, 2)
    assert (result.ours.num_cut, result.theirs.num_cut) == (1, 2)
    assert (result.ours.name, result.theirs.name) == ("a", "b")
    assert [budget for budget, _ in result.ours.sweep] == [10, 20]
    assert [budget for budget, _ in result.theirs.sweep] == [30]
    assert result.ours.best_budget == max(result.ours.sweep, key=lambda pair: pair[1])[0]
    # Two tokens and an end token of each sentence, one token and an end token where ours differs.
    assert (result.ours.target_tokens, result.theirs.target_tokens) == (3 + 2 + 3, 3 * 3)
    assert result.ours.bleu is not None
    after_sweep = [run for run in theirs.runs if run[1] == 1]
    assert len(after_sweep) == 3 + 2 * 3  # a warm-up of each of the first five, then two rounds
    assert {size for _, size in theirs.runs[1:]} == {1, 3}
    assert {budget for budget, size in ours.runs if size == 1} == {result.ours.best_budget}


def test_a_workload_that_nobody_ends_is_refused(checkpoint: Checkpoint) -> None:
    texts = tuple(sentences()[:5])
    sides = Scripted("a", (10,), cut=range(5)), Scripted("b", (30,))
    with pytest.raises(CorpusError, match="x must have a sentence whose end both sides let the model decide"):
        compare(*sides, checkpoint, Workload(texts, (), "fr", "en", "x"), GREEDY)


def test_sentences_too_long_for_the_model_are_left_out(checkpoint: Checkpoint) -> None:
    texts = (" ".join(sentences()[:20]), *sentences()[:5])
    sides = Scripted("a", (10,)), Scripted("b", (30,))
    result = compare(*sides, checkpoint, Workload(texts, (), "fr", "en", "x"), GREEDY, rounds=1)
    assert (result.sentences, result.left_out, result.ours.bleu) == (5, 1, None)
    with pytest.raises(CorpusError):
        compare(*sides, checkpoint, Workload(texts[:1], (), "fr", "en", "x"), GREEDY)


@pytest.fixture
def ours(checkpoint: Checkpoint) -> Iterator[OwnEngine]:
    """Our engine in float32, on the plain path."""
    engine = OwnEngine(checkpoint, PLAIN, (1000,))
    yield engine
    engine.close()


@pytest.mark.parametrize(("beam_size", "sequential"), [(1, False), (4, False), (4, True)])
def test_both_engines_translate_the_same(
    beam_size: int, sequential: bool, ours: OwnEngine, checkpoint: Checkpoint, exported: Path, workload: Workload
) -> None:
    theirs = CTranslate2(exported, checkpoint, PLAIN, sequential=sequential, budgets=(64, 256))
    config = GenerationConfig(beam_size=beam_size, max_new_tokens=30)
    result = compare(ours, theirs, checkpoint, workload, config, rounds=1)
    theirs.close()
    assert result.sentences + result.left_out == 8
    assert result.identical == result.sentences >= 4
    assert result.ours.target_tokens == result.theirs.target_tokens > result.sentences
    assert result.ours.bleu == result.theirs.bleu
    assert result.theirs.name == ("ctranslate2-sequential" if sequential else "ctranslate2")
    assert [budget for budget, _ in result.theirs.sweep] == ([0] if sequential else [64, 256])


def test_one_text_after_another_is_text_to_text(checkpoint: Checkpoint, exported: Path, workload: Workload) -> None:
    peer = CTranslate2(exported, checkpoint, PLAIN, sequential=True)
    texts = list(workload.texts)
    translated = translate_one_by_one(peer, checkpoint, "en", GREEDY)(texts)
    engine = OwnEngine(checkpoint, PLAIN, (1000,))
    engine.use_budget(1000)
    tokenizer = checkpoint.tokenizer
    prepared = engine.prepare([tokenizer.encode_source(text, "en") for text in texts], GREEDY)
    expected = [tokenizer.decode(token_ids) for token_ids, _ in engine.read(prepared, engine.run(prepared))]
    engine.close()
    peer.close()
    assert translated == expected
    assert len(set(translated)) > 3


def test_a_text_that_the_model_cannot_take_whole_is_refused_by_number(checkpoint: Checkpoint, exported: Path) -> None:
    peer = CTranslate2(exported, checkpoint, PLAIN, sequential=True)
    translate = translate_one_by_one(peer, checkpoint, "en", GREEDY)
    with pytest.raises(CorpusError, match=r"text 2 must have at most 40 tokens .*, got \d+"):
        translate(["Personne.", " ".join(sentences()[:9])])
    peer.close()


# Equal conditions


@pytest.mark.parametrize(
    ("dtype", "compute_type"),
    [("auto", "int8"), ("int8", "int8"), ("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32")],
)
def test_number_formats_match(dtype: Any, compute_type: str) -> None:
    settings = peer_settings(EngineConfig(device="cpu", dtype=dtype, num_workers=3, num_threads=2))
    assert settings == {
        "device": "cpu", "device_index": 0, "compute_type": compute_type, "inter_threads": 3, "intra_threads": 2,
    }  # fmt: skip


def test_one_call_after_another_has_all_the_threads() -> None:
    settings = peer_settings(EngineConfig(device="cpu", num_workers=3, num_threads=2), sequential=True)
    assert (settings["inter_threads"], settings["intra_threads"]) == (1, 6)


def test_options_mean_the_same() -> None:
    config = GenerationConfig(beam_size=3, patience=2.0, length_penalty=0.5, min_new_tokens=2, max_new_tokens=50)
    assert peer_options(config) == {
        "beam_size": 3, "patience": 2.0, "length_penalty": 0.5, "min_decoding_length": 2, "max_input_length": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"sampling": True, "beam_size": 1}, "sampling"),
        ({"repetition_penalty": 1.5}, "repetition_penalty"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"target_prefix": (5,)}, "target_prefix"),
        ({"banned_tokens": (5,)}, "banned_tokens"),
        ({"num_hypotheses": 2}, "num_hypotheses"),
    ],
)
def test_options_without_a_counterpart_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be the default in a comparison with CTranslate2"):
        peer_options(GenerationConfig(**options))


# The command


def test_the_command_compares_greedily_and_with_the_beam(
    checkpoint: Checkpoint, exported: Path, workload: Workload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported.is_dir()
    save_checkpoint(tmp_path / "model", dataclasses.replace(checkpoint, weight_format="float32"))
    (tmp_path / "a").write_text("\n".join(workload.texts), encoding="utf-8")
    files = [str(tmp_path / "a"), "--reference", str(tmp_path / "a"), "--model", str(tmp_path / "model")]
    engine = ["--dtype", "float32", "--decoder", "plain", "--num-workers", "1", "--device", "cpu"]
    options = ["--peer", "ctranslate2", "--beam-size", "2", "--rounds", "1", "--starts", "0", "--budget", "1000"]
    assert main(["benchmark", *files, *engine, *options, "--plot", str(tmp_path / "p.svg")]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [each["beam_size"] for each in report["comparisons"]] == [1, 2]
    for each in report["comparisons"]:
        assert each["identical"] == each["sentences"]
        ratio = each["ours"]["latency"]["mean_ms"] / each["theirs"]["latency"]["mean_ms"]
        assert each["latency_total"]["median"] == pytest.approx(ratio)
    assert report["circumstances"]["ctranslate2"].startswith("ctranslate2 ")
    assert "'compute_type': 'float32', 'inter_threads': 1" in report["circumstances"]["ctranslate2"]
    assert "token ids to token ids" in captured.err
    assert "beam 2" in (tmp_path / "p.svg").read_text(encoding="utf-8")
