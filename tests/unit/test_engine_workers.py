"""The engine with several workers and batches that do many tokens in one go: who works, and what interrupts whom."""

from __future__ import annotations

import functools
import math
import random
import threading
from collections import Counter
from concurrent.futures import CancelledError, Future

import pytest
import torch

from model.config import GenerationConfig
from model.engine.clock import LONGEST_SLEEP_SECONDS, MonotonicClock
from model.engine.engine import Engine
from model.engine.request import Request
from model.errors import (
    DeadlineExceededError,
    DecodingError,
    EngineClosedError,
    OverloadedError,
    RequestCancelledError,
)
from model.generation import GenerationInput, Hypothesis
from tests.unit.scripted_engine import (
    FIRST_WORKER,
    GREEDY,
    TIMEOUT,
    Script,
    StartEngine,
    engine_threads,
    hypothesis,
    inputs,
    names,
)


@pytest.fixture
def script() -> Script:
    """Steps of up to 100 tokens, which take no time."""
    script = Script()
    script.tokens_per_step = 100
    script.seconds_per_token = 0.0
    return script


def test_a_step_of_many_tokens_counts_as_many_steps(start: StartEngine, script: Script) -> None:
    script.run_freely()
    script.seconds_per_token = 1.0
    engine = start()
    names(engine.submit_many(inputs((1, 3), (2, 5))))
    engine.close()
    stats = engine.stats()
    assert (stats.steps, stats.decoded_rows, stats.busy_seconds) == (5, 3 * 2 + 2 * 1, 5.0)
    assert script.num_calls == 2


def test_beams_have_fanned_out_after_the_first_token_of_a_step(start: StartEngine, script: Script) -> None:
    script.run_freely()
    engine = start()
    requests = [engine.submit([1, 4], GenerationConfig(beam_size=3, max_new_tokens=10))]
    names(requests)
    engine.close()
    assert (engine.stats().steps, engine.stats().decoded_rows) == (4, 1 + 3 + 3 + 3)


def test_an_arrival_joins_before_the_next_token(start: StartEngine, script: Script) -> None:
    engine = start()
    first = engine.submit([1, 4], GREEDY)
    script.wait_for_step()
    second, third = engine.submit_many(inputs((2, 2), (3, 1)))
    fourth = engine.submit([4, 1], GREEDY)
    script.run_freely()
    names([first, second, third, fourth])
    assert script.tokens == [[1], [1, 2, 3, 4], [1, 2], [1]]
    assert script.num_interrupts == 1  # one is enough for all that come during a token


def test_an_arrival_without_room_interrupts_nobody(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24, num_workers=2)
    running = engine.submit_many(inputs((1, 2), (2, 2), (3, 2), (4, 2)))
    for _ in range(2):
        script.wait_for_step()
    waiting = engine.submit([5, 1], GREEDY)
    assert (engine.stats().running_requests, engine.stats().queued_requests) == (4, 1)
    script.run_freely()
    names([*running, waiting])
    assert script.num_interrupts == 0


def test_an_arrival_starts_on_an_idle_worker_and_interrupts_nobody(start: StartEngine, script: Script) -> None:
    engine = start(num_workers=3)
    requests = []
    for number in (1, 2, 3):
        requests.append(engine.submit([number, 2], GREEDY))
        script.wait_for_step()
    assert script.num_interrupts == 0
    requests.append(engine.submit([4, 1], GREEDY))
    assert script.num_interrupts == 1
    script.run_freely()
    names(requests)
    assert len(set(script.token_threads)) == 3


def test_a_burst_is_spread(start: StartEngine, script: Script) -> None:
    engine = start(num_workers=2)
    requests = engine.submit_many(inputs((1, 1), (2, 1), (3, 1), (4, 1)))
    script.run_freely()
    names(requests)
    assert sorted(map(len, script.tokens)) == [2, 2]
    assert len(set(script.token_threads)) == 2


def test_what_waits_goes_to_the_worker_that_has_room_first(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, num_workers=2)
    held = threading.Event()

    def hold_the_first_worker() -> None:
        assert threading.current_thread().name != FIRST_WORKER or held.wait(timeout=TIMEOUT)

    script.in_step = hold_the_first_worker
    long, short, waiting = engine.submit_many(inputs((1, 9), (2, 1), (3, 1)))
    script.run_freely()
    assert names([short, waiting]) == [(2,), (3,)]
    assert not long.future.done()
    held.set()
    names([long])


@pytest.mark.parametrize("by_future", [False, True])
def test_a_cancelled_request_leaves_before_the_next_token(start: StartEngine, script: Script, by_future: bool) -> None:
    engine = start()
    staying, leaving = engine.submit_many(inputs((1, 3), (2, 3)))
    script.wait_for_step()
    assert leaving.future.cancel() if by_future else leaving.cancel()
    script.run_freely()
    assert names([staying]) == [(1, 1, 1)]
    assert script.tokens == [[1, 2], [1], [1]]
    assert script.removed == [2]


def test_cancelling_what_waits_interrupts_nobody(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12)
    running, waiting = engine.submit_many(inputs((1, 2), (2, 1)))
    script.wait_for_step()
    assert waiting.cancel()
    script.run_freely()
    names([running])
    assert script.num_interrupts == 0


def test_a_cancelled_request_makes_room_before_the_next_token(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12)
    running, waiting = engine.submit_many(inputs((1, 9), (2, 1)))
    script.wait_for_step()
    assert running.cancel()
    script.run_freely()
    names([waiting])
    assert script.tokens == [[1], [2]]


def test_a_deadline_that_passes_during_a_step_ends_the_request_at_once(start: StartEngine, script: Script) -> None:
    engine = start()
    staying = engine.submit([1, 3], GREEDY, deadline_seconds=100.0)
    script.wait_for_step()
    leaving = engine.submit([2, 3], GREEDY, deadline_seconds=5.0)
    script.permit()
    script.wait_for_step()
    script.clock.advance(4.9)
    assert not leaving.future.done()
    script.clock.advance(0.1)
    assert isinstance(leaving.future.exception(timeout=TIMEOUT), DeadlineExceededError)  # the token is not done yet
    script.run_freely()
    assert names([staying]) == [(1, 1, 1)]
    assert script.tokens == [[1], [1, 2], [1]]
    assert script.num_interrupts == 2  # for the arrival and for the deadline
    assert script.removed == [2]


def test_deadlines_in_any_order_are_all_watched(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, num_workers=2)
    running = engine.submit_many(inputs((1, 1), (2, 1)), deadline_seconds=1000.0)
    for _ in range(2):
        script.wait_for_step()
    waiting = {seconds: engine.submit([3, 1], GREEDY, deadline_seconds=seconds) for seconds in (50.0, 10.0, 1e12, 30.0)}
    for seconds in (10.0, 30.0, 50.0):
        script.clock.advance(seconds - script.clock.now())
        assert isinstance(waiting.pop(seconds).future.exception(timeout=TIMEOUT), DeadlineExceededError)
        assert not any(request.future.done() for request in waiting.values())
    assert script.num_interrupts == 0  # they only waited
    script.run_freely()
    assert names([*running, waiting[1e12]]) == [(1,), (2,), (3,)]
    assert engine.stats().expired_requests == 3


def test_a_deadline_by_the_real_clock(start: StartEngine, script: Script) -> None:
    """Nothing but time passes: the step is held until after the deadline."""
    engine = start(clock=MonotonicClock())
    request = engine.submit([1, 2], GREEDY, deadline_seconds=0.05)
    script.wait_for_step()
    assert isinstance(request.future.exception(timeout=TIMEOUT), DeadlineExceededError)
    assert script.tokens == []


def test_how_long_the_real_clock_sleeps() -> None:
    timeouts: list[float | None] = []

    class RecordingCondition(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            timeouts.append(timeout)
            return True

    clock, condition = MonotonicClock(), RecordingCondition()
    now = clock.now()
    for until in (math.inf, now + 1e30, now + 100.0, now - 1.0):
        clock.sleep(condition, until)
    assert timeouts[:2] == [None, LONGEST_SLEEP_SECONDS]
    assert timeouts[2] is not None
    assert 0 < timeouts[2] <= 100.0
    assert timeouts[3] == 0.0


@pytest.mark.parametrize("drain", [False, True])
def test_closing_interrupts_unless_it_drains(start: StartEngine, script: Script, drain: bool) -> None:
    engine = start(num_workers=2)
    requests = engine.submit_many(inputs((1, 3), (2, 3)))
    for _ in range(2):
        script.wait_for_step()
    closer = threading.Thread(target=engine.close, args=(drain,))
    closer.start()
    if not drain:
        for _ in range(2):
            script.wait_for_interrupt()
    script.run_freely()
    closer.join(timeout=TIMEOUT)
    assert engine_threads() == []
    errors = [request.future.exception(timeout=0) for request in requests]
    assert [type(error) for error in errors] == ([type(None)] * 2 if drain else [EngineClosedError] * 2)
    assert len(script.tokens) == (6 if drain else 2)
    assert script.num_interrupts == (0 if drain else 2)


def test_draining_waits_for_the_worker_that_is_last(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, num_workers=2)
    requests = engine.submit_many(inputs((1, 7), (2, 1), (3, 1), (4, 5)))
    script.run_freely()
    engine.close()
    assert [request.future.done() for request in requests] == [True] * 4
    assert names(requests) == [hypothesis(request.source_ids).token_ids for request in requests]


def test_one_dead_worker_closes_the_engine(
    start: StartEngine, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(max_batch_tokens=12, num_workers=2)
    script.errors[0] = torch.AcceleratorError("device lost")
    requests = engine.submit_many(inputs((1, 9), (2, 9), (3, 1)))
    for _ in range(2):
        script.wait_for_step()
    script.permit()  # one of the workers dies; the other's request fails at once, in the middle of its token
    errors = [request.future.exception(timeout=TIMEOUT) for request in requests]
    assert sorted(type(error).__name__ for error in errors[:2]) == ["DecodingError", "EngineClosedError"]
    assert isinstance(errors[2], EngineClosedError)
    assert "died" in str(errors[2])
    with pytest.raises(EngineClosedError, match="died"):
        engine.submit([4, 1], GREEDY)
    assert not engine.stats().accepting
    script.run_freely()
    engine.close()
    assert len(script.tokens) == 2
    assert "worker died" in caplog.text


def test_a_failed_step_concerns_its_own_worker_only(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=12, num_workers=2)
    script.errors[0] = RuntimeError("the network broke")
    requests = engine.submit_many(inputs((1, 2), (2, 2), (3, 1), (4, 1)))
    script.run_freely()
    errors = [request.future.exception(timeout=TIMEOUT) for request in requests]
    assert sum(isinstance(error, DecodingError) for error in errors[:2]) == 1
    assert errors.count(None) == 3
    assert engine.stats().accepting


def test_a_failed_step_does_not_concern_what_arrived_during_it(start: StartEngine, script: Script) -> None:
    engine = start()
    script.errors[0] = RuntimeError("the network broke")
    running = engine.submit([1, 2], GREEDY)
    script.wait_for_step()
    arrived = engine.submit([2, 1], GREEDY)
    script.run_freely()
    assert isinstance(running.future.exception(timeout=TIMEOUT), DecodingError)
    assert names([arrived]) == [(2,)]


def test_a_thousand_texts_of_one_caller_do_not_hold_up_another(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24, max_queued_requests=1000, num_workers=2)
    many = engine.submit_many(inputs(*[(1 + number % 900, 1) for number in range(1000)]), caller="list")
    for _ in range(2):
        script.wait_for_step()
    single = engine.submit([999, 1], GREEDY, caller="single")
    script.run_freely()
    names([*many, single])
    (turn,) = [number for number, row in enumerate(script.tokens) if 999 in row]
    # Two tokens were under way. Each worker may take one more pair of the list before the single one's batch is done.
    assert turn <= 4


SEARCHES = [GenerationConfig(beam_size=beam_size, max_new_tokens=10) for beam_size in (1, 2, 3)]


class Customer:
    """One thread that submits, cancels and waits at random, and writes down how everything ended."""

    def __init__(self, number: int, engine: Engine, script: Script) -> None:
        self.number = number
        self.outcomes: Counter[str] = Counter()
        self.ends: Counter[Request] = Counter()
        self._choose = random.Random(number)
        self._engine = engine
        self._script = script

    def run(self, rounds: int) -> None:
        waiting: list[Request] = []
        for _ in range(rounds):
            requests = self._submit()
            choice = self._choose.randrange(6)
            if choice == 0 and requests:
                requests[-1].cancel()
            elif choice == 1 and requests:
                requests[0].future.cancel()
            elif choice == 2:
                self._script.clock.advance(0.5)
            waiting += requests
            if choice > 2:
                self._wait(waiting)
                waiting = []
        self._wait(waiting)

    def _submit(self) -> list[Request]:
        count, choose = self._choose.randint(1, 5), self._choose.choice
        items = [GenerationInput((self.number, self._choose.randint(1, 7)), choose(SEARCHES)) for _ in range(count)]
        try:
            requests = self._engine.submit_many(
                items, caller=str(self.number % 4), deadline_seconds=choose([None, None, 3.0])
            )
        except OverloadedError:
            self.outcomes["rejected"] += count
            return []
        for request in requests:
            request.future.add_done_callback(functools.partial(self._count_end, request))
        return requests

    def _count_end(self, request: Request, _: Future[list[Hypothesis]]) -> None:
        self.ends[request] += 1

    def _wait(self, requests: list[Request]) -> None:
        for request in requests:
            try:
                error = request.future.exception(timeout=TIMEOUT)
            except CancelledError:
                self.outcomes["CancelledError"] += 1
                continue
            if error is None:
                assert request.future.result() == [hypothesis(request.source_ids)]
            self.outcomes["finished" if error is None else type(error).__name__] += 1


def test_many_threads_many_workers_every_end_and_every_future_once(
    start: StartEngine, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """Submissions, cancellations, deadlines, beams and shortages of memory, all at once: nothing is lost or doubled."""
    engine = start(max_batch_tokens=90, max_queued_requests=40, num_workers=3)
    script.tokens_per_step = 3
    script.memory = 5
    script.run_freely()
    customers = [Customer(number, engine, script) for number in range(1, 7)]
    threads = [threading.Thread(target=customer.run, args=(80,)) for customer in customers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=TIMEOUT)
        assert not thread.is_alive()
    assert engine.stats().accepting, caplog.text
    engine.close()
    stats = engine.stats()
    counts = sum((customer.outcomes for customer in customers), Counter())
    ends = [times for customer in customers for times in customer.ends.values()]
    assert set(ends) == {1}
    assert len(ends) == counts.total() - counts["rejected"]
    assert counts["finished"] == stats.finished_requests > 0
    assert counts[RequestCancelledError.__name__] + counts["CancelledError"] == stats.cancelled_requests > 0
    assert counts[DeadlineExceededError.__name__] == stats.expired_requests
    assert counts["rejected"] == stats.rejected_requests
    assert stats.finished_requests + stats.cancelled_requests + stats.expired_requests == len(ends)
    assert stats.queued_requests == stats.running_requests == stats.failed_requests == 0
    assert script.shortages
    assert len(set(script.token_threads)) == 3
