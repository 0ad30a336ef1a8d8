"""The engine with a scripted batch: failures, a dead worker, closing, forgotten engines; no decoding."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import Future

import pytest
import torch

from model.config import EngineConfig
from model.engine.engine import Engine
from model.engine.request import Request
from model.engine.stats import EngineStats
from model.errors import (
    DecodingError,
    EngineClosedError,
)
from model.generation import Hypothesis
from model.transformer import Transformer
from tests.unit.scripted_engine import (
    FIRST_WORKER,
    GREEDY,
    TIMEOUT,
    Script,
    ScriptedBatch,
    StartEngine,
    engine_threads,
    inputs,
    names,
)


def test_failed_step_fails_its_batch_only(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)
    script.errors[1] = RuntimeError("the network broke")
    requests = engine.submit_many(inputs((1, 1), (2, 5), (3, 5), (4, 2)))
    script.run_freely()
    assert names([requests[0], requests[3]]) == [(1,), (4, 4)]
    for request in requests[1:3]:
        error = request.future.exception(timeout=TIMEOUT)
        assert isinstance(error, DecodingError)
        assert error.__cause__ is script.errors[1]
        assert "the network broke" in str(error)
    assert script.tokens == [[1, 2], [2, 3], [4], [4]]
    assert script.batches == 2
    assert (engine.stats().failed_requests, engine.stats().finished_requests) == (2, 2)


def test_request_that_cannot_be_encoded_fails_alone(start: StartEngine, script: Script) -> None:
    script.bad_names.add(2)
    requests = start().submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.permit(1)
    assert names([requests[0], requests[2]]) == [(1,), (3,)]
    assert isinstance(requests[1].future.exception(timeout=TIMEOUT), DecodingError)
    assert script.tokens == [[1, 3]]


def test_non_finite_logits_fail_alone(start: StartEngine, script: Script) -> None:
    script.non_finite.add(2)
    requests = start().submit_many(inputs((1, 1), (2, 1), (3, 1)))
    script.permit(2)
    assert names([requests[0], requests[2]]) == [(1,), (3,)]
    assert isinstance(requests[1].future.exception(timeout=TIMEOUT), DecodingError)
    assert script.batches == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.AcceleratorError("device lost"), DecodingError), (SystemExit(1), EngineClosedError)],
)
def test_a_dead_worker_fails_everything_and_says_so(
    start: StartEngine,
    script: Script,
    error: BaseException,
    expected: type[Exception],
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = start(max_batch_tokens=12)
    script.errors[0] = error
    running, waiting = engine.submit_many(inputs((1, 1), (2, 1)))
    script.permit()
    assert isinstance(running.future.exception(timeout=TIMEOUT), expected)
    assert isinstance(waiting.future.exception(timeout=TIMEOUT), EngineClosedError)
    with pytest.raises(EngineClosedError, match="died"):
        engine.submit([3, 1], GREEDY)
    assert not engine.stats().accepting
    assert engine.stats().failed_requests == 2
    engine.close()
    assert "worker died" in caplog.text
    assert len(script.tokens) == 1


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
    assert script.tokens == [[1]]
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
    config = EngineConfig(device="cpu", num_workers=2)
    engine = Engine(network, config, new_batch=lambda: ScriptedBatch(script), clock=script.clock)
    threads = engine_threads()
    assert len(threads) == 3  # two workers, and one that watches the deadlines
    del engine
    gc.collect()
    for thread in threads:
        thread.join(timeout=TIMEOUT)
    assert engine_threads() == []


def test_the_worker_only_ever_sleeps_on_its_condition(
    start: StartEngine, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No polling: every wait of the thread is without a timeout, and an idle engine does not leave it."""
    timeouts: list[float | None] = []
    idle = threading.Semaphore(0)
    wait = threading.Condition.wait

    def recording_wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread().name == FIRST_WORKER:
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
