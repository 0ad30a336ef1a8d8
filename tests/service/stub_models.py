"""Models that a store loads in tests: stubs whose loading can be held back, and which take nothing once closed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model import CheckpointError, EngineClosedError
from tests.service.conftest import StubTranslator, StubWork

MEGABYTE = 1_000_000


def leg(source: str, target: str, **values: Any) -> StubTranslator:
    """Return a stub of one direction."""
    codes = ((source,), (target,))
    return StubTranslator(f"{source}-{target}", languages=(source, target), directed=codes, **values)


@dataclass
class LoadedStub(StubTranslator):
    """A stub that refuses work after its end, as an engine does."""

    def submit(self, *args: Any, **values: Any) -> StubWork:
        """Take a text, unless closed."""
        if any(call.startswith("close") for call in self.calls):
            raise EngineClosedError("closed")
        return super().submit(*args, **values)


@dataclass
class StubShelf:
    """What can be loaded: folder names to languages, each a megabyte in memory unless ``sizes`` says otherwise."""

    directions: Mapping[str, tuple[str, str]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    loaded: list[LoadedStub] = field(default_factory=list)
    """Everything that was ever loaded, in order."""
    counts: Counter[str] = field(default_factory=Counter)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """Folders whose loading waits for an event."""
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released by every load that begins."""
    broken: set[str] = field(default_factory=set)

    def load(self, path: Path | None) -> LoadedStub:
        """Load a folder; its name is the model's."""
        name = "default" if path is None else path.name
        self.counts[name] += 1
        self.begun.release()
        if name in self.gates:
            assert self.gates[name].wait(10)
        if name in self.broken:
            raise CheckpointError(f"{name} is broken")
        source, target = self.directions[name]
        one = LoadedStub(name, (source, target), directed=((source,), (target,)), fingerprint=str(len(self.loaded)))
        self.loaded.append(one)
        return one

    def estimate(self, path: Path | None) -> int:
        """Return the size of a model."""
        name = "default" if path is None else path.name
        if name not in self.directions:
            raise CheckpointError(f"{name} is no model")
        return self.sizes.get(name, MEGABYTE)
