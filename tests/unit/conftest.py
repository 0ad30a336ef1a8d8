"""Fixtures for tests of the command line; they keep everything heavy from being imported."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.config import EngineConfig
from tests.unit.stub_translator import Install, StubTranslator


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that puts a stub in the place of a module, so that nothing heavy is imported."""

    def put(name: str, **names: object) -> None:
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)

    return put


@pytest.fixture
def translator(install: Install) -> StubTranslator:
    """Return the stub that every command of the test loads."""
    stub = StubTranslator()

    class Loader:
        @classmethod
        def load(cls, path: Path | None, engine: EngineConfig) -> StubTranslator:
            stub.loaded = (path, engine)
            return stub

    install("model.translator", Translator=Loader)
    return stub


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Return a function that sets what the command reads from standard input."""
    opened = []

    def put(content: bytes) -> None:
        path = tmp_path / "stdin"
        path.write_bytes(content)
        opened.append(path.open(encoding="utf-8"))
        monkeypatch.setattr(sys, "stdin", opened[-1])

    yield put
    for stream in opened:
        stream.close()
