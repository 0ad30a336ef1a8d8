"""One request's life: state, exactly one result, cancelling from either end; no engine."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from model.config import GenerationConfig
from model.engine.request import Request, RequestState
from model.errors import RequestCancelledError
from model.generation.hypothesis import Hypothesis

HYPOTHESIS = Hypothesis((5, 6), -0.5, -1.5, (-0.5, -0.5, -0.5), "end")


def new_request(config: GenerationConfig | None = None, **options: object) -> Request:
    """A request of four source tokens and six target positions."""
    return Request((4, 5, 6, 3), config or GenerationConfig(beam_size=1), reserved_tokens=6, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "num_rows"),
    [
        (GenerationConfig(beam_size=1), 1),
        (GenerationConfig(beam_size=5, num_hypotheses=2), 5),
        (GenerationConfig(beam_size=1, sampling=True, num_hypotheses=3), 3),
    ],
)
def test_cost_is_rows_times_source_and_reserved_positions(config: GenerationConfig, num_rows: int) -> None:
    request = new_request(config)
    assert request.num_rows == num_rows
    assert request.cost == num_rows * (4 + 6)


def test_states_in_order() -> None:
    request = new_request()
    states = [request.state]
    for change in (request.wait_again, request.start, request.claim, request.start, request.wait_again):
        change()
        states.append(request.state)
    assert [state.value for state in states] == ["waiting", "waiting", "running", "finished", "finished", "finished"]
    request.resolve([HYPOTHESIS])
    assert request.future.result(timeout=0) == [HYPOTHESIS]


def test_a_request_can_be_put_back_and_run_again() -> None:
    request = new_request()
    states = []
    for change in (request.start, request.wait_again) * 2:
        change()
        states.append(request.state)
    assert states == [RequestState.RUNNING, RequestState.WAITING] * 2
    assert request.cancel()


def test_error_becomes_the_futures_exception() -> None:
    request = new_request()
    assert request.claim()
    request.resolve(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        request.future.result(timeout=0)


def test_cancel_tells_the_engine_before_the_future_and_only_once() -> None:
    events: list[str] = []
    request = new_request(on_cancel=lambda _: events.append("engine"))
    request.future.add_done_callback(lambda _: events.append("future"))
    assert request.cancel()
    assert not request.cancel()
    assert events == ["engine", "future"]
    with pytest.raises(RequestCancelledError):
        request.future.result(timeout=0)


def test_cancel_after_the_result_does_nothing() -> None:
    told: list[Request] = []
    request = new_request(on_cancel=told.append)
    assert request.claim()
    request.resolve([HYPOTHESIS])
    assert not request.cancel()
    assert not request.future.cancel()
    assert told == []
    assert request.future.result(timeout=0) == [HYPOTHESIS]


def test_cancelling_the_future_cancels_the_request() -> None:
    told: list[Request] = []
    request = new_request(on_cancel=told.append)
    assert request.future.cancel()
    assert told == [request]
    assert request.state is RequestState.FINISHED
    with pytest.raises(CancelledError):
        request.future.result(timeout=0)


def test_future_cancelled_after_the_claim_swallows_the_result() -> None:
    request = new_request()
    assert request.claim()
    assert request.future.cancel()
    request.resolve([HYPOTHESIS])  # must not raise in the worker's thread
    assert request.future.cancelled()


def test_one_of_many_threads_wins() -> None:
    for _ in range(50):
        request = new_request()
        barrier = threading.Barrier(4)
        wins: list[bool] = []

        def race(request: Request = request, barrier: threading.Barrier = barrier, wins: list[bool] = wins) -> None:
            barrier.wait(timeout=10)
            wins.append(request.cancel())

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert sorted(wins) == [False, False, False, True]


def test_a_dropped_request_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        request = new_request()
        reference, future = weakref.ref(request), request.future
        assert request.claim()
        request.resolve([HYPOTHESIS])
        del request
        assert reference() is None
        assert future.result(timeout=0) == [HYPOTHESIS]
    finally:
        gc.enable()
