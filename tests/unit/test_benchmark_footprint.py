"""Start time and memory: what the child does and says, and what the parent makes of it."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.checkpoints.checkpoint import Checkpoint, save_checkpoint
from model.config import EngineConfig, GenerationConfig
from model.errors import UnavailableError
from model.evaluation import footprint
from model.evaluation.benchmark import Workload
from model.evaluation.contestants import peer_job
from model.evaluation.footprint import FootprintJob, measure_footprint, peak_memory_bytes
from tests.unit.network_variations import build
from tests.unit.tiny_tokenizer import VOCAB_SIZE, sentences, tiny_tokenizer

PLAIN = EngineConfig(device="cpu", dtype="float32", decoder="plain", num_workers=1)
CONFIG = GenerationConfig(beam_size=1, max_new_tokens=5)
WORKLOAD = Workload(tuple(sentences()[:4]), (), "fr", "en", "sentences")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A tiny network."""
    model = build("default", vocab_size=VOCAB_SIZE, max_source_length=40)
    return Checkpoint(
        model.config, {name: parameter.detach() for name, parameter in model.named_parameters()}, tiny_tokenizer()
    )


@pytest.fixture
def peer(checkpoint: Checkpoint, tmp_path: Path) -> FootprintJob:
    """A child with CTranslate2."""
    pytest.importorskip("ctranslate2", reason="ctranslate2 is a benchmark extra")
    from model.checkpoints.ctranslate2_export import export_ctranslate2

    export_ctranslate2(tmp_path / "exported", checkpoint)
    return peer_job(WORKLOAD, checkpoint, tmp_path / "exported", PLAIN, CONFIG, 256)


def said(job: FootprintJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines that a child prints, run in this process."""
    content = json.dumps(dataclasses.asdict(job)).encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    footprint.main()
    return capsys.readouterr().out.splitlines()


def test_both_children_say_the_same_first_translation(
    checkpoint: Checkpoint,
    peer: FootprintJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_checkpoint(tmp_path / "model", dataclasses.replace(checkpoint, weight_format="float32"))
    ours = FootprintJob(
        kind="dragoman",
        folder=str(tmp_path / "model"),
        texts=WORKLOAD.texts,
        source="fr",
        target="en",
        settings=dataclasses.asdict(PLAIN),
        options=dataclasses.asdict(CONFIG),
    )
    first, last = said(ours, monkeypatch, capsys)
    assert json.loads(first)
    assert json.loads(last)["peak_bytes"] > 0
    assert said(peer, monkeypatch, capsys)[0] == first


def test_a_process_is_measured_from_its_start(peer: FootprintJob, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    run = footprint._run

    def counted(job: FootprintJob) -> object:
        started.append(len(job.texts))
        return run(job)

    monkeypatch.setattr(footprint, "_run", counted)
    result = measure_footprint(peer, 1)
    assert started == [1, 4]
    assert result.starts == (result.start_seconds,)
    assert result.start_seconds > 0
    # A Python with CTranslate2 needs tens of MiB; with a copy of this process, torch included, it would be hundreds.
    assert 10 < result.peak_memory_mib < 0.75 * peak_memory_bytes() / 2**20


def test_a_process_that_fails_is_reported_with_its_last_words(peer: FootprintJob) -> None:
    with pytest.raises(UnavailableError, match=r"ctranslate2 ended with status 1: .*cannot read the tokeniser"):
        measure_footprint(dataclasses.replace(peer, tokenizer="/nonexistent"), 1)


def test_one_text_after_another_is_one_call_each(checkpoint: Checkpoint, tmp_path: Path) -> None:
    job = peer_job(WORKLOAD, checkpoint, tmp_path, PLAIN, GenerationConfig(beam_size=1), 0)
    assert job.options["max_batch_size"] == 1
    longest = max(len(checkpoint.tokenizer.encode_source(text, "en")) for text in WORKLOAD.texts)
    assert job.options["max_decoding_length"] == min(48, -(-5 * longest // 2) + 10)


def test_texts_that_the_model_cannot_take_whole_are_left_out(checkpoint: Checkpoint, tmp_path: Path) -> None:
    workload = dataclasses.replace(WORKLOAD, texts=(" ".join(sentences()[:9]), *WORKLOAD.texts))
    assert peer_job(workload, checkpoint, tmp_path, PLAIN, CONFIG, 256).texts == WORKLOAD.texts


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the reference is Linux'")
def test_the_peak_is_at_least_what_is_resident() -> None:
    slack = 2**20  # the kernel counts a thread's pages in batches, so a number may lag behind by some
    block = bytearray(os.urandom(1)) * (64 * 2**20)
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = peak_memory_bytes()
    assert len(block) < resident <= peak + slack
    del block
    assert peak_memory_bytes() >= peak - slack
