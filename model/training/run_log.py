"""What a run tells: a progress bar, one JSON line per interval, TensorBoard, and samples; it decides nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from model.training.corpus import SourceReport
from model.training.flops import Flops, measured_cpu_peak, peak_flops
from model.training_config import TrainingConfig


@dataclass(frozen=True)
class StepMetrics:
    """Figures of one step over all ranks; tensors, so that a GPU is not waited for.

    Attributes:
        totals: summed label-smoothed loss and summed negative log-likelihood.
        tokens: target tokens.
        gradient_norm: before clipping.
        learning_rate: of the step.
        num_ids: source and target ids of this rank's batches, padding included.
        num_padding: how many of them are padding.
        flops: of this rank.
    """

    totals: Tensor
    tokens: Tensor
    gradient_norm: Tensor
    learning_rate: float
    num_ids: int = 0
    num_padding: int = 0
    flops: Flops = field(default_factory=Flops)


class RunLog:
    """The log of one run; does nothing on ranks other than the main one.

    Each line of ``metrics.jsonl`` is an event: "start", "step" (means over the steps since the line before) or
    "evaluation". A run that goes on from a checkpoint takes back the lines of later steps, which it will do again.
    """

    def __init__(
        self,
        path: Path,
        config: TrainingConfig,
        num_parameters: int,
        steps_done: int,
        *,
        active: bool,
        show_progress: bool,
        device: torch.device | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.num_parameters = num_parameters
        self.steps_done = steps_done
        self.active = active
        self.show_progress = show_progress and active
        self._console = Console(stderr=True)
        self._pending: list[StepMetrics] = []
        self._file: TextIO | None = None
        self._board: Any = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._since = time.perf_counter()
        self._peak = _peak_flops(device) if active and device is not None else None

    def __enter__(self) -> RunLog:
        if self.active:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = self._open_metrics()
            with contextlib.suppress(ImportError):  # the JSON lines are the complete log; TensorBoard is an extra
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=self.steps_done + 1)
            start = {"event": "start", "step": self.steps_done, "parameters": self.num_parameters}
            self._write(start | ({} if self._peak is None else {"peak_flops": self._peak}))
        if self.show_progress:
            self._progress = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            total = self.config.optimizer.total_steps
            self._task = self._progress.add_task("", total=total, completed=self.steps_done, status="")
            self._progress.start()
        self._since = time.perf_counter()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if self._pending:
            self._flush()
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()

    def corpus(self, reports: Sequence[SourceReport], num_pairs: int) -> None:
        """Write what became of every corpus file."""
        if self.active:
            self.path.mkdir(parents=True, exist_ok=True)
            table = {"pairs": num_pairs, "sources": [asdict(report) for report in reports]}
            (self.path / "corpus.json").write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")

    def step(self, step: int, metrics: StepMetrics) -> None:
        """Take in one step; every ``log_every_steps`` a line is written."""
        if not self.active:
            return
        self.steps_done = step
        self._pending.append(metrics)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)
        if step % self.config.log_every_steps == 0:
            self._flush()

    def evaluation(self, step: int, scores: dict[str, float], samples: Sequence[tuple[str, str]]) -> None:
        """Write dev scores and sample translations."""
        self._write({"event": "evaluation", "step": step, "scores": scores, "samples": [list(s) for s in samples]})
        for name, value in scores.items():
            self._scalar(f"dev/{name}", value, step)
        line = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        self._console.print(f"step {step}: {line}", markup=False, highlight=False)
        for source, translation in samples:
            self._console.print(f"  {source} -> {translation}", markup=False, highlight=False)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the time spent inside, on checkpoints and evaluation, out of tokens per second."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started

    def _flush(self) -> None:
        step = self.steps_done
        pending, self._pending = self._pending, []
        # One question to the device for all steps since the line before, and the only one.
        columns = [torch.stack([*m.totals, m.tokens, m.gradient_norm]) for m in pending]
        losses, likelihoods, all_tokens, norms = zip(*torch.stack(columns).tolist(), strict=True)
        tokens = sum(all_tokens)
        loss, likelihood = sum(losses) / tokens, sum(likelihoods) / tokens
        flops = sum((m.flops for m in pending), Flops())
        now = time.perf_counter()
        values = {
            "loss": loss,
            "nll": likelihood,
            "learning_rate": pending[-1].learning_rate,
            "gradient_norm": max(norms),
            "tokens_per_second": tokens / (now - self._since),
            "target_tokens": tokens,
            "padding": sum(m.num_padding for m in pending) / max(1, sum(m.num_ids for m in pending)),
            "flops": flops.useful,
            "flops_on_padding": flops.executed - flops.useful,
        }
        if self._peak is not None:
            values["flop_utilization"] = flops.useful / (now - self._since) / self._peak
        self._since = now
        self._write({"event": "step", "step": step, "time": time.time(), **values})
        for name, value in values.items():
            self._scalar(f"train/{name}", value, step)
        status = f"loss {loss:.3f}  lr {values['learning_rate']:.2e}  {values['tokens_per_second']:,.0f} tokens/s"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, status=status)

    def _open_metrics(self) -> TextIO:
        """Open the lines for appending, without those of steps that are to be done again."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.steps_done]
            temporary = self.path / "metrics.jsonl.partial"
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(file)
        return file.open("a", encoding="utf-8")

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)


def _peak_flops(device: torch.device) -> float | None:
    """Return the rate that utilisation is reported of: the maker's for a known GPU, a measured one for a CPU."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else measured_cpu_peak()
