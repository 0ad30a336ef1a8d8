"""Checks one installation from the interpreter to a test translation and says what is wrong; it repairs nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model.evaluation.circumstances import circumstances, memory_gib

if TYPE_CHECKING:
    from model.config import EngineConfig
    from model.translator import Translator

Status = Literal["ok", "warn", "fail"]

TEST_SENTENCES = {"fr": "Bonjour, comment allez-vous ?", "en": "Good morning, how are you?"}
"""What the test translation translates, by source language."""
FAST_INSTRUCTIONS = ("AVX512", "AVX2", "SVE", "NEON", "ASIMD")
"""Beginnings of instruction sets with which torch is worth using."""
MIN_MEMORY_GIB = 2.0
"""Below it, torch and a model leave little for requests."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: Status
    subject: str
    detail: str


def examine(model: Path | None, engine: EngineConfig) -> Iterator[Finding]:
    """Yield findings one by one, so that slow checks do not hold up the lines before them.

    Args:
        model: folder of the model to load; None for the embedded one.
        engine: device and number format to load it with.
    """
    yield from _guarded("python", _examine_python)
    yield from _guarded("torch", lambda: _examine_torch(engine))
    yield from _guarded("model", lambda: _examine_model(model, engine))


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what ``check`` yields; anything it raises becomes a finding, for a doctor must not fall ill himself."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("fail", subject, f"{type(error).__name__}: {error}")


def _examine_python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    supported = sys.version_info >= (3, 11)
    yield Finding("ok" if supported else "fail", "python", f"{version} at {sys.executable}")
    memory = memory_gib()
    yield Finding("ok" if memory >= MIN_MEMORY_GIB else "warn", "memory", f"{memory:.1f} GiB")


def _examine_torch(engine: EngineConfig) -> Iterator[Finding]:
    import torch

    from model.engine.cores import usable_cores
    from model.engine.decoders import COMPILER, compiler_is_installed
    from model.engine.device import count_workers, select_device

    facts = circumstances()
    yield Finding("ok", "machine", facts["machine"])
    # A source tree runs without being installed; torch and its like would have failed at import.
    yield Finding("warn" if "not installed" in facts["versions"] else "ok", "versions", facts["versions"])
    capability = facts["instructions"]
    fast = capability.upper().startswith(FAST_INSTRUCTIONS)
    yield Finding("ok" if fast else "warn", "instructions", capability if fast else f"{capability}: will be slow")
    device = select_device(engine.device)
    workers, cores = count_workers(engine, device), usable_cores()
    threads = workers * engine.num_threads
    crowded = f", more than the {cores} usable cores: slower than {cores}" if threads > cores else ""
    yield Finding("warn" if crowded else "ok", "workers", f"{workers} with {engine.num_threads} threads each{crowded}")
    if device.type == "cpu" and not compiler_is_installed():
        yield Finding("warn", "decoder", f"{COMPILER} is not installed: decoding is several times slower")
    probe = torch.ones(2, 2, device=device)
    works = bool((probe @ probe == 2).all())
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    yield Finding("ok" if works else "fail", "device", f"{device}{name}, {engine.dtype}")


def _examine_model(model: Path | None, engine: EngineConfig) -> Iterator[Finding]:
    from model.translator import Translator

    started = time.perf_counter()
    translator = Translator.load(model, engine)
    try:
        seconds = time.perf_counter() - started
        facts = ", ".join(f"{key} {value}" for key, value in translator.info.items())
        yield Finding("ok", "model", f"{translator.name}: {facts}; loaded in {seconds:.1f} s")
        yield from _examine_translation(translator)
    finally:
        translator.close()


def _examine_translation(translator: Translator) -> Iterator[Finding]:
    """Translate one sentence out of each language that has one, into the first other language."""
    yield Finding("ok" if len(translator.languages) > 1 else "fail", "languages", ", ".join(translator.languages))
    for source, sentence in TEST_SENTENCES.items():
        others = [code for code in translator.languages if code != source]
        if source not in translator.languages or not others:
            continue
        started = time.perf_counter()
        result = translator.translate([sentence], source=source, target=others[0])[0]
        milliseconds = 1000 * (time.perf_counter() - started)
        good = bool(result.text.strip()) and result.finish_reason == "end" and not result.warnings
        outcome = f"{sentence!r} -> {result.text!r} in {milliseconds:.0f} ms"
        yield Finding("ok" if good else "fail", f"{source} to {others[0]}", outcome)
