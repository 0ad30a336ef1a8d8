"""Load on a service: Poisson arrivals that wait for nobody, or a fixed number of clients; how to send is server.py's.

An arrival's latency counts from the moment it was meant to arrive, not from when it was sent: a sender that falls
behind, because the service or it itself is slow, must not hide the wait of those who would have come meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from model.evaluation.latency import Latency, percentile

Send = Callable[[str], Awaitable[str | None]]
"""Sends one text; returns None once it is answered, or the kind of error."""
SEED = 1
"""Of the arrivals: the same rate and duration give the same times."""
REFINEMENTS = 4
"""How often the interval is halved in which the highest rate lies."""
LOWEST_RATE = 1.0
"""Requests per second at which the search begins."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    arrival: float
    """When it was meant to arrive, in seconds from the start."""
    latency: float
    """Seconds from then to its answer or error."""
    error: str | None = None
    """The kind of error, or None for a translation."""


@dataclass(frozen=True)
class LoadPoint:
    """What one load did; a request is good if it was translated within the latency bound."""

    rate: float | None
    """Arrivals per second that were asked for; None with clients that wait for their answers."""
    clients: int | None
    """Clients that wait for their answers; None with arrivals."""
    seconds: float
    """Time over which requests arrived, or with clients time until the last answer."""
    requests: int
    """Requests sent."""
    answered: int
    """Translations received."""
    errors: dict[str, int]
    """Numbers of errors by kind."""
    good: int
    """Translations received within the bound."""
    latency_bound_ms: float
    """The bound."""
    throughput: float
    """Translations per second until the last answer, which may come long after the last arrival."""
    goodput: float
    """Good requests per second of arrivals."""
    latency: Latency | None
    """Of the translated requests, if there are any."""
    sender_cpu_seconds: float
    """Processor time that the sender itself took, perhaps from the service."""

    @property
    def holds(self) -> bool:
        """Whether at least 95% of the requests were good."""
        return self.good >= 0.95 * self.requests


def poisson_arrivals(rate: float, seconds: float, seed: int = SEED) -> list[float]:
    """Return arrival times within ``seconds`` of a Poisson process: gaps are exponential with mean ``1 / rate``.

    Where nothing would arrive, one request does at 0.
    """
    draw = random.Random(seed)
    gaps = (draw.expovariate(rate) for _ in itertools.count())
    return list(itertools.takewhile(lambda arrival: arrival < seconds, itertools.accumulate(gaps))) or [0.0]


async def open_loop(send: Send, texts: Sequence[str], arrivals: Sequence[float]) -> list[Answer]:
    """Send one text at each time of ``arrivals``, whatever became of the ones before, and wait for all answers."""
    clock = asyncio.get_running_loop().time
    begin = clock()

    async def request(text: str, arrival: float) -> Answer:
        error = await send(text)
        return Answer(arrival, clock() - begin - arrival, error)

    tasks = []
    for text, arrival in zip(itertools.cycle(texts), arrivals, strict=False):
        await asyncio.sleep(begin + arrival - clock())
        tasks.append(asyncio.create_task(request(text, arrival)))
    return list(await asyncio.gather(*tasks))


async def closed_loop(send: Send, texts: Sequence[str], clients: int) -> list[Answer]:
    """Let ``clients`` send all texts, each of them its next one once it has an answer."""
    clock = asyncio.get_running_loop().time
    begin = clock()
    waiting = iter(texts)

    async def client() -> list[Answer]:
        answers = []
        for text in waiting:
            started = clock()
            error = await send(text)
            answers.append(Answer(started - begin, clock() - started, error))
        return answers

    return list(itertools.chain(*await asyncio.gather(*(client() for _ in range(clients)))))


def summarize(
    answers: Sequence[Answer],
    latency_bound_ms: float,
    *,
    rate: float | None = None,
    seconds: float | None = None,
    clients: int | None = None,
    sender_cpu_seconds: float = 0.0,
) -> LoadPoint:
    """Return the numbers of one load.

    Args:
        answers: what became of each request; at least one.
        latency_bound_ms: most milliseconds of a good request.
        rate: arrivals per second.
        seconds: over which requests arrived; by default the time until the last answer.
        clients: instead of a rate.
        sender_cpu_seconds: only noted.
    """
    latencies = [answer.latency for answer in answers if answer.error is None]
    until = max(answer.arrival + answer.latency for answer in answers)
    span = until if seconds is None else seconds
    good = sum(1000 * latency <= latency_bound_ms for latency in latencies)
    return LoadPoint(
        rate=rate,
        clients=clients,
        seconds=span,
        requests=len(answers),
        answered=len(latencies),
        errors=dict(Counter(answer.error for answer in answers if answer.error is not None)),
        good=good,
        latency_bound_ms=latency_bound_ms,
        throughput=len(latencies) / max(until, span),
        goodput=good / span,
        latency=Latency.of(latencies) if latencies else None,
        sender_cpu_seconds=sender_cpu_seconds,
    )


async def load_at_rate(
    send: Send, texts: Sequence[str], rate: float, seconds: float, latency_bound_ms: float
) -> LoadPoint:
    """Send Poisson arrivals at one rate."""
    arrivals = poisson_arrivals(rate, seconds)
    used = time.process_time()
    answers = await open_loop(send, texts, arrivals)
    used = time.process_time() - used
    return summarize(answers, latency_bound_ms, rate=rate, seconds=seconds, sender_cpu_seconds=used)


async def load_from_clients(send: Send, texts: Sequence[str], clients: int, latency_bound_ms: float) -> LoadPoint:
    """Send all texts from clients that wait for their answers."""
    used = time.process_time()
    answers = await closed_loop(send, texts, clients)
    used = time.process_time() - used
    return summarize(answers, latency_bound_ms, clients=clients, sender_cpu_seconds=used)


async def highest_rate(
    measure: Callable[[float], Awaitable[LoadPoint]],
    start: float = LOWEST_RATE,
    refinements: int = REFINEMENTS,
) -> list[LoadPoint]:
    """Look for the highest rate that holds: doubling until one does not, then halving the interval on a log scale.

    Args:
        measure: loads the service at a rate.
        start: the first rate; if it does not hold, lower ones are tried.
        refinements: halvings; each leaves the square root of the interval's ratio, so four leave 4% of a doubling.

    Returns:
        All loads, in the order in which they were measured.
    """
    points = [await measure(start)]
    low, high = (start, None) if points[0].holds else (None, start)
    while (low is None or high is None) and len(points) < 24:
        rate = low * 2 if low is not None else (high or start) / 2
        points.append(await measure(rate))
        low, high = (rate, high) if points[-1].holds else (low, rate)
    if low is None or high is None:
        return points
    for _ in range(refinements):
        rate = (low * high) ** 0.5
        points.append(await measure(rate))
        low, high = (rate, high) if points[-1].holds else (low, rate)
    return points


def best_point(points: Sequence[LoadPoint]) -> LoadPoint | None:
    """Return the load with the highest rate that holds, or None."""
    return max((point for point in points if point.holds), key=lambda point: point.rate or 0.0, default=None)


def median_point(points: Sequence[LoadPoint]) -> LoadPoint:
    """Return the load whose throughput is the median (the lower one of two)."""
    middle = percentile([point.throughput for point in points], 50)
    return next(point for point in points if point.throughput == middle)
