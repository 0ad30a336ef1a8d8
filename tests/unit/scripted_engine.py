"""A scripted batch in place of the network: every step waits for the test, and the clock is the test's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from model.config import GenerationConfig
from model.engine.engine import Engine
from model.engine.request import Request
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError

TIMEOUT = 20.0  # seconds after which a test that hangs fails
GREEDY = GenerationConfig(beam_size=1, max_new_tokens=10)
THREAD_NAME = "dragoman-engine"


class Script:
    """Controls the batches of one engine.

    A source is (name, steps, ...): it finishes in its ``steps``-th step with the hypothesis (name, name, ...).
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds_per_step = 1.0
        self.free_running = False
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.batches = 0
        self.steps: list[list[int]] = []
        self.removed: list[int] = []
        self.something_removed = threading.Event()
        self.errors: dict[int, BaseException] = {}  # step number, from 0 -> what it raises
        self.non_finite: set[int] = set()  # names
        self.bad_names: set[int] = set()  # cannot be encoded
        self.in_step: Callable[[], None] = lambda: None

    def permit(self, steps: int = 1) -> None:
        """Let so many steps run to their ends."""
        for _ in range(steps):
            self.permits.release()

    def wait_for_step(self) -> None:
        """Return when the worker has begun its next step, which then waits for a permit."""
        assert self.entered.acquire(timeout=TIMEOUT)

    def run_freely(self) -> None:
        """Permit all steps from now on."""
        self.free_running = True
        self.permit()


class ScriptedBatch:
    """A running batch that computes nothing."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._left: dict[Request, int] = {}
        script.batches += 1

    @property
    def num_rows(self) -> int:
        return sum(request.num_rows for request in self._left)

    @property
    def num_requests(self) -> int:
        return len(self._left)

    def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None:
        for _, item in items:
            if item.source_ids[0] in self._script.bad_names:
                raise IndexError(f"bad name {item.source_ids[0]}")
        for request, item in items:
            self._left[request] = item.source_ids[1]

    def step(self) -> list[tuple[Request, list[Hypothesis]]]:
        script = self._script
        script.entered.release()
        assert script.free_running or script.permits.acquire(timeout=TIMEOUT)
        script.in_step()
        script.now += script.seconds_per_step
        script.steps.append(sorted(request.source_ids[0] for request in self._left))
        if error := script.errors.get(len(script.steps) - 1):
            raise error
        failed = [request for request in self._left if request.source_ids[0] in script.non_finite]
        if failed:
            for request in failed:
                del self._left[request]
            raise NonFiniteLogitsError(failed)
        for request in self._left:
            self._left[request] -= 1
        finished = [request for request, left in self._left.items() if left == 0]
        for request in finished:
            del self._left[request]
        return [(request, [hypothesis(request.source_ids)]) for request in finished]

    def remove(self, key: Request) -> None:
        del self._left[key]
        self._script.removed.append(key.source_ids[0])
        self._script.something_removed.set()


def hypothesis(source_ids: Sequence[int]) -> Hypothesis:
    """The scripted result of a source: its name, once for each step."""
    name, steps = source_ids[0], source_ids[1]
    return Hypothesis((name,) * steps, -1.0, -1.0, (-1.0,), "end")


def names(requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """The tokens of the best hypotheses."""
    return [request.future.result(timeout=TIMEOUT)[0].token_ids for request in requests]


def inputs(*sources: tuple[int, ...]) -> list[GenerationInput]:
    """Greedy requests."""
    return [GenerationInput(source, GREEDY) for source in sources]


StartEngine = Callable[..., Engine]
