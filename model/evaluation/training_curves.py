"""The course of training runs, read from their logs, summed up and drawn; it trains and measures nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CorpusError
from model.evaluation.plot import require_plot

METRICS_FILE = "metrics.jsonl"
_COLUMNS = (
    ("nll", "negative log-likelihood of a target token"),
    ("learning_rate", "learning rate"),
    ("tokens_per_second", "target tokens per second"),
)


@dataclass(frozen=True)
class TrainingCurve:
    """What a run's log says.

    Attributes:
        name: the run folder's.
        steps: the lines about steps, rising.
        evaluations: the lines about dev sets, rising.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]

    def scores(self, ending: str = ".bleu") -> dict[str, list[tuple[int, float]]]:
        """Return, for each dev set and direction, its scores with their steps."""
        found: dict[str, list[tuple[int, float]]] = {}
        for line in self.evaluations:
            for name, value in line["scores"].items():
                if name.endswith(ending):
                    found.setdefault(name.removesuffix(ending), []).append((line["step"], value))
        return found

    def summary(self) -> dict[str, Any]:
        """Return the run in numbers: steps, tokens, seconds of training, the last loss, and last and best BLEU."""
        tokens = sum(line["target_tokens"] for line in self.steps)
        seconds = sum(line["target_tokens"] / line["tokens_per_second"] for line in self.steps)
        scores = self.scores()
        return {
            "run": self.name,
            "steps": self.steps[-1]["step"],
            "target_tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "nll": self.steps[-1]["nll"],
            "bleu": {name: points[-1][1] for name, points in scores.items()},
            "best_bleu": {name: max(value for _, value in points) for name, points in scores.items()},
        }


def read_curve(run: Path) -> TrainingCurve:
    """Read a run's log; where a run was cut off and went on, each step counts once.

    Raises:
        CorpusError: there is no log, a line is damaged, or nothing was trained yet.
    """
    file = run / METRICS_FILE
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        steps = {line["step"]: line for line in lines if line["event"] == "step"}
        evaluations = {line["step"]: line for line in lines if line["event"] == "evaluation"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"cannot read the log {file}: {error}") from error
    if not steps:
        raise CorpusError(f"{file} has no step yet")
    return TrainingCurve(
        run.resolve().name,
        tuple(steps[number] for number in sorted(steps)),
        tuple(evaluations[number] for number in sorted(evaluations)),
    )


def draw_curves(path: Path, curves: Sequence[TrainingCurve], *, in_turn: bool = False) -> None:
    """Draw loss, dev BLEU, learning rate and speed over the steps.

    Args:
        path: of the picture; its ending says which format.
        curves: one colour each; dev sets have a line each.
        in_turn: one curve after the other, as stages of one training.

    Raises:
        ConfigurationError: the name ends otherwise, or matplotlib is not installed.
    """
    require_plot(path)
    from matplotlib.figure import Figure  # without pyplot: no window system, and nothing to close

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    loss, bleu, rate, speed = figure.subplots(2, 2).flatten()
    for number, (curve, offset) in enumerate(zip(curves, _offsets(curves, in_turn), strict=True)):
        colour = f"C{number}"
        across = [offset + line["step"] for line in curve.steps]
        for axes, (column, _) in zip((loss, rate, speed), _COLUMNS, strict=True):
            axes.plot(across, [line[column] for line in curve.steps], color=colour, label=curve.name)
        for (name, points), style in zip(curve.scores().items(), _styles(), strict=False):
            label = f"{curve.name}: {name}" if len(curves) > 1 else name
            steps, values = zip(*points, strict=True)
            bleu.plot([offset + step for step in steps], values, style, color=colour, label=label)
    for axes, (_, title) in zip((loss, rate, speed), _COLUMNS, strict=True):
        axes.set(title=title, xlabel="step")
    bleu.set(title="BLEU of dev sets", xlabel="step")
    for axes in (rate, speed, bleu):
        axes.set_ylim(bottom=0)
    for axes in (loss, rate, speed, bleu):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _offsets(curves: Sequence[TrainingCurve], in_turn: bool) -> Iterator[int]:
    offset = 0
    for curve in curves:
        yield offset
        offset += int(curve.steps[-1]["step"]) if in_turn else 0


def _styles() -> Iterator[str]:
    """Yield line styles for ever; a single point is seen too."""
    while True:
        yield from ("o-", "s--", "^-.", "v:")
