"""Start time and peak memory of a translator, each measured in a process of its own; speed is measured elsewhere.

The parent side starts ``python -m model.evaluation.footprint`` and hands it a job. The child side imports nothing but
what its translator needs: a service with CTranslate2 has no torch in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.errors import UnavailableError
from model.evaluation.latency import percentile

TIMEOUT_SECONDS = 3600.0
"""How long a child may take."""


@dataclass(frozen=True)
class FootprintJob:
    """What a child does: load a model, translate the first text, then the others."""

    kind: Literal["dragoman", "ctranslate2"]
    """Who translates."""
    folder: str
    """Folder of the model, in that one's format."""
    texts: tuple[str, ...]
    """Texts, text to text."""
    source: str
    """Language of the texts."""
    target: str
    """Language to translate into."""
    settings: dict[str, Any]
    """Fields of EngineConfig, or arguments of ctranslate2.Translator."""
    options: dict[str, Any]
    """Fields of GenerationConfig, or arguments of ctranslate2's translate_batch."""
    tokenizer: str = ""
    """Folder of the tokeniser, which CTranslate2 does not have."""


@dataclass(frozen=True)
class Footprint:
    """What a process costs that translates."""

    start_seconds: float
    """Median time from the start of a process to its first translation."""
    starts: tuple[float, ...]
    """All of these times, the first one, with cold file caches, included."""
    peak_memory_mib: float
    """Greatest resident memory of a process that translated all texts, interpreter and libraries included."""


def measure_footprint(job: FootprintJob, starts: int) -> Footprint:
    """Start ``starts`` processes that translate one text, and one that translates all of them.

    Raises:
        UnavailableError: a process failed; its last words are in the message.
    """
    first = dataclasses.replace(job, texts=job.texts[:1])
    seconds = tuple(_run(first)[0] for _ in range(starts))
    _, report = _run(job)
    return Footprint(percentile(seconds, 50), seconds, report["peak_bytes"] / 2**20)


def _run(job: FootprintJob) -> tuple[float, dict[str, Any]]:
    """Run one child; return the seconds until its first line, and what its last line says."""
    command = [sys.executable, "-m", "model.evaluation.footprint"]
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        with subprocess.Popen(  # noqa: S603 - our own module, without a shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)
            watchdog.start()
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # its status says why it is broken
                    pipe.write(json.dumps(dataclasses.asdict(job)).encode())
                process.stdout.readline()
                seconds = time.perf_counter() - started
                output = process.stdout.read()  # not communicate(): it would miss what readline() has read ahead
                status = process.wait()
            finally:
                watchdog.cancel()
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
    if status:
        raise UnavailableError(f"the process that measures {job.kind} ended with status {status}: {last}")
    report: dict[str, Any] = json.loads(output)
    return seconds, report


def peak_memory_bytes() -> int:
    """Return the greatest resident memory of this process so far.

    Linux counts in ``getrusage`` also what the process was before it became this program: a copy of its parent.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _translate_with_ours(job: FootprintJob) -> None:
    from model.config import EngineConfig, GenerationConfig, config_from_mapping
    from model.translator import Translator

    config = config_from_mapping(GenerationConfig, job.options)
    with Translator.load(Path(job.folder), config_from_mapping(EngineConfig, job.settings)) as translator:
        _say_first(translator.translate(job.texts[0], job.source, job.target, config).text)
        translator.translate(list(job.texts[1:]), job.source, job.target, config)


def _translate_with_peer(job: FootprintJob) -> None:
    import ctranslate2  # type: ignore[import-untyped]

    from model.text.loading import load_tokenizer

    tokenizer = load_tokenizer(Path(job.tokenizer))
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    ids = {piece: index for index, piece in enumerate(pieces)}
    translator = ctranslate2.Translator(job.folder, **job.settings)

    def translate(texts: Sequence[str]) -> list[str]:
        sources = [[pieces[i] for i in tokenizer.encode_source(text, job.target)] for text in texts]
        results = translator.translate_batch(sources, **job.options)
        return [tokenizer.decode([ids[piece] for piece in result.hypotheses[0]]) for result in results]

    _say_first(translate(job.texts[:1])[0])
    translate(job.texts[1:])


def _say_first(text: str) -> None:
    print(json.dumps(text), flush=True)


def main() -> None:
    """Do the job on standard input; print the first translation, and at the end the peak of the memory."""
    values = json.loads(sys.stdin.buffer.read())
    job = FootprintJob(**{**values, "texts": tuple(values["texts"])})
    {"dragoman": _translate_with_ours, "ctranslate2": _translate_with_peer}[job.kind](job)
    print(json.dumps({"peak_bytes": peak_memory_bytes()}), flush=True)


if __name__ == "__main__":
    main()
