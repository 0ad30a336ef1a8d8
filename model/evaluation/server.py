"""A running HTTP service under load, and beside it, in turns, others that translate the same texts; no engine here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import statistics
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from model.config import GenerationConfig
from model.errors import ConfigurationError, UnavailableError
from model.evaluation.benchmark import WARM_UP_TEXTS, Workload
from model.evaluation.interleaved import Ratio, timed
from model.evaluation.load import (
    LOWEST_RATE,
    LoadPoint,
    Send,
    best_point,
    highest_rate,
    load_at_rate,
    load_from_clients,
    median_point,
)

if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")
TIMEOUT_SECONDS = 60.0
"""An answer that takes longer counts as an error."""


@dataclass(frozen=True)
class LoadSettings:
    """How the service is loaded.

    Raises:
        ConfigurationError: a number is not above 0.
    """

    clients: int = 64
    """Clients that each wait for their answer."""
    latency_bound_ms: float = 200.0
    """A request is good if it is translated within this time."""
    rates: tuple[float, ...] = ()
    """Arrivals per second to try; without any, the highest that holds is looked for."""
    seconds: float = 10.0
    """Over which requests arrive at each rate."""
    rounds: int = 5
    """How often the clients, and each peer in turns with them, do all texts."""
    repeat: int = 1
    """How often the texts are among all texts."""

    def __post_init__(self) -> None:
        for name in ("clients", "latency_bound_ms", "seconds", "rounds", "repeat"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(name, "must be above 0", getattr(self, name))
        for rate in self.rates:
            if not rate > 0:
                raise ConfigurationError("rate", "must be above 0", rate)


@dataclass(frozen=True)
class PeerThroughput:
    """Somebody else's throughput on the same texts, text to text, in turns with the clients of the service."""

    name: str
    texts_per_second: float
    """Median over the rounds."""
    service_to_peer: Ratio
    """The service's texts per second over the peer's, a pair for each round; above 1 the service is faster."""


@dataclass(frozen=True)
class ServerResult:
    """What a service does under load."""

    url: str
    service: dict[str, Any]
    """What it says of its version and of its models."""
    closed: tuple[LoadPoint, ...]
    """All texts from the clients, one round after another."""
    closed_median: LoadPoint
    """The round with the median throughput."""
    open: tuple[LoadPoint, ...]
    """Poisson arrivals, in the order of measuring."""
    best: LoadPoint | None
    """The highest rate at which 95% of the requests were good."""
    peers: tuple[PeerThroughput, ...]


def measure_server(
    url: str,
    workload: Workload,
    generation: GenerationConfig,
    settings: LoadSettings,
    peers: Mapping[str, Callable[[Sequence[str]], Any]] | None = None,
    after_each: Callable[[], None] = lambda: None,
) -> ServerResult:
    """Load a service through its native interface, one text a request.

    Args:
        url: where it listens, without path.
        workload: the texts, taken in turn.
        generation: options that go with every request.
        settings: how to load.
        peers: names, and functions that translate all texts.
        after_each: called after each load.

    Raises:
        UnavailableError: the service does not answer, is not ready, or translated none of the first requests.
    """
    service = describe_service(url)
    run = _ServerRun(url, workload, generation, settings, after_each)
    closed, seconds = run.in_turns(peers or {})
    start = max(LOWEST_RATE, 0.25 * median_point(closed).throughput)
    points = run.with_sender(lambda send: run.at_all_rates(send, start))
    return ServerResult(
        url=url,
        service=service,
        closed=tuple(closed),
        closed_median=median_point(closed),
        open=tuple(points),
        best=best_point(points),
        peers=tuple(_throughput(name, len(run.texts), times, closed) for name, times in seconds.items()),
    )


class _ServerRun:
    """The steps of loading one service."""

    def __init__(
        self,
        url: str,
        workload: Workload,
        generation: GenerationConfig,
        settings: LoadSettings,
        after_each: Callable[[], None],
    ) -> None:
        self._url = url
        self.texts = list(workload.texts) * settings.repeat
        self._bodies = request_bodies(workload, generation)
        self._settings = settings
        self._after_each = after_each

    def with_sender(self, drive: Callable[[Send], Coroutine[Any, Any, Result]]) -> Result:
        """Return what ``drive`` returns when it has a function to send with; connections are new each time."""
        import httpx

        context = httpx.create_ssl_context(trust_env=False)

        async def run() -> Result:
            async with contextlib.AsyncExitStack() as open_clients:

                async def connect() -> httpx.AsyncClient:
                    client = httpx.AsyncClient(verify=context, timeout=TIMEOUT_SECONDS, trust_env=False)
                    return await open_clients.enter_async_context(client)

                return await drive(sender(connect, f"{self._url.rstrip('/')}/v1/translate", self._bodies))

        return asyncio.run(run())

    def in_turns(
        self, peers: Mapping[str, Callable[[Sequence[str]], Any]]
    ) -> tuple[list[LoadPoint], dict[str, list[float]]]:
        """Return what the clients did, and the seconds of each peer, a number for each round."""
        warm_up = self.texts[:WARM_UP_TEXTS]
        first = self._from_clients(warm_up)
        if not first.answered:
            raise UnavailableError(f"{self._url} translated none of the first requests: {first.errors}")
        for translate in peers.values():
            translate(warm_up)
        closed: list[LoadPoint] = []
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(self._settings.rounds):
            closed.append(self._from_clients(self.texts))
            self._after_each()
            for name, translate in peers.items():
                seconds[name].append(timed(lambda translate=translate: translate(self.texts))[0])  # type: ignore[misc]
                self._after_each()
        return closed, seconds

    async def at_all_rates(self, send: Send, start: float) -> list[LoadPoint]:
        """Load with arrivals at the rates of the settings, or look for the highest that holds, from ``start`` on."""
        if self._settings.rates:
            return [await self._at_rate(send, rate) for rate in self._settings.rates]
        return await highest_rate(lambda rate: self._at_rate(send, rate), start)

    async def _at_rate(self, send: Send, rate: float) -> LoadPoint:
        settings = self._settings
        point = await load_at_rate(send, self.texts, rate, settings.seconds, settings.latency_bound_ms)
        self._after_each()
        return point

    def _from_clients(self, texts: Sequence[str]) -> LoadPoint:
        settings = self._settings
        return self.with_sender(
            lambda send: load_from_clients(send, texts, settings.clients, settings.latency_bound_ms)
        )


def request_bodies(workload: Workload, generation: GenerationConfig) -> dict[str, bytes]:
    """Return the body of each text's request, so that making them is not measured."""
    defaults = dataclasses.asdict(GenerationConfig())
    options = {name: value for name, value in dataclasses.asdict(generation).items() if value != defaults[name]}
    shared = {"source": workload.source, "target": workload.target, "options": options}
    return {text: json.dumps({"texts": [text], **shared}).encode() for text in workload.texts}


def sender(connect: Callable[[], Awaitable[httpx.AsyncClient]], url: str, bodies: Mapping[str, bytes]) -> Send:
    """Return a function that sends the request of a text, and returns None or the kind of error.

    Each request that is under way has a client of its own, with one connection: a pool of many connections looks
    through all of them for every request, which would cost more than the service itself.
    """
    import httpx

    headers = {"Content-Type": "application/json"}
    idle: list[httpx.AsyncClient] = []

    async def send(text: str) -> str | None:
        client = idle.pop() if idle else await connect()
        try:
            reply = await client.post(url, content=bodies[text], headers=headers)
        except httpx.HTTPError as error:
            return type(error).__name__
        finally:
            idle.append(client)
        return None if reply.status_code == 200 else f"HTTP {reply.status_code}"

    return send


def describe_service(url: str) -> dict[str, Any]:
    """Return what a service says of its version and of its models.

    Raises:
        UnavailableError: it does not answer, or is not ready.
    """
    import httpx

    found = {}
    for path in ("readyz", "version", "v1/models"):
        address = f"{url.rstrip('/')}/{path}"
        try:
            reply = httpx.get(address, timeout=TIMEOUT_SECONDS, trust_env=False)
            reply.raise_for_status()
            found[path.rpartition("/")[2]] = reply.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise UnavailableError(f"{address} did not answer as a Dragoman service does: {error}") from error
    return {"version": found["version"], "models": found["models"]}


def _throughput(name: str, count: int, seconds: Sequence[float], closed: Sequence[LoadPoint]) -> PeerThroughput:
    """Return a peer's throughput and the ratio of the service's to it."""
    # A ratio of times is the inverse ratio of throughputs, so theirs comes first.
    ratio = Ratio.of([each / count for each in seconds], [1 / max(point.throughput, 1e-9) for point in closed])
    return PeerThroughput(name, count / statistics.median(seconds), ratio)
