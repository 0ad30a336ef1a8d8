"""Benchmark results as tables for people, on stderr; the numbers are made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from model.evaluation.benchmark import EngineResult
    from model.evaluation.benchmark_run import BenchmarkReport
    from model.evaluation.footprint import Footprint
    from model.evaluation.interleaved import Ratio
    from model.evaluation.load import LoadPoint
    from model.evaluation.peer import Comparison
    from model.evaluation.server import ServerResult

FILE_WIDTH = 160
"""Columns where the output is not a terminal."""


def show_report(facts: Mapping[str, str], report: BenchmarkReport) -> None:
    """Print the circumstances and the tables."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:  # nobody's window is too narrow
        console = Console(stderr=True, highlight=False, width=FILE_WIDTH)
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)
    if report.engine is not None:
        _show_engine(console, report.engine)
    for comparison in report.comparisons:
        _show_comparison(console, comparison)
    if report.footprints:
        _show_footprints(console, report.footprints)
    if report.server is not None:
        _show_server(console, report.server)


def _show_engine(console: Console, result: EngineResult) -> None:
    rows = []
    for each in (*result.callers, *result.at_once):
        numbers = (each.tokens_per_second, each.texts_per_second, each.latency.p50_ms, each.latency.p95_ms)
        callers = str(each.concurrency) if each in result.callers else "all at once"
        rows.append((callers, str(each.max_batch_tokens), str(each.texts), *(f"{number:,.1f}" for number in numbers)))
    _table(console, "text to text", ("callers", "budget", "texts", "tokens/s", "texts/s", "p50 ms", "p95 ms"), rows)
    best = result.best
    console.print(f"most tokens per second: {best.tokens_per_second:,.1f}, with a budget of {best.max_batch_tokens}")
    if result.bleu is not None:
        console.print(f"BLEU: {result.bleu:.2f}")


def _show_comparison(console: Console, each: Comparison) -> None:
    ours, theirs = each.ours, each.theirs

    def row(name: str, mine: float | None, other: float | None, ratio: Ratio | None) -> tuple[str, ...]:
        shown = ["" if number is None else f"{number:,.2f}" for number in (mine, other)]
        return (name, *shown, _ratio(ratio))

    rows = [
        row("one sentence, p50 ms", ours.latency.p50_ms, theirs.latency.p50_ms, each.latency_p50),
        row("one sentence, p95 ms", ours.latency.p95_ms, theirs.latency.p95_ms, each.latency_p95),
        row("one sentence, mean ms", ours.latency.mean_ms, theirs.latency.mean_ms, each.latency_total),
        row("sentences/s at once", ours.sentences_per_second, theirs.sentences_per_second, each.throughput),
        row("tokens/s at once", ours.target_tokens_per_second, theirs.target_tokens_per_second, None),
        ("best batch size", str(ours.best_budget), str(theirs.best_budget), ""),
        ("reached the limit", str(ours.num_cut), str(theirs.num_cut), ""),
        row("BLEU", ours.bleu, theirs.bleu, None),
    ]
    title = (
        f"beam {each.beam_size}: {each.sentences} sentences, {each.left_out} left out, {each.identical} the same on "
        f"both sides, {each.rounds} rounds in turns, token ids to token ids"
    )
    _table(console, title, ("", ours.name, theirs.name, "our time / theirs (lowest to highest)"), rows)


def _show_footprints(console: Console, footprints: Mapping[str, Footprint]) -> None:
    rows = [
        (name, f"{each.start_seconds:.2f}", f"{max(each.starts):.2f}", f"{each.peak_memory_mib:,.0f}")
        for name, each in footprints.items()
    ]
    columns = ("", "start to first translation, s", "slowest", "peak memory, MiB")
    _table(console, "processes of their own, text to text", columns, rows)


def _show_server(console: Console, result: ServerResult) -> None:
    points = [*result.closed, *sorted(result.open, key=lambda point: point.rate or 0.0)]
    columns = ("load", "sent", "answered/s", "good/s", "good", "p50 ms", "p95 ms", "p99 ms", "errors", "sender CPU s")
    bound = result.closed_median.latency_bound_ms
    _table(console, f"{result.url}, good: within {bound:g} ms", columns, [_load_row(point) for point in points])
    if result.open:
        best = "no rate" if result.best is None else f"{result.best.rate:,.1f} arrivals per second"
        console.print(f"highest rate with 95% good: {best}", markup=False)
    for peer in result.peers:
        console.print(
            f"{peer.name}: {peer.texts_per_second:,.1f} texts/s; the service's texts/s over it: "
            f"{_ratio(peer.service_to_peer)}",
            markup=False,
        )


def _load_row(point: LoadPoint) -> tuple[str, ...]:
    latency = point.latency
    times = (latency.p50_ms, latency.p95_ms, latency.p99_ms) if latency is not None else ()
    shown = [f"{each:,.1f}" for each in times] or ["", "", ""]
    return (
        f"{point.clients} clients" if point.rate is None else f"{point.rate:,.1f}/s",
        str(point.requests),
        f"{point.throughput:,.1f}",
        f"{point.goodput:,.1f}",
        f"{point.good / point.requests:.1%}",
        *shown,
        ", ".join(f"{count} {kind}" for kind, count in sorted(point.errors.items())),
        f"{point.sender_cpu_seconds:.1f}",
    )


def _ratio(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.median:.3f} ({ratio.lowest:.3f} to {ratio.highest:.3f})"


def _table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    console.print(title, markup=False)  # a table's own title would be wrapped to its width
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
