"""Load on a stub service in virtual time: schedules, latencies from the intended arrival, goodput, the search."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from model.evaluation.latency import Latency
from model.evaluation.load import (
    Answer,
    LoadPoint,
    best_point,
    closed_loop,
    highest_rate,
    load_at_rate,
    load_from_clients,
    median_point,
    open_loop,
    poisson_arrivals,
    summarize,
)

Result = TypeVar("Result")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps over every wait."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                loop.now += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)


# Arrivals


def test_gaps_of_a_poisson_process_are_exponential() -> None:
    rate, seconds = 50.0, 200.0
    arrivals = poisson_arrivals(rate, seconds)
    assert arrivals == sorted(arrivals)
    assert 0 < arrivals[0] <= arrivals[-1] < seconds
    # A count is Poisson: its deviation is the root of its mean; the seed is fixed, so this cannot fail by chance.
    assert abs(len(arrivals) - rate * seconds) < 3 * math.sqrt(rate * seconds)
    gaps = sorted(later - earlier for earlier, later in zip([0.0, *arrivals], arrivals, strict=False))
    # Kolmogorov-Smirnov distance from 1 - exp(-rate t); 1.63 / sqrt(n) is its 99% quantile.
    distance = max(abs((index + 1) / len(gaps) - (1 - math.exp(-rate * gap))) for index, gap in enumerate(gaps))
    assert distance < 1.63 / math.sqrt(len(gaps))


def test_a_schedule_depends_on_its_seed_alone() -> None:
    assert poisson_arrivals(5.0, 10.0) == poisson_arrivals(5.0, 10.0)
    assert poisson_arrivals(5.0, 10.0, seed=2) != poisson_arrivals(5.0, 10.0, seed=3)
    assert poisson_arrivals(5.0, 20.0)[: len(poisson_arrivals(5.0, 10.0))] == poisson_arrivals(5.0, 10.0)


def test_something_always_arrives() -> None:
    assert poisson_arrivals(0.001, 0.001) == [0.0]


# Loops


def test_arrivals_wait_for_nobody() -> None:
    started: list[tuple[float, str]] = []

    async def send(text: str) -> None:
        started.append((asyncio.get_running_loop().time(), text))
        await asyncio.sleep(100.0)

    answers = run(open_loop(send, ["a", "b"], [0.5, 1.0, 4.0]))
    assert started == [(0.5, "a"), (1.0, "b"), (4.0, "a")]
    assert answers == [Answer(arrival, 100.0) for arrival in (0.5, 1.0, 4.0)]


def test_latency_counts_from_the_intended_arrival_when_the_sender_is_late() -> None:
    async def send(text: str) -> None:
        if text == "blocks":
            asyncio.get_running_loop().now += 10.0  # type: ignore[attr-defined]
        else:
            await asyncio.sleep(0.25)

    answers = run(open_loop(send, ["blocks", "waits", "waits"], [1.0, 2.0, 12.0]))
    # The second was meant for 2, could be sent at 11, and took a quarter; the third was in time.
    assert [answer.latency for answer in answers] == pytest.approx([10.0, 9.25, 0.25])


def test_errors_have_a_latency_and_a_kind() -> None:
    async def send(text: str) -> str | None:
        await asyncio.sleep(0.5)
        return "HTTP 503" if text == "bad" else None

    answers = run(open_loop(send, ["good", "bad"], [0.0, 0.0, 1.0]))
    assert [(answer.error, answer.latency) for answer in answers] == [(None, 0.5), ("HTTP 503", 0.5), (None, 0.5)]


def test_clients_send_their_next_text_once_the_last_one_is_answered() -> None:
    running = most = 0
    sent: list[str] = []

    async def send(text: str) -> None:
        nonlocal running, most
        sent.append(text)
        running += 1
        most = max(most, running)
        await asyncio.sleep(1.0)
        running -= 1

    texts = [str(number) for number in range(10)]
    answers = run(closed_loop(send, texts, 4))
    assert sent == texts
    assert most == 4
    assert sorted(answer.arrival for answer in answers) == pytest.approx([0] * 4 + [1] * 4 + [2] * 2)
    assert {answer.latency for answer in answers} == {1.0}


# Numbers


def test_goodput_counts_translations_within_the_bound() -> None:
    answers = [Answer(0.0, 0.125), Answer(1.0, 0.2), Answer(2.0, 0.25), Answer(3.0, 0.05, "HTTP 503"), Answer(4.0, 6.0)]
    point = summarize(answers, 200.0, rate=1.0, seconds=5.0)
    assert (point.requests, point.answered, point.good) == (5, 4, 2)
    assert point.errors == {"HTTP 503": 1}
    assert point.goodput == 2 / 5
    assert point.throughput == 4 / 10  # the last answer came at 10
    assert point.latency == Latency(p50_ms=200.0, p95_ms=6000.0, p99_ms=6000.0, mean_ms=1643.75)
    assert point.holds is False


def test_a_load_without_answers_has_no_latency() -> None:
    point = summarize([Answer(0.0, 2.0, "ConnectError")] * 3, 200.0, clients=3)
    assert (point.latency, point.goodput, point.errors, point.seconds) == (None, 0.0, {"ConnectError": 3}, 2.0)


def test_five_of_a_hundred_may_be_late() -> None:
    def with_late(count: int) -> LoadPoint:
        return summarize([Answer(0.0, 1.0)] * count + [Answer(0.0, 0.1)] * (100 - count), 200.0, clients=1)

    assert with_late(5).holds is True
    assert with_late(6).holds is False


def test_loads_are_what_they_are_called() -> None:
    async def send(_: str) -> None:
        await asyncio.sleep(0.5)

    at_rate = run(load_at_rate(send, ["a"], 20.0, 10.0, 1000.0))
    arrivals = len(poisson_arrivals(20.0, 10.0))
    assert (at_rate.rate, at_rate.clients, at_rate.seconds, at_rate.requests) == (20.0, None, 10.0, arrivals)
    assert at_rate.goodput == pytest.approx(arrivals / 10.0)
    from_clients = run(load_from_clients(send, ["a"] * 12, 3, 1000.0))
    assert (from_clients.rate, from_clients.clients, from_clients.seconds) == (None, 3, 2.0)
    assert from_clients.throughput == 6.0


@pytest.mark.parametrize("capacity", [0.3, 7.0, 100.0])
def test_the_search_finds_the_capacity(capacity: float) -> None:
    tried: list[float] = []

    async def measured(rate: float) -> LoadPoint:
        tried.append(rate)
        latency = 0.1 if rate <= capacity else 1.0
        return summarize([Answer(0.0, latency)], 200.0, rate=rate, seconds=1.0)

    points = run(highest_rate(measured, 1.0))
    assert [point.rate for point in points] == tried
    best = best_point(points)
    assert best is not None
    assert best.rate is not None
    # An interval of ratio 2, halved four times on a log scale.
    assert best.rate <= capacity < best.rate * 2 ** (1 / 16) * (1 + 1e-9)


def test_a_search_that_cannot_succeed_ends() -> None:
    async def never(rate: float) -> LoadPoint:
        return summarize([Answer(0.0, 1.0, "HTTP 500")], 200.0, rate=rate, seconds=1.0)

    points = run(highest_rate(never))
    assert best_point(points) is None
    assert len(points) == 24


def test_the_median_load_is_one_of_them() -> None:
    points = [summarize([Answer(0.0, latency)], 200.0, clients=1) for latency in (1.0, 5.0, 2.0)]
    assert median_point(points) is points[2]
