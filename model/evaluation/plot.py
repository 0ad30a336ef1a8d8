"""Pictures of benchmark results, as files; they show what the tables say, and compute nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from model.evaluation.benchmark import EngineResult
    from model.evaluation.peer import Comparison
    from model.evaluation.server import ServerResult

SUFFIXES = (".svg", ".png", ".pdf")
"""What a picture's name may end in."""


def require_plot(path: Path) -> None:
    """Check before a long measurement that its picture can be drawn.

    Raises:
        ConfigurationError: the name ends otherwise, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigurationError("plot", f"must end in {', '.join(SUFFIXES)}", str(path))
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("matplotlib", "must be installed (extra 'benchmark')", None) from error


def plot_engine(path: Path, result: EngineResult) -> None:
    """Draw latency and throughput over concurrency, and throughput over budget."""
    callers, at_once = result.callers, result.at_once
    with _figure(path, 3) as (latency, throughput, budget):
        numbers = [each.concurrency for each in callers]
        _line(latency, numbers, [each.latency.p50_ms for each in callers], "p50")
        _line(latency, numbers, [each.latency.p95_ms for each in callers], "p95")
        _name(latency, "latency", "callers at once", "milliseconds")
        _line(throughput, numbers, [each.tokens_per_second for each in callers], "dragoman")
        _name(throughput, "throughput", "callers at once", "target tokens per second")
        budgets = [each.max_batch_tokens for each in at_once]
        _line(budget, budgets, [each.tokens_per_second for each in at_once], "dragoman")
        _name(budget, "all texts at once", "budget in tokens", "target tokens per second")


def plot_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Draw, for each peer and beam size, latency and throughput of both sides, and the sweeps of batch sizes."""
    with _figure(path, 3) as (latency, throughput, sweep):
        labels = [f"{each.theirs.name.replace('-', chr(10))}\nbeam {each.beam_size}" for each in comparisons]
        for offset, side in ((-0.2, "ours"), (0.2, "theirs")):
            sides = [getattr(each, side) for each in comparisons]
            places = [index + offset for index in range(len(sides))]
            name = "dragoman" if side == "ours" else "peer"
            latency.bar(places, [each.latency.p50_ms for each in sides], 0.4, label=f"{name}, p50")
            latency.plot(places, [each.latency.p95_ms for each in sides], "k_", markersize=14)
            throughput.bar(places, [each.sentences_per_second for each in sides], 0.4, label=name)
        for axes in (latency, throughput):
            axes.set_xticks(range(len(labels)), labels, fontsize="small")
        _name(latency, "one sentence (dash: p95)", "", "milliseconds")
        _name(throughput, "all sentences at once", "", "sentences per second")
        for each in comparisons:
            if not each.theirs.best_budget:  # one call a sentence: there is nothing to sweep
                continue
            for contestant in (each.ours, each.theirs):
                budgets, speeds = zip(*contestant.sweep, strict=True)
                _line(sweep, budgets, speeds, f"{contestant.name}, beam {each.beam_size}")
        _name(sweep, "batch sizes", "tokens (each side's own count)", "sentences per second")


def plot_server(path: Path, result: ServerResult) -> None:
    """Draw latency and goodput over the rate of arrivals."""
    points = sorted(result.open, key=lambda point: point.rate or 0.0)
    answered = [(point.rate or 0.0, point.latency) for point in points if point.latency is not None]
    with _figure(path, 2) as (latency, goodput):
        for name in ("p50_ms", "p95_ms", "p99_ms"):
            _line(latency, [rate for rate, _ in answered], [getattr(each, name) for _, each in answered], name[:3])
        latency.axhline(points[0].latency_bound_ms, color="gray", linestyle=":", label="bound")
        latency.set_yscale("log")
        _name(latency, "latency", "arrivals per second", "milliseconds")
        rates = [point.rate or 0.0 for point in points]
        _line(goodput, rates, rates, "arrivals")
        _line(goodput, rates, [point.goodput for point in points], "within the bound")
        goodput.axhline(
            result.closed_median.throughput,
            color="gray",
            linestyle=":",
            label=f"{result.closed_median.clients} clients",
        )
        _name(goodput, "goodput", "arrivals per second", "requests per second")


@contextmanager
def _figure(path: Path, count: int) -> Iterator[Any]:
    """Yield axes side by side, and write them to a file at the end."""
    from matplotlib.figure import Figure  # without pyplot: no window system, and nothing to close

    figure = Figure(figsize=(5 * count, 4), layout="constrained")
    yield figure.subplots(1, count)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _line(axes: Any, across: Sequence[float], up: Sequence[float], label: str) -> None:
    axes.plot(across, up, marker="o", label=label)


def _name(axes: Any, title: str, across: str, up: str) -> None:
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.set_ylim(bottom=None if axes.get_yscale() == "log" else 0)
    axes.legend(fontsize="small")
