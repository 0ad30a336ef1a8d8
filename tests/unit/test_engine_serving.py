"""The engine with a scripted batch: batching, cancellation, deadlines, overload, and what it tells; no decoding."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import CancelledError, Future

import pytest
import torch

from model.config import EngineConfig, GenerationConfig
from model.engine.engine import Engine
from model.engine.stats import EngineStats, Outcome, SilentObserver, Throughput
from model.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from model.generation import GenerationInput
from model.transformer import Transformer
from tests.unit.scripted_engine import FIRST_WORKER, GREEDY, TIMEOUT, Script, StartEngine, hypothesis, inputs, names


def test_one_request(start: StartEngine, script: Script) -> None:
    request = start().submit([7, 3], GREEDY)
    assert isinstance(request.future, Future)
    script.permit(3)
    assert request.future.result(timeout=TIMEOUT) == [hypothesis((7, 3))]
    assert script.tokens == [[7], [7], [7]]


def test_requests_join_and_leave_between_steps(start: StartEngine, script: Script) -> None:
    engine = start()
    first = engine.submit_many(inputs((1, 1), (2, 3)))
    script.wait_for_step()
    second = engine.submit_many(inputs((3, 2)))
    script.permit(3)
    assert names([*first, *second]) == [(1,), (2, 2, 2), (3, 3)]
    assert script.tokens == [[1, 2], [2, 3], [2, 3]]


def test_budget_holds_requests_back(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)  # two of 2 + 10 positions
    requests = engine.submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.wait_for_step()
    assert (engine.stats().running_requests, engine.stats().queued_requests) == (2, 1)
    script.permit(2)
    assert names(requests) == [(1,), (2,), (3,)]
    assert script.tokens == [[1, 2], [3]]


def test_a_list_does_not_hold_up_another_caller(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12)  # one at a time
    many = engine.submit_many(inputs(*[(number, 1) for number in range(1, 41)]), caller="list")
    script.wait_for_step()
    single = engine.submit([99, 1], GREEDY, caller="single")
    script.run_freely()
    names([*many, single])
    assert script.tokens.index([99]) <= 2


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
    assert script.tokens == [[1, 2], [1], [1]]  # the step under way, and none after it
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
    assert script.tokens == [[1], [4]]


def test_cancelling_the_only_request_empties_the_batch(start: StartEngine, script: Script) -> None:
    engine = start()
    request = engine.submit([1, 9], GREEDY)
    script.wait_for_step()
    request.cancel()
    script.permit()
    assert script.something_removed.wait(timeout=TIMEOUT)
    assert script.tokens == [[1]]
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
    assert script.tokens[-2:] == [[1, 2], [2]]  # steps take 1 s
    assert engine.stats().expired_requests == 2


def test_deadline_that_has_passed_already(start: StartEngine, script: Script) -> None:
    request = start().submit([1, 1], GREEDY, deadline_seconds=0.0)
    with pytest.raises(DeadlineExceededError):
        request.future.result(timeout=TIMEOUT)
    assert script.tokens == []


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
    assert sorted(script.tokens) == [[1], [2], [3], [6]]


def test_retry_after_comes_from_the_measured_throughput(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, max_queued_requests=20)
    script.seconds_per_token = 2.0  # one request a step: 2 s for each
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


def test_throughput_of_several_workers_adds_up() -> None:
    throughput = Throughput(num_workers=2)
    for _ in range(2):
        throughput.record(100, 10.0)
    assert throughput.seconds_for(100) == pytest.approx(5.0)


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
        expired_requests=1, busy_seconds=5.0, max_batch_tokens=24, accepting=False,
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
    assert seen == [(FIRST_WORKER, 1, True)]


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
    assert engine.stats() == EngineStats(max_batch_tokens=1000)


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
    script.seconds_per_token = 0.0
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
