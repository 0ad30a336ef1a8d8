"""A translator without a model for tests of the command line: it answers at once, in upper case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from model.config import EngineConfig, GenerationConfig
from model.errors import DeadlineExceededError, UnsupportedLanguageError

Install = Callable[..., None]
"""Puts a stub in the place of a module; see the fixture ``install``."""


@dataclasses.dataclass(frozen=True)
class StubWarning:
    code: str
    message: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class StubTranslation:
    text: str
    score: float = -0.25
    finish_reason: str = "end"
    source_tokens: int = 3
    target_tokens: int = 5
    warnings: tuple[StubWarning, ...] = ()


class StubPending:
    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class StubTranslator:
    """Translates into upper case at once; "cut" gets a warning, and names of errors raise them."""

    languages = ("en", "fr")
    name = "stub"
    info: dict[str, object] = {"parameters": 7}  # noqa: RUF012 - the real one is an instance attribute
    loaded: tuple[Path | None, EngineConfig] | None = None
    submitted: list[tuple[str, str | None, str, GenerationConfig, str | None]]
    closed: bool | None = None

    def __init__(self) -> None:
        self.submitted = []

    def submit(
        self,
        text: str,
        source: str | None,
        target: str,
        config: GenerationConfig | None = None,
        *,
        deadline_seconds: float | None = None,
        target_prefix: str | None = None,
    ) -> StubPending:
        assert deadline_seconds is None
        if text == "unsupported":
            raise UnsupportedLanguageError("source", "must be one of en, fr", "xx")
        self.submitted.append((text, source, target, config or GenerationConfig(), target_prefix))
        pending = StubPending()
        if text == "late":
            pending.future.set_exception(DeadlineExceededError("out of time"))
        elif text == "cut":
            cut = StubWarning("cut", "the text was cut", 0, 3)
            pending.future.set_result(StubTranslation("CUT", finish_reason="length", warnings=(cut,)))
        else:
            pending.future.set_result(StubTranslation(text.upper().replace("|", "\n")))
        return pending

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[StubTranslation]:
        return [self.submit(text, source, target).future.result() for text in texts]

    def close(self, drain: bool = True) -> None:
        self.closed = drain
