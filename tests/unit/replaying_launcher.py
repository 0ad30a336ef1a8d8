"""Test doubles of the launcher of steps: they behave on the CPU as graphs and streams do on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

from torch import Tensor

from model.graphs.graphs import DirectLauncher, Mark, Reading
from model.graphs.state import Size


class ReplayingLauncher(DirectLauncher):
    """Repeats the first step of each key, as a captured graph does: with the tensors and numbers of that first time."""

    def __init__(self) -> None:
        self.steps: dict[Hashable, Callable[[], None]] = {}
        self.sizes: set[Size] = set()

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        assert isinstance(key, tuple)
        self.sizes.add(key[1])
        self.steps.setdefault(key, step)()

    def forget(self, owner: Hashable) -> None:
        self.steps = {key: step for key, step in self.steps.items() if not (isinstance(key, tuple) and key[0] == owner)}


class SlowEncoder(ReplayingLauncher):
    """Encodings that are reached only when the test says so; it counts how often decoding had to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = False
        self.num_waits = 0

    def mark(self, *tensors: Tensor) -> Mark:
        del tensors
        return _SlowMark(self)


class _SlowMark:
    def __init__(self, launcher: SlowEncoder) -> None:
        self._launcher = launcher

    def is_reached(self) -> bool:
        return self._launcher.reached

    def let_decoding_wait(self) -> None:
        self._launcher.num_waits += not self._launcher.reached


class Interrupting(ReplayingLauncher):
    """Calls a function behind each step, as another thread could."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call = call

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        super().run(key, step)
        self.call()


class Contexts(DirectLauncher):
    """Notes whether a tensor was read or changed outside of the context of decoding."""

    def __init__(self) -> None:
        self.depth = 0
        self.outside = 0

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        self.outside += self.depth == 0
        super().run(key, step)

    def read(self, tensor: Tensor) -> Reading:
        self.outside += self.depth == 0
        return super().read(tensor)

    def decoding(self) -> AbstractContextManager[object]:
        return _Depth(self)


class _Depth(AbstractContextManager[None]):
    def __init__(self, launcher: Contexts) -> None:
        self._launcher = launcher

    def __enter__(self) -> None:
        self._launcher.depth += 1

    def __exit__(self, *error: object) -> None:
        self._launcher.depth -= 1
