"""A scripted batch in place of the network: every token waits for the test, and the clock is the test's."""

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
FIRST_WORKER = f"{THREAD_NAME}-0"


def engine_threads() -> list[threading.Thread]:
    """All threads of engines that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


class ScriptedClock:
    """Time that passes only when a test says so; whoever sleeps is woken by it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0
        self._sleeping: list[tuple[threading.Condition, float]] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake those who slept until then."""
        with self._lock:
            self._now += seconds
            woken = [condition for condition, until in self._sleeping if until <= self._now]
        for condition in woken:
            with condition:
                condition.notify_all()

    def sleep(self, condition: threading.Condition, until: float) -> None:
        entry = (condition, until)
        with self._lock:
            if until <= self._now:
                return
            self._sleeping.append(entry)
        condition.wait()
        with self._lock:
            self._sleeping.remove(entry)


class Script:
    """Controls the batches of one engine.

    A source is (name, tokens, ...): it finishes with its ``tokens``-th token and the hypothesis (name, name, ...).
    """

    def __init__(self) -> None:
        self.clock = ScriptedClock()
        self.seconds_per_token = 1.0
        self.tokens_per_step = 1
        self.free_running = False
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.batches = 0
        self.tokens: list[list[int]] = []  # the names that got a token, for each token in the order of its end
        self.token_threads: list[str] = []  # whose tokens they were
        self.num_calls = 0  # of step()
        self.interrupted = threading.Semaphore(0)
        self.num_interrupts = 0
        self.removed: list[int] = []
        self.something_removed = threading.Event()
        self.errors: dict[int, BaseException] = {}  # number of a token, from 0 -> what its step raises
        self.memory: int | None = None  # rows of one batch that fit into the memory
        self.shortages: list[list[int]] = []  # the names in a batch that lacked memory
        self.non_finite: set[int] = set()  # names
        self.bad_names: set[int] = set()  # cannot be encoded
        self.in_step: Callable[[], None] = lambda: None

    def permit(self, tokens: int = 1) -> None:
        """Let so many tokens be made."""
        for _ in range(tokens):
            self.permits.release()

    def wait_for_step(self) -> None:
        """Return when a worker has begun its next token, which then waits for a permit."""
        assert self.entered.acquire(timeout=TIMEOUT)

    def wait_for_interrupt(self) -> None:
        """Return when a batch was interrupted."""
        assert self.interrupted.acquire(timeout=TIMEOUT)

    def run_freely(self) -> None:
        """Permit all tokens from now on."""
        self.free_running = True
        self.permit(100)


class ScriptedBatch:
    """A running batch that computes nothing."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._left: dict[Request, int] = {}
        self._interrupted = False
        self._num_steps = 0
        script.batches += 1

    @property
    def num_rows(self) -> int:
        return sum(1 if left == request.source_ids[1] else request.num_rows for request, left in self._left.items())

    @property
    def num_requests(self) -> int:
        return len(self._left)

    @property
    def num_steps(self) -> int:
        return self._num_steps

    def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None:
        for _, item in items:
            if item.source_ids[0] in self._script.bad_names:
                raise IndexError(f"bad name {item.source_ids[0]}")
        self._use_memory([*self._left, *(request for request, _ in items)])
        for request, item in items:
            self._left[request] = item.source_ids[1]

    def step(self) -> list[tuple[Request, list[Hypothesis]]]:
        script = self._script
        script.num_calls += 1
        finished: list[Request] = []
        for _ in range(script.tokens_per_step):
            finished = self._one_token()
            if finished or self._interrupted:
                break
        self._interrupted = False
        return [(request, [hypothesis(request.source_ids)]) for request in finished]

    def _one_token(self) -> list[Request]:
        script = self._script
        script.entered.release()
        assert script.free_running or script.permits.acquire(timeout=TIMEOUT)
        script.in_step()
        if script.seconds_per_token:
            script.clock.advance(script.seconds_per_token)
        number = len(script.tokens)
        script.token_threads.append(threading.current_thread().name)
        script.tokens.append(sorted(request.source_ids[0] for request in self._left))
        self._num_steps += 1
        if error := script.errors.get(number):
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
        return finished

    def interrupt(self) -> None:
        self._interrupted = True
        self._script.num_interrupts += 1
        self._script.interrupted.release()

    def remove(self, key: Request) -> None:
        del self._left[key]
        self._script.removed.append(key.source_ids[0])
        self._script.something_removed.set()

    def _use_memory(self, requests: Sequence[Request]) -> None:
        if self._script.memory is not None and sum(request.num_rows for request in requests) > self._script.memory:
            self._script.shortages.append(sorted(request.source_ids[0] for request in requests))
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def hypothesis(source_ids: Sequence[int]) -> Hypothesis:
    """The scripted result of a source: its name, once for each token."""
    name, tokens = source_ids[0], source_ids[1]
    return Hypothesis((name,) * tokens, -1.0, -1.0, (-1.0,), "end")


def names(requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """The tokens of the best hypotheses."""
    return [request.future.result(timeout=TIMEOUT)[0].token_ids for request in requests]


def inputs(*sources: tuple[int, ...]) -> list[GenerationInput]:
    """Greedy requests."""
    return [GenerationInput(source, GREEDY) for source in sources]


StartEngine = Callable[..., Engine]
