"""What the service measures, in Prometheus' format; labels are fixed sets: never a key, an address or a text.

Each application has a registry of its own, so that several can live in one process.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from model import Translation

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of :meth:`Metrics.render`."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def package_version() -> str:
    """Return the version of the installed distribution, or 0.0.0 for a source tree that was never installed."""
    try:
        return version("dragoman")
    except PackageNotFoundError:
        return "0.0.0"


class EngineStatistics(Protocol):
    """What is read of model.EngineStats."""

    @property
    def queued_requests(self) -> int: ...
    @property
    def running_requests(self) -> int: ...
    @property
    def running_rows(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def decoded_rows(self) -> int: ...
    @property
    def source_tokens(self) -> int: ...
    @property
    def generated_tokens(self) -> int: ...
    @property
    def finished_requests(self) -> int: ...
    @property
    def cancelled_requests(self) -> int: ...
    @property
    def expired_requests(self) -> int: ...
    @property
    def failed_requests(self) -> int: ...
    @property
    def rejected_requests(self) -> int: ...
    @property
    def busy_seconds(self) -> float: ...
    @property
    def accepting(self) -> bool: ...


class MeasuredTranslator(Protocol):
    """What is read of a model that is in memory."""

    @property
    def name(self) -> str: ...
    def stats(self) -> EngineStatistics: ...


class Metrics:
    """The metrics of one application.

    It is also an observer of engines: on_step, on_admitted and on_finished may be called from any thread.
    """

    def __init__(self) -> None:
        # A time stamp for each series would double the output and tell nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "dragoman_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self._request_seconds = Histogram(
            "dragoman_http_request_seconds",
            "Time from the arrival of a request to the end of its reply.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_progress = Gauge("dragoman_http_requests_in_progress", "Requests being answered.", registry=registry)
        self._texts = Counter("dragoman_texts", "Texts answered.", ("model", "outcome"), registry=registry)
        self._characters = Counter(
            "dragoman_characters", "Characters of the texts answered.", ("model",), registry=registry
        )
        self._warnings = Counter(
            "dragoman_translation_warnings", "Warnings in answers.", ("model", "code"), registry=registry
        )
        self._batch_rows = Histogram(
            "dragoman_engine_batch_rows", "Rows of each decoding step.", buckets=_ROWS, registry=registry
        )
        self._step_seconds = Histogram(
            "dragoman_engine_step_seconds", "Time of each decoding step.", buckets=_STEP_SECONDS, registry=registry
        )
        self._queue_seconds = Histogram(
            "dragoman_engine_queue_seconds", "Time of a segment in the queue.", buckets=_SECONDS, registry=registry
        )
        self._segment_seconds = Histogram(
            "dragoman_engine_segment_seconds",
            "Time from the submission of a segment to its end.",
            ("outcome",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._segment_tokens = Histogram(
            "dragoman_engine_segment_tokens",
            "Tokens of the segments that ended.",
            ("side",),
            buckets=_TOKENS,
            registry=registry,
        )
        self._admissions = Counter(
            "dragoman_admissions", "Requests by what the keys and limits said.", ("outcome",), registry=registry
        )
        self._documents = Counter("dragoman_documents", "Documents that ended.", ("outcome",), registry=registry)
        self._cache_lookups = Counter(
            "dragoman_cache_lookups", "Texts by what the cache had for them.", ("outcome",), registry=registry
        )
        self._cache_evictions = Counter(
            "dragoman_cache_evictions", "Translations that had to leave the cache.", registry=registry
        )
        self._models = Counter(
            "dragoman_model_events", "Models loaded, unloaded, or failed to load.", ("event",), registry=registry
        )
        for event in ("loaded", "unloaded", "failed"):
            self._models.labels(event)
        build = Gauge("dragoman_build_info", "Always 1.", ("version", "python"), registry=registry)
        build.labels(package_version(), platform.python_version()).set(1)

    def watch(self, translators: Callable[[], Sequence[MeasuredTranslator]], ready: Callable[[], bool]) -> None:
        """Let every scrape read the engines' statistics and the readiness."""
        self.registry.register(_EngineCollector(translators))
        Gauge("dragoman_ready", "1 while requests are taken.", registry=self.registry).set_function(ready)

    def request_started(self) -> None:
        """A request arrived."""
        self._in_progress.inc()

    def request_finished(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is its template, None if no route matched."""
        template = route or "unmatched"
        self._in_progress.dec()
        self._requests.labels(method if method in _METHODS else "other", template, status).inc()
        self._request_seconds.labels(template).observe(seconds)

    def count_text(self, model: str, characters: int, translation: Translation | None) -> None:
        """A text was answered; without a translation it stayed as it was."""
        outcome = "unchanged" if translation is None else translation.finish_reason
        self._texts.labels(model, outcome).inc()
        self._characters.labels(model).inc(characters)
        for warning in () if translation is None else translation.warnings:
            self._warnings.labels(model, warning.code).inc()

    def count_admission(self, outcome: str) -> None:
        """A request was admitted, or refused for a reason; never labelled by the caller."""
        self._admissions.labels(outcome).inc()

    def count_document(self, outcome: str) -> None:
        """A document was translated, or was not."""
        self._documents.labels(outcome).inc()

    def watch_cache(self, entries: Callable[[], int], num_bytes: Callable[[], int]) -> None:
        """Let every scrape read the size of the cache."""
        entries_gauge = Gauge("dragoman_cache_entries", "Translations in the cache.", registry=self.registry)
        entries_gauge.set_function(entries)
        bytes_gauge = Gauge("dragoman_cache_bytes", "Estimated memory of the cache.", registry=self.registry)
        bytes_gauge.set_function(num_bytes)

    def watch_models(self, loaded: Callable[[], int], num_bytes: Callable[[], int]) -> None:
        """Let every scrape read how many models are in memory, and what they need."""
        Gauge("dragoman_models_loaded", "Models in memory.", registry=self.registry).set_function(loaded)
        bytes_gauge = Gauge("dragoman_model_bytes", "Estimated memory of the models.", registry=self.registry)
        bytes_gauge.set_function(num_bytes)

    def count_model(self, event: str) -> None:
        """A model was loaded, unloaded, or failed to load."""
        self._models.labels(event).inc()

    def count_cache(self, outcome: str) -> None:
        """A text was looked up: hit, joined (the same was on its way), miss or bypassed."""
        self._cache_lookups.labels(outcome).inc()

    def count_cache_eviction(self) -> None:
        """A translation had to make room."""
        self._cache_evictions.inc()

    def on_step(self, batch_rows: int, seconds: float) -> None:
        """An engine made a step."""
        self._batch_rows.observe(batch_rows)
        self._step_seconds.observe(seconds)

    def on_admitted(self, queue_seconds: float) -> None:
        """A segment left an engine's queue for its batch."""
        self._queue_seconds.observe(queue_seconds)

    def on_finished(self, outcome: str, seconds: float, source_tokens: int, generated_tokens: int) -> None:
        """A segment ended."""
        self._segment_seconds.labels(outcome).observe(seconds)
        self._segment_tokens.labels("source").observe(source_tokens)
        self._segment_tokens.labels("target").observe(generated_tokens)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engines' own counts when they are asked for."""

    _GAUGES = (
        ("queued_requests", "Segments that wait."),
        ("running_requests", "Segments in the batch."),
        ("running_rows", "Rows of the latest step."),
    )
    _COUNTERS = (
        ("steps", "Decoding steps."),
        ("decoded_rows", "Rows of all steps together."),
        ("source_tokens", "Tokens of all sources that joined the batch."),
        ("generated_tokens", "Tokens of the best hypotheses."),
        ("rejected_requests", "Segments refused because the queue was full."),
        ("busy_seconds", "Time spent on encoding and decoding."),
    )
    _OUTCOMES = ("finished", "cancelled", "expired", "failed")

    def __init__(self, translators: Callable[[], Sequence[MeasuredTranslator]]) -> None:
        self._translators = translators

    def collect(self) -> Iterable[Metric]:
        """Yield one family for each count, with the model as its label."""
        stats = [(translator.name, translator.stats()) for translator in self._translators()]
        for field, text in self._GAUGES:
            gauge = GaugeMetricFamily(f"dragoman_engine_{field}", text, labels=("model",))
            for name, values in stats:
                gauge.add_metric((name,), getattr(values, field))
            yield gauge
        for field, text in self._COUNTERS:
            counter = CounterMetricFamily(f"dragoman_engine_{field}", text, labels=("model",))
            for name, values in stats:
                counter.add_metric((name,), getattr(values, field))
            yield counter
        ended = CounterMetricFamily("dragoman_engine_requests", "Segments that ended.", labels=("model", "outcome"))
        accepting = GaugeMetricFamily("dragoman_engine_accepting", "1 unless closed or dead.", labels=("model",))
        for name, values in stats:
            accepting.add_metric((name,), int(values.accepting))
            for outcome in self._OUTCOMES:
                ended.add_metric((name, outcome), getattr(values, f"{outcome}_requests"))
        yield ended
        yield accepting
