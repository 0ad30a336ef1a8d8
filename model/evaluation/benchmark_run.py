"""One whole benchmark: which measurements are made of what, and in which order; each is made elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import EngineConfig, GenerationConfig
from model.errors import ConfigurationError
from model.evaluation.benchmark import EngineResult, Load, Workload, measure, measure_engine
from model.evaluation.footprint import Footprint, FootprintJob, measure_footprint
from model.evaluation.plot import plot_comparisons, plot_engine, plot_server, require_plot
from model.evaluation.server import LoadSettings, ServerResult, measure_server

if TYPE_CHECKING:
    from model.checkpoints.checkpoint import Checkpoint
    from model.evaluation.peer import Comparison

PEERS = ("ctranslate2", "ctranslate2-sequential")
"""Who can be compared with the engine: all sentences in one call, or one call after another."""
SERVICE_PEERS = ("engine", "ctranslate2-sequential")
"""Who can be measured beside a service: our engine without HTTP, or one call after another."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is to be measured: the engine alone, or with peers, or a service.

    Raises:
        ConfigurationError: the parts do not fit together, or a package is missing that will be needed.
    """

    workload: Workload
    """The texts."""
    generation: GenerationConfig
    """How to decode them."""
    engine: EngineConfig
    """Our engine's settings, and what a peer's follow."""
    model: Path | None = None
    """Folder of the model; None means the embedded one."""
    concurrencies: tuple[int, ...] = (8, 64)
    """Callers at once, for the engine alone."""
    budgets: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Values of max_batch_tokens to try."""
    repeat: int = 1
    """How often the texts are translated in each run of the engine alone."""
    rounds: int = 5
    """How often both sides of a comparison do everything, in turns."""
    starts: int = 5
    """Processes that are started for the start time; 0 leaves out start time and memory."""
    peers: tuple[str, ...] = ()
    """Who is measured beside us, out of :data:`PEERS` or :data:`SERVICE_PEERS`."""
    server: str | None = None
    """Address of a service to load, instead of the engine."""
    load: LoadSettings = field(default_factory=LoadSettings)
    """How to load it."""
    plot: Path | None = None
    """Picture to draw."""

    def __post_init__(self) -> None:
        allowed = PEERS if self.server is None else SERVICE_PEERS
        for name in self.peers:
            if name not in allowed:
                beside = "beside the engine" if self.server is None else "beside a service"
                raise ConfigurationError("peer", f"must be one of {', '.join(allowed)} {beside}", name)
        if self.plot is not None:
            require_plot(self.plot)
        needed = {"sacrebleu": "train"} if self.workload.references else {}
        needed |= {"ctranslate2": "benchmark"} if set(self.peers) & set(PEERS) else {}
        needed |= {"httpx": "benchmark"} if self.server is not None else {}
        for package, extra in needed.items():  # before hours of measuring
            if importlib.util.find_spec(package) is None:
                raise ConfigurationError(package, f"must be installed (extra '{extra}')", None)

    @property
    def folder(self) -> Path:
        """The model's folder."""
        from model.translator import DEFAULT_MODEL, PRETRAINED

        return self.model or PRETRAINED / DEFAULT_MODEL

    def facts(self) -> dict[str, str]:
        """Return the circumstances of the measurements, in the order to print them."""
        from model.evaluation.circumstances import circumstances, version

        texts = f"{len(self.workload.texts)} of {self.workload.name}, {self.workload.source} to {self.workload.target}"
        found = {
            "model": "embedded" if self.model is None else str(self.model),
            "engine": str(self.engine),
            "decoding": str(self.generation),
            "texts": f"{texts}, {self.repeat} times a run" if self.repeat > 1 else texts,
            **circumstances(),
        }
        for name in self.peers:
            if name in PEERS:
                from model.evaluation.contestants import peer_settings

                settings = peer_settings(self.engine, sequential=name == "ctranslate2-sequential")
                found[name] = f"ctranslate2 {version('ctranslate2')}, {settings}"
        if self.server is not None:
            found["load"] = str(self.load)
        return found


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured; parts that were not are empty."""

    engine: EngineResult | None = None
    comparisons: tuple[Comparison, ...] = ()
    footprints: dict[str, Footprint] = field(default_factory=dict)
    """Start time and memory of each side by its name."""
    server: ServerResult | None = None


def run_benchmark(plan: BenchmarkPlan, load: Load, after_each: Callable[[], None] = lambda: None) -> BenchmarkReport:
    """Measure what the plan asks for, and draw it.

    Args:
        plan: see there.
        load: loads a translator of the plan's model.
        after_each: called after each piece of progress.

    Raises:
        DragomanError: as the measurements do.
    """
    if plan.server is not None:
        report = BenchmarkReport(server=_measure_server(plan, plan.server, load, after_each))
    elif plan.peers:
        report = _compare(plan, after_each)
    else:
        report = _measure_alone(plan, load, after_each)
    if plan.plot is not None:
        if report.server is not None:
            plot_server(plan.plot, report.server)
        elif report.engine is not None:
            plot_engine(plan.plot, report.engine)
        else:
            plot_comparisons(plan.plot, report.comparisons)
    return report


def _measure_alone(plan: BenchmarkPlan, load: Load, after_each: Callable[[], None]) -> BenchmarkReport:
    result = measure_engine(
        load,
        plan.workload,
        plan.generation,
        plan.engine,
        concurrencies=plan.concurrencies,
        budgets=plan.budgets,
        repeat=plan.repeat,
        after_each=after_each,
    )
    footprints = {}
    if plan.starts:
        job = _own_job(plan, result.best.max_batch_tokens, plan.workload.texts)
        footprints["dragoman"] = measure_footprint(job, plan.starts)
    return BenchmarkReport(engine=result, footprints=footprints)


def _compare(plan: BenchmarkPlan, after_each: Callable[[], None]) -> BenchmarkReport:
    """Compare with each peer, greedily and with the plan's beam."""
    from model.checkpoints.checkpoint import load_checkpoint
    from model.evaluation.contestants import CTranslate2, OwnEngine
    from model.evaluation.peer import compare

    checkpoint = load_checkpoint(plan.folder)
    comparisons: list[Comparison] = []
    with _exported(checkpoint, plan.engine) as folder, contextlib.ExitStack() as stack:
        ours = OwnEngine(checkpoint, plan.engine, plan.budgets)
        stack.callback(ours.close)
        for name in plan.peers:
            sequential = name == "ctranslate2-sequential"
            theirs = CTranslate2(folder, checkpoint, plan.engine, sequential=sequential)
            with contextlib.closing(theirs):
                for beam_size in sorted({1, plan.generation.beam_size}):
                    config = dataclasses.replace(plan.generation, beam_size=beam_size)
                    comparisons.append(
                        compare(ours, theirs, checkpoint, plan.workload, config, plan.rounds, after_each)
                    )
        ours.close()  # before others' memory and start times are measured
        footprints = _footprints(plan, checkpoint, folder, comparisons) if plan.starts else {}
    return BenchmarkReport(comparisons=tuple(comparisons), footprints=footprints)


def _measure_server(plan: BenchmarkPlan, url: str, load: Load, after_each: Callable[[], None]) -> ServerResult:
    """Load a service, in turns with the peers, which translate in this process."""
    peers: dict[str, Callable[[Sequence[str]], Any]] = {}
    with contextlib.ExitStack() as stack:
        if "engine" in plan.peers:
            translator = stack.enter_context(load(plan.engine))

            def translate(texts: Sequence[str]) -> None:
                workload = plan.workload
                measure(
                    lambda text: translator.submit(text, workload.source, workload.target, plan.generation),
                    texts,
                    len(texts),
                )

            peers["engine"] = translate
        if "ctranslate2-sequential" in plan.peers:
            from model.checkpoints.checkpoint import load_checkpoint
            from model.evaluation.contestants import CTranslate2, translate_one_by_one

            checkpoint = load_checkpoint(plan.folder)
            folder = stack.enter_context(_exported(checkpoint, plan.engine))
            peer = CTranslate2(folder, checkpoint, plan.engine, sequential=True)
            stack.callback(peer.close)
            peers[peer.name] = translate_one_by_one(peer, checkpoint, plan.workload.target, plan.generation)
        return measure_server(url, plan.workload, plan.generation, plan.load, peers, after_each)


@contextlib.contextmanager
def _exported(checkpoint: Checkpoint, engine: EngineConfig) -> Iterator[Path]:
    """Yield a folder with the same weights in CTranslate2's format."""
    from model.checkpoints.ctranslate2_export import export_ctranslate2
    from model.evaluation.contestants import peer_weights

    with tempfile.TemporaryDirectory(prefix="dragoman-benchmark-") as folder:
        export_ctranslate2(Path(folder) / "model", checkpoint, peer_weights(engine))
        yield Path(folder) / "model"


def _own_job(plan: BenchmarkPlan, budget: int, texts: tuple[str, ...]) -> FootprintJob:
    return FootprintJob(
        kind="dragoman",
        folder=str(plan.folder),
        texts=texts,
        source=plan.workload.source,
        target=plan.workload.target,
        settings=dataclasses.asdict(dataclasses.replace(plan.engine, max_batch_tokens=budget)),
        options=dataclasses.asdict(plan.generation),
    )


def _footprints(
    plan: BenchmarkPlan, checkpoint: Checkpoint, folder: Path, comparisons: Sequence[Comparison]
) -> dict[str, Footprint]:
    """Return start time and memory of ours and of the first peer, with the batch sizes that were best for the beam."""
    from model.evaluation.contestants import peer_job

    comparison = next(each for each in comparisons if each.beam_size == plan.generation.beam_size)
    peer = peer_job(plan.workload, checkpoint, folder, plan.engine, plan.generation, comparison.theirs.best_budget)
    return {
        "dragoman": measure_footprint(_own_job(plan, comparison.ours.best_budget, peer.texts), plan.starts),
        comparison.theirs.name: measure_footprint(peer, plan.starts),
    }
