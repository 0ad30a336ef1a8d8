"""Fixtures of several files: a command line without heavy imports, and an engine on a script."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.config import EngineConfig, ModelConfig
from model.engine.engine import Engine
from model.transformer import Transformer
from tests.unit.scripted_engine import Script, ScriptedBatch, engine_threads
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


@pytest.fixture(scope="module")
def network() -> Transformer:
    """The smallest network; only its configuration is used."""
    return Transformer(
        ModelConfig(
            vocab_size=1000, d_model=4, d_ff=4, num_heads=1, num_encoder_layers=1, num_decoder_layers=1,
            max_source_length=8, max_target_length=10,
        )
    )  # fmt: skip


@pytest.fixture
def script() -> Script:
    """Controls the engine of the test."""
    return Script()


@pytest.fixture
def start(network: Transformer, script: Script) -> Iterator[Callable[..., Engine]]:
    """Start an engine on the script; it is closed after the test, and no thread may be left over."""
    engines: list[Engine] = []

    def start_engine(
        max_batch_tokens: int = 1000, max_queued_requests: int = 100, num_workers: int = 1, **options: object
    ) -> Engine:
        config = EngineConfig(
            device="cpu",
            num_workers=num_workers,
            max_batch_tokens=max_batch_tokens,
            max_queued_requests=max_queued_requests,
        )
        batch_options = {"new_batch": lambda: ScriptedBatch(script), "clock": script.clock}
        engines.append(Engine(network, config, **(batch_options | options)))  # type: ignore[arg-type]
        return engines[-1]

    yield start_engine
    script.run_freely()
    for engine in engines:
        engine.close(drain=False)
    assert engine_threads() == []
