"""The engine with a scripted batch in place of the network: every step waits for the test, and the clock is the test's.

What is tested: batching, cancellation, deadlines, overload, failures, closing, counts; not what is decoded.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest
import torch

from model.config import EngineConfig, GenerationConfig, ModelConfig
from model.engine.engine import Engine
from model.engine.request import Request
from model.engine.stats import EngineStats, Outcome, SilentObserver, Throughput
from model.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError
from model.transformer import Transformer

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

    def start_engine(max_batch_tokens: int = 1000, max_queued_requests: int = 100, **options: object) -> Engine:
        config = EngineConfig(
            device="cpu", num_threads=1, max_batch_tokens=max_batch_tokens, max_queued_requests=max_queued_requests
        )
        batch_options = {"new_batch": lambda: ScriptedBatch(script), "clock": lambda: script.now}
        engines.append(Engine(network, config, **(batch_options | options)))  # type: ignore[arg-type]
        return engines[-1]

    yield start_engine
    script.run_freely()
    for engine in engines:
        engine.close(drain=False)
    assert THREAD_NAME not in [thread.name for thread in threading.enumerate()]


def names(requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """The tokens of the best hypotheses."""
    return [request.future.result(timeout=TIMEOUT)[0].token_ids for request in requests]


def inputs(*sources: tuple[int, ...]) -> list[GenerationInput]:
    """Greedy requests."""
    return [GenerationInput(source, GREEDY) for source in sources]


StartEngine = Callable[..., Engine]


def test_one_request(start: StartEngine, script: Script) -> None:
    request = start().submit([7, 3], GREEDY)
    assert isinstance(request.future, Future)
    script.permit(3)
    assert request.future.result(timeout=TIMEOUT) == [hypothesis((7, 3))]
    assert script.steps == [[7], [7], [7]]


def test_requests_join_and_leave_between_steps(start: StartEngine, script: Script) -> None:
    engine = start()
    first = engine.submit_many(inputs((1, 1), (2, 3)))
    script.wait_for_step()
    second = engine.submit_many(inputs((3, 2)))
    script.permit(3)
    assert names([*first, *second]) == [(1,), (2, 2, 2), (3, 3)]
    assert script.steps == [[1, 2], [2, 3], [2, 3]]


def test_budget_holds_requests_back(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)  # two of 2 + 10 positions
    requests = engine.submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.wait_for_step()
    assert (engine.stats().running_requests, engine.stats().queued_requests) == (2, 1)
    script.permit(2)
    assert names(requests) == [(1,), (2,), (3,)]
    assert script.steps == [[1, 2], [3]]


def test_a_list_does_not_hold_up_another_caller(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12)  # one at a time
    many = engine.submit_many(inputs(*[(number, 1) for number in range(1, 41)]), caller="list")
    script.wait_for_step()
    single = engine.submit([99, 1], GREEDY, caller="single")
    script.run_freely()
    names([*many, single])
    assert script.steps.index([99]) <= 2


@pytest.mark.parametrize("by_future", [False, True])
def test_cancelled_while_running(start: StartEngine, script: Script, by_future: bool) -> None:
    engine = start()
    staying, leaving = engine.submit_many(inputs((1, 3), (2, 3)))
    script.wait_for_step()
    assert leaving.future.cancel() if by_future else leaving.cancel()
    with pytest.raises(CancelledError if by_future else RequestCancelledError):
        leaving.future.result(timeout=0)
    script.permit(3)
    assert names([staying]) == [(1, 1, 1)]
    assert script.steps == [[1, 2], [1], [1]]  # the step under way, and none after it
    assert script.removed == [2]
    assert not leaving.cancel()


def test_cancelled_in_its_last_step(start: StartEngine, script: Script) -> None:
    engine = start()
    request = engine.submit([1, 1], GREEDY)
    script.wait_for_step()
    assert request.cancel()
    script.permit()
    (other,) = engine.submit_many(inputs((2, 1)))
    script.permit()
    assert names([other]) == [(2,)]
    assert isinstance(request.future.exception(timeout=0), RequestCancelledError)
    stats = engine.stats()
    assert (stats.finished_requests, stats.cancelled_requests, stats.generated_tokens) == (1, 1, 1)


def test_cancelled_while_waiting_frees_its_place(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, max_queued_requests=1)
    running = engine.submit([1, 1], GREEDY)
    script.wait_for_step()
    waiting = engine.submit([2, 1], GREEDY)
    with pytest.raises(OverloadedError):
        engine.submit([3, 1], GREEDY)
    assert waiting.cancel()
    late = engine.submit([4, 1], GREEDY)
    script.permit(2)
    assert names([running, late]) == [(1,), (4,)]
    assert script.steps == [[1], [4]]


def test_cancelling_the_only_request_empties_the_batch(start: StartEngine, script: Script) -> None:
    engine = start()
    request = engine.submit([1, 9], GREEDY)
    script.wait_for_step()
    request.cancel()
    script.permit()
    assert script.something_removed.wait(timeout=TIMEOUT)
    assert script.steps == [[1]]
    assert engine.stats().running_requests == engine.stats().running_rows == 0


def test_deadlines(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)
    short = engine.submit([1, 9], GREEDY, deadline_seconds=2.0)
    long = engine.submit([2, 3], GREEDY, deadline_seconds=60.0)
    waiting = engine.submit([3, 1], GREEDY, deadline_seconds=2.0)
    script.permit(3)
    assert names([long]) == [(2, 2, 2)]
    for request in (short, waiting):
        with pytest.raises(DeadlineExceededError, match="2 s"):
            request.future.result(timeout=TIMEOUT)
    assert script.steps[-2:] == [[1, 2], [2]]  # steps take 1 s
    assert engine.stats().expired_requests == 2


def test_deadline_that_has_passed_already(start: StartEngine, script: Script) -> None:
    request = start().submit([1, 1], GREEDY, deadline_seconds=0.0)
    with pytest.raises(DeadlineExceededError):
        request.future.result(timeout=TIMEOUT)
    assert script.steps == []


def test_overload_refuses_all_or_nothing(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, max_queued_requests=3)
    first = engine.submit([1, 1], GREEDY)
    script.wait_for_step()
    waiting = engine.submit_many(inputs((2, 1), (3, 1)))
    with pytest.raises(OverloadedError) as caught:
        engine.submit_many(inputs((4, 1), (5, 1)))
    assert caught.value.retry_after_seconds > 0
    assert (engine.stats().queued_requests, engine.stats().rejected_requests) == (2, 2)
    last = engine.submit([6, 1], GREEDY)
    script.permit(4)
    assert names([first, *waiting, last]) == [(1,), (2,), (3,), (6,)]
    assert sorted(script.steps) == [[1], [2], [3], [6]]


def test_retry_after_comes_from_the_measured_throughput(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, max_queued_requests=20)
    script.seconds_per_step = 2.0  # one request a step: 2 s for each
    script.permit(20)
    names(engine.submit_many(inputs(*[(number, 1) for number in range(1, 21)])))
    for _ in range(20):
        script.wait_for_step()
    engine.submit([50, 1], GREEDY)
    script.wait_for_step()
    engine.submit_many(inputs(*[(60, 1)] * 17))
    with pytest.raises(OverloadedError) as caught:
        engine.submit_many(inputs(*[(70, 1)] * 6))
    assert caught.value.retry_after_seconds == pytest.approx(2.0 * 3)  # three must start before six have room


def test_throughput_forgets() -> None:
    throughput = Throughput(half_life_seconds=10.0)
    assert throughput.seconds_for(1000) == 1.0
    throughput.record(100, 1.0)
    assert throughput.seconds_for(1000) == pytest.approx(10.0)
    assert throughput.seconds_for(1) == 0.1
    assert throughput.seconds_for(10**9) == 60.0
    for _ in range(200):
        throughput.record(10, 1.0)
    assert throughput.seconds_for(100) == pytest.approx(10.0, rel=0.01)


def test_failed_step_fails_its_batch_only(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)
    script.errors[1] = RuntimeError("the network broke")
    requests = engine.submit_many(inputs((1, 1), (2, 5), (3, 5), (4, 2)))
    script.run_freely()
    assert names([requests[0], requests[3]]) == [(1,), (4, 4)]
    for request in requests[1:3]:
        error = request.future.exception(timeout=TIMEOUT)
        assert isinstance(error, UnavailableError)
        assert error.__cause__ is script.errors[1]
        assert "the network broke" in str(error)
    assert script.steps == [[1, 2], [2, 3], [4], [4]]
    assert script.batches == 2
    assert (engine.stats().failed_requests, engine.stats().finished_requests) == (2, 2)


def test_request_that_cannot_be_encoded_fails_alone(start: StartEngine, script: Script) -> None:
    script.bad_names.add(2)
    requests = start().submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.permit(1)
    assert names([requests[0], requests[2]]) == [(1,), (3,)]
    assert isinstance(requests[1].future.exception(timeout=TIMEOUT), UnavailableError)
    assert script.steps == [[1, 3]]


def test_non_finite_logits_fail_alone(start: StartEngine, script: Script) -> None:
    script.non_finite.add(2)
    requests = start().submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.permit(2)
    assert names([requests[0], requests[2]]) == [(1,), (3,)]
    assert isinstance(requests[1].future.exception(timeout=TIMEOUT), UnavailableError)
    assert script.batches == 1


@pytest.mark.parametrize("error", [torch.AcceleratorError("device lost"), SystemExit(1)])
def test_a_dead_worker_fails_everything_and_says_so(
    start: StartEngine, script: Script, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(max_batch_tokens=12)
    script.errors[0] = error
    running, waiting = engine.submit_many(inputs((1, 1), (2, 1)))
    script.permit()
    assert isinstance(running.future.exception(timeout=TIMEOUT), UnavailableError)
    assert isinstance(waiting.future.exception(timeout=TIMEOUT), EngineClosedError)
    with pytest.raises(EngineClosedError, match="died"):
        engine.submit([3, 1], GREEDY)
    assert not engine.stats().accepting
    assert engine.stats().failed_requests == 2
    engine.close()
    assert "worker died" in caplog.text
    assert len(script.steps) == 1


def test_close_drains(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12)
    requests = engine.submit_many(inputs((1, 2), (2, 1)))
    script.wait_for_step()
    closer = threading.Thread(target=engine.close)
    closer.start()
    script.permit(3)
    closer.join(timeout=TIMEOUT)
    assert not closer.is_alive()
    assert names(requests) == [(1, 1), (2,)]
    with pytest.raises(EngineClosedError):
        engine.submit([3, 1], GREEDY)
    engine.close()
    engine.close(drain=False)


@pytest.mark.parametrize("options", [{"drain": False}, {"timeout_seconds": 0.01}])
def test_close_fails_what_it_does_not_wait_for(
    start: StartEngine, script: Script, options: dict[str, bool | float]
) -> None:
    engine = start(max_batch_tokens=12)
    running, waiting = engine.submit_many(inputs((1, 5), (2, 1)))
    script.wait_for_step()
    # The step under way ends only after both futures have failed: close() does not wait for it to fail them.
    failed = threading.Semaphore(0)
    for request in (running, waiting):
        request.future.add_done_callback(lambda _: failed.release())
    closer = threading.Thread(target=engine.close, kwargs=options)
    closer.start()
    assert failed.acquire(timeout=TIMEOUT)
    assert failed.acquire(timeout=TIMEOUT)
    script.permit()
    closer.join(timeout=TIMEOUT)
    assert not closer.is_alive()
    for request in (running, waiting):
        with pytest.raises(EngineClosedError):
            request.future.result(timeout=0)
    assert script.steps == [[1]]
    assert engine.stats().failed_requests == 2


def test_close_from_many_threads_and_from_a_callback(start: StartEngine, script: Script) -> None:
    engine = start()
    request = engine.submit([1, 1], GREEDY)
    request.future.add_done_callback(lambda _: engine.close())  # in the worker's thread
    script.wait_for_step()
    closers = [threading.Thread(target=engine.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    script.permit()
    for closer in closers:
        closer.join(timeout=TIMEOUT)
        assert not closer.is_alive()
    assert names([request]) == [(1,)]


def test_context_manager_drains_unless_an_error_leaves_it(start: StartEngine, script: Script) -> None:
    script.run_freely()
    with start() as engine:
        request = engine.submit([1, 4], GREEDY)
    assert names([request]) == [(1, 1, 1, 1)]
    script.free_running = False
    with pytest.raises(KeyError), start() as engine:  # noqa: PT012
        request = engine.submit([2, 4], GREEDY)
        request.future.add_done_callback(lambda _: script.permit(5))
        raise KeyError
    assert isinstance(request.future.exception(timeout=TIMEOUT), EngineClosedError)


def test_a_forgotten_engine_ends_its_thread(network: Transformer, script: Script) -> None:
    config = EngineConfig(device="cpu", num_threads=1)
    engine = Engine(network, config, new_batch=lambda: ScriptedBatch(script), clock=lambda: script.now)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
    del engine
    gc.collect()
    thread.join(timeout=TIMEOUT)
    assert not thread.is_alive()


def test_the_worker_only_ever_sleeps_on_its_condition(
    start: StartEngine, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No polling: every wait of the thread is without a timeout, and an idle engine does not leave it."""
    timeouts: list[float | None] = []
    idle = threading.Semaphore(0)
    wait = threading.Condition.wait

    def recording_wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread().name == THREAD_NAME:
            timeouts.append(timeout)
            idle.release()
        return wait(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", recording_wait)
    engine = start()
    assert idle.acquire(timeout=TIMEOUT)
    script.free_running = True
    names([engine.submit([1, 4], GREEDY)])
    assert idle.acquire(timeout=TIMEOUT)
    assert timeouts == [None, None]


def test_callbacks_run_without_locks(start: StartEngine, script: Script) -> None:
    """A callback may use the engine, also from another thread, while the worker is inside it."""
    engine = start()
    follow_ups: list[Request] = []
    seen: list[EngineStats] = []

    def follow_up(_: Future[list[Hypothesis]]) -> None:
        follow_ups.append(engine.submit([2, 1], GREEDY))
        other = threading.Thread(target=lambda: seen.append(engine.stats()))
        other.start()
        other.join(timeout=TIMEOUT)

    request = engine.submit([1, 1], GREEDY)
    request.future.add_done_callback(follow_up)
    script.run_freely()
    names([request])
    with engine:
        pass
    assert names(follow_ups) == [(2,)]
    assert [stats.finished_requests for stats in seen] == [1]


class RecordingObserver(SilentObserver):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.queue_seconds: list[float] = []
        self.ended: list[tuple[Outcome, float, int, int]] = []

    def on_step(self, batch_rows: int, seconds: float) -> None:
        self.steps.append((batch_rows, seconds))

    def on_admitted(self, queue_seconds: float) -> None:
        self.queue_seconds.append(queue_seconds)

    def on_finished(self, outcome: Outcome, seconds: float, source_tokens: int, generated_tokens: int) -> None:
        self.ended.append((outcome, seconds, source_tokens, generated_tokens))


def test_observer_and_stats_agree(start: StartEngine, script: Script) -> None:
    observer = RecordingObserver()
    engine = start(max_batch_tokens=24, observer=observer)
    requests = engine.submit_many(inputs((1, 2), (2, 2), (3, 3), (4, 1)))
    assert engine.submit([5, 1, 7], GREEDY, deadline_seconds=3.5).cancel()
    script.wait_for_step()
    late = engine.submit([6, 1, 7, 7], GREEDY, deadline_seconds=0.5)
    script.run_freely()
    names(requests)
    assert isinstance(late.future.exception(timeout=TIMEOUT), DeadlineExceededError)
    engine.close()
    assert observer.steps == [(2, 1.0), (2, 1.0), (2, 1.0), (1, 1.0), (1, 1.0)]
    assert sorted(observer.queue_seconds) == [0.0, 0.0, 2.0, 2.0]
    assert sorted(observer.ended) == [
        ("cancelled", 0.0, 3, 0),
        ("expired", 1.0, 4, 0),
        ("finished", 2.0, 2, 2),
        ("finished", 2.0, 2, 2),
        ("finished", 3.0, 2, 1),
        ("finished", 5.0, 2, 3),
    ]
    assert engine.stats() == EngineStats(
        steps=5, decoded_rows=8, source_tokens=8, generated_tokens=8, finished_requests=4, cancelled_requests=1,
        expired_requests=1, busy_seconds=5.0, accepting=False,
    )  # fmt: skip


class BrokenObserver(SilentObserver):
    """Raises on every occasion."""

    def on_step(self, batch_rows: int, seconds: float) -> None:
        raise ValueError(f"{batch_rows} rows in {seconds} s")


def test_an_observers_errors_are_logged_only(
    start: StartEngine, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    script.run_freely()
    assert names([start(observer=BrokenObserver()).submit([1, 2], GREEDY)]) == [(1, 1)]
    assert "observer" in caplog.text


def test_the_worker_owns_the_device(start: StartEngine, script: Script) -> None:
    seen: list[tuple[str, int, bool]] = []

    def look() -> None:
        name = threading.current_thread().name
        seen.append((name, torch.get_num_threads(), torch.is_inference_mode_enabled()))

    script.in_step = look
    script.run_freely()
    names([start().submit([1, 1], GREEDY)])
    assert seen == [(THREAD_NAME, 1, True)]


@pytest.mark.parametrize(
    ("source_ids", "config", "name"),
    [
        ([], GREEDY, "source_ids"),
        ([1] * 9, GREEDY, "source_ids"),
        ([1, 1000], GREEDY, "source_ids"),
        ([1, -1], GREEDY, "source_ids"),
        ([1, 1], GenerationConfig(banned_tokens=(1000,)), "banned_tokens"),
        ([1, 1], GenerationConfig(target_prefix=(5,) * 10), "target_prefix"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_once(
    start: StartEngine, source_ids: list[int], config: GenerationConfig, name: str
) -> None:
    engine = start()
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(source_ids, config)
    assert caught.value.name == name
    good = GenerationInput([1, 1], GREEDY)
    with pytest.raises(InvalidRequestError):
        engine.submit_many([good, GenerationInput(source_ids, config)])
    assert engine.stats() == EngineStats()


def test_other_refusals(start: StartEngine, network: Transformer) -> None:
    engine = start(max_queued_requests=2)
    with pytest.raises(InvalidRequestError, match="at most 2"):
        engine.submit_many(inputs((1, 1), (1, 1), (1, 1)))
    with pytest.raises(InvalidRequestError, match="deadline_seconds"):
        engine.submit([1, 1], GREEDY, deadline_seconds=float("nan"))
    assert engine.submit_many([]) == []
    with pytest.raises(ConfigurationError, match="device"):
        Engine(network, EngineConfig(device="abacus"))


def test_many_threads_and_every_kind_of_end(start: StartEngine, script: Script) -> None:
    """Nothing is lost or counted twice when callers submit and cancel at once."""
    engine = start(max_batch_tokens=60, max_queued_requests=50)
    script.run_freely()
    script.seconds_per_step = 0.0
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def call(number: int) -> None:
        barrier.wait(timeout=TIMEOUT)
        for turn in range(60):
            try:
                request = engine.submit([number, 1 + turn % 5], GREEDY, caller=str(number % 3))
            except OverloadedError:
                outcomes.append("rejected")
                continue
            if turn % 4 == number % 4:
                request.cancel()
            error = request.future.exception(timeout=TIMEOUT)
            outcomes.append("finished" if error is None else type(error).__name__)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=TIMEOUT)
    engine.close()
    counts, stats = Counter(outcomes), engine.stats()
    assert counts.total() == 8 * 60
    assert counts["finished"] == stats.finished_requests > 0
    assert counts["RequestCancelledError"] == stats.cancelled_requests > 0
    assert counts["rejected"] == stats.rejected_requests
    assert counts["finished"] + counts["RequestCancelledError"] + counts["rejected"] == 8 * 60
    assert stats.queued_requests == stats.running_requests == stats.failed_requests == stats.expired_requests == 0
