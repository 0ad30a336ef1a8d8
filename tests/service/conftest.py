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
    GenerationConfig,
    OverloadedError,
    RequestCancelledError,
    SegmentTranslation,
    TextOptions,
    Translation,
)

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
    calls: list[str] = field(default_factory=list)
    """What the lifespan asked for: warm_up, close."""
    engine: EngineStats = field(default_factory=EngineStats)

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
    """Make an application with other settings, by default around the stub; the environment has no say."""

    def make(translators: Sequence[StubTranslator] | None = None, **settings: Any) -> FastAPI:
        return create_app(Settings(**settings), translators=translators or [stub])

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
