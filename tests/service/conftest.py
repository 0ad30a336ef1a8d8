"""A translator that needs no model, whose answers can be held back, and applications that serve it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from model import (
    Detection,
    EngineStats,
    ExplainedTranslation,
    Explanation,
    ExplanationOptions,
    GenerationConfig,
    InvalidOptionError,
    InvalidTextError,
    OverloadedError,
    RequestCancelledError,
    ScoredTranslation,
    SegmentTranslation,
    TextOptions,
    Translation,
    WordAlignment,
    WordAlternatives,
    WordQuality,
)
from model.analysis import ScoredToken, WordAlternative

FRENCH_LETTERS = set("àâçéèêëîïôûùœ")


@dataclass
class StubWork:
    """A submitted text; its future is done at once unless the translator holds its answers back."""

    text: str
    source: str | None
    target: str
    config: GenerationConfig
    deadline_seconds: float | None
    target_prefix: str | None
    caller: str | None
    options: TextOptions | None = None
    on_segment: Callable[[int, SegmentTranslation], None] | None = None
    future: Future[Translation] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Do what the engine does: fail the future."""
        self.cancelled.set()
        if not self.future.done():
            self.future.set_exception(RequestCancelledError("cancelled by its caller"))

    def finish(self) -> None:
        """Give the answer."""
        body = (self.target_prefix or "") + f"<{self.target}>{self.text}"
        others = [f"<{self.target}{number}>{self.text}" for number in range(1, self.config.num_hypotheses)]
        segment = SegmentTranslation(
            start=0,
            end=len(self.text),
            source=self.text,
            text=body,
            score=-0.25,
            token_ids=(7, 8),
            token_scores=(-0.25, -0.25),
            alternatives=tuple(others),
        )
        if self.on_segment is not None:
            self.on_segment(0, segment)
        self.future.set_result(
            Translation(
                text=body,
                source=self.source or "?",
                target=self.target,
                detected=None,
                segments=(segment,),
                # the first one twice, and once what is no alternative: the service must weed both out
                alternatives=(*others, *others[:1], body) if others else (),
                score=-0.25,
                finish_reason="end",
                warnings=(),
                source_tokens=3,
                target_tokens=2,
            )
        )


@dataclass
class StubTranslator:
    """Marks texts instead of translating them: ``<fr>text``."""

    name: str = "stub"
    languages: tuple[str, ...] = ("en", "fr")
    directed: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Codes of sources and of targets, where they are not the same."""
    fingerprint: str = "no weights"
    info: Mapping[str, object] = field(default_factory=lambda: {"device": "none"})
    holds: bool = False
    """Leave all futures open."""
    refuses_after: int | None = None
    """Raise ``refusal`` from the submission after this many."""
    refusal: Exception = field(default_factory=RuntimeError)
    submitted: list[StubWork] = field(default_factory=list)
    capacity: int | None = None
    """Refuse a submission while this many answers are open."""
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set by the first submission."""
    arrivals: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by every submission."""
    analysed: list[str] = field(default_factory=list)
    """Texts that were to be scored, continued or explained."""
    open_analyses: list[Future[Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """What the lifespan asked for: warm_up, close."""
    engine: EngineStats = field(default_factory=EngineStats)

    @property
    def source_languages(self) -> tuple[str, ...]:
        """Those that can be source."""
        return self.languages if self.directed is None else self.directed[0]

    @property
    def target_languages(self) -> tuple[str, ...]:
        """Those that can be target."""
        return self.languages if self.directed is None else self.directed[1]

    def submit(
        self,
        text: str,
        source: str | None,
        target: str,
        config: GenerationConfig | None = None,
        *,
        options: TextOptions | None = None,
        deadline_seconds: float | None = None,
        target_prefix: str | None = None,
        caller: str | None = None,
        on_segment: Callable[[int, SegmentTranslation], None] | None = None,
    ) -> StubWork:
        """Take a text, or refuse it."""
        if self.refuses_after is not None and len(self.submitted) >= self.refuses_after:
            raise self.refusal
        if self.capacity is not None and self.num_open >= self.capacity:
            raise OverloadedError("the queue is full", 1.0)
        work = StubWork(
            text,
            source,
            target,
            config or GenerationConfig(),
            deadline_seconds,
            target_prefix,
            caller,
            options,
            on_segment,
        )
        self.submitted.append(work)
        if not self.holds:
            work.finish()
        self.arrived.set()
        self.arrivals.release()
        return work

    @property
    def num_open(self) -> int:
        """How many answers are held back."""
        return sum(not work.future.done() for work in self.submitted)

    def score(
        self,
        text: str,
        translation: str,
        source: str | None,
        target: str,
        *,
        alignment: bool = False,
        quality: bool = False,
    ) -> Future[ScoredTranslation]:
        """Take every character for a token; one of a translation that the source lacks is a surprise."""
        self._count_analysis(text)
        tokens = [
            ScoredToken(ord(character), character, place, place + 1, -0.5 if character in text else -2.0)
            for place, character in enumerate(translation)
        ]
        tokens.append(ScoredToken(2, "</s>", len(translation), len(translation), -1.0))
        spans = ((0, len(text)),), ((0, len(translation)),)
        return self._answer(
            ScoredTranslation(
                source or "fr",
                target,
                None if source else Detection("fr", 0.75),
                tuple(tokens),
                num_source_tokens=len(text),
                alignment=WordAlignment(*spans, links=((0, 0),)) if alignment else None,
                quality=0.5 if quality else None,
                words=(WordQuality(0, len(translation), 0.5),) if quality else (),
            )
        )

    def alternatives(
        self, text: str, prefix: str, source: str | None, target: str, *, count: int = 8
    ) -> Future[WordAlternatives]:
        """Offer the text's words, the first ones as the most probable."""
        self._count_analysis(text)
        if not 1 <= count <= 32:
            return self._answer(InvalidOptionError("count", "must be between 1 and 32", count))
        words = [
            WordAlternative(word, 2.0 ** -(number + 1), f"{prefix} {word}")
            for number, word in enumerate(text.split()[:count])
        ]
        return self._answer(WordAlternatives(source or "fr", target, None, tuple(words)))

    def explain(
        self,
        text: str,
        translation: str | None,
        source: str | None,
        target: str,
        config: GenerationConfig | None = None,
        *,
        options: ExplanationOptions | None = None,
        deadline_seconds: float | None = None,
    ) -> Future[ExplainedTranslation]:
        """Explain nothing: a network without tokens and layers."""
        del config, options, deadline_seconds  # nothing is decoded
        self._count_analysis(text)
        if len(text) > 62:
            return self._answer(InvalidTextError("text", "must have at most 62 tokens to be explained", text))
        nothing = Explanation(text, translation or f"<{target}>{text}", [], [], [], [], [], [], [], [])
        return self._answer(ExplainedTranslation(source or "fr", target, None, {"d_model": 0}, nothing))

    def _count_analysis(self, text: str) -> None:
        self.analysed.append(text)
        self.arrived.set()

    def _answer(self, answer: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.open_analyses.append(future)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif not self.holds:
            future.set_result(answer)
        return future

    def detect(self, text: str) -> list[Detection]:
        """Call a text French if it has a French letter; a text without letters has no language."""
        if not any(character.isalpha() for character in text):
            return []
        french = Detection("fr", 0.75), Detection("en", 0.25)
        english = Detection("en", 0.875), Detection("fr", 0.125)
        return list(french if FRENCH_LETTERS & set(text.lower()) else english)

    def stats(self) -> EngineStats:
        """Return what the test set, or else what is true."""
        accepting = self.engine.accepting and "close" not in self.calls
        return replace(self.engine, accepting=accepting, queued_requests=self.engine.queued_requests or self.num_open)

    def warm_up(self) -> None:
        """Note the call."""
        self.calls.append("warm_up")

    def close(self, drain: bool = True) -> None:
        """Note the call."""
        self.calls.append("close" if drain else "close at once")


@pytest.fixture
def stub() -> StubTranslator:
    """A translator that answers at once."""
    return StubTranslator()


@pytest.fixture
def make_app(stub: StubTranslator) -> Callable[..., FastAPI]:
    """Make an application with other settings, by default around the stub; the environment has no say.

    It caches nothing unless a test wants that, so that every text reaches the stub.
    """

    def make(translators: Sequence[StubTranslator] | None = None, **settings: Any) -> FastAPI:
        return create_app(Settings(**{"cache_megabytes": 0, **settings}), translators=translators or [stub])

    return make


@pytest.fixture
def client(make_app: Callable[..., FastAPI]) -> Iterator[TestClient]:
    """A client of an application with default settings."""
    with TestClient(make_app()) as test_client:
        yield test_client


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep DRAGOMAN_* variables of the developer's shell out of the tests."""
    for name in [name for name in os.environ if name.startswith("DRAGOMAN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what create_app does to logging, which is the process's and not the application's."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.access", "model")]
    ours = structlog.get_config() if structlog.is_configured() else None
    before = [(logger.handlers, logger.level, logger.disabled) for logger in loggers]
    yield
    for logger, (handlers, level, disabled) in zip(loggers, before, strict=True):
        logger.handlers, logger.disabled = handlers, disabled
        logger.setLevel(level)
    structlog.reset_defaults()
    if ours is not None:
        structlog.configure(**ours)
