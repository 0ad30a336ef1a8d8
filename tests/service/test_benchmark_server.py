"""The benchmark's load on a live service around a stub: what is sent, what is counted, what is said of failures."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI

from app.cli import main
from model import GenerationConfig, OverloadedError
from model.errors import UnavailableError
from model.evaluation.benchmark import SENTENCES, Workload
from model.evaluation.load import poisson_arrivals
from model.evaluation.server import LoadSettings, measure_server
from tests.service.running_server import serve

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

TEXTS = ("été", "Bonjour.", "à demain")
WORKLOAD = Workload(TEXTS, (), "fr", "en", "texts")
BOUND_MS = 60_000.0
"""A bound that nothing exceeds here, so that no test depends on speed."""


@pytest.fixture
def url(make_app: Callable[..., FastAPI]) -> Iterator[str]:
    """The address of a service around the stub."""
    with serve(make_app()) as address:
        yield address


def test_every_request_is_sent_and_counted(url: str, stub: StubTranslator) -> None:
    settings = LoadSettings(clients=2, latency_bound_ms=BOUND_MS, rates=(40.0, 80.0), seconds=0.25, rounds=2, repeat=3)
    translated: list[Sequence[str]] = []
    progress: list[int] = []
    result = measure_server(
        url,
        WORKLOAD,
        GenerationConfig(beam_size=2, length_penalty=0.5),
        settings,
        {"peer": translated.append},
        lambda: progress.append(1),
    )
    arrivals = [len(poisson_arrivals(rate, 0.25)) for rate in (40.0, 80.0)]
    assert [(point.clients, point.requests, point.good) for point in result.closed] == [(2, 9, 9)] * 2
    assert [(point.rate, point.requests, point.good) for point in result.open] == [
        (40.0, arrivals[0], arrivals[0]),
        (80.0, arrivals[1], arrivals[1]),
    ]
    assert all(point.errors == {} and point.latency is not None for point in (*result.closed, *result.open))
    assert result.best is result.open[1]
    assert result.closed_median in result.closed
    # The warm-up, then a list for each round: the same that the clients have.
    assert translated == [list(TEXTS) * 3] * 3
    assert [peer.name for peer in result.peers] == ["peer"]
    assert len(progress) == 2 + 2 + 2
    assert len(stub.submitted) == 9 + 2 * 9 + sum(arrivals)
    assert {(work.text, work.source, work.target) for work in stub.submitted} == {(text, "fr", "en") for text in TEXTS}
    assert {work.config for work in stub.submitted} == {GenerationConfig(beam_size=2, length_penalty=0.5)}
    assert result.service["version"]["name"] == "dragoman"
    assert result.service["models"]["models"][0]["name"] == "stub"


def test_refusals_are_counted_by_kind(url: str, stub: StubTranslator) -> None:
    stub.refusal, stub.refuses_after = OverloadedError("the queue is full", 1.0), 4
    settings = LoadSettings(clients=1, latency_bound_ms=BOUND_MS, rates=(40.0,), seconds=0.25, rounds=2)
    result = measure_server(url, WORKLOAD, GenerationConfig(), settings)
    assert [(point.answered, point.errors) for point in result.closed] == [(1, {"HTTP 503": 2}), (0, {"HTTP 503": 3})]
    assert result.open[0].errors == {"HTTP 503": result.open[0].requests}
    assert (result.open[0].goodput, result.open[0].latency, result.best) == (0.0, None, None)


def test_a_service_that_translates_nothing_is_not_measured(url: str, stub: StubTranslator) -> None:
    stub.refusal, stub.refuses_after = OverloadedError("the queue is full", 1.0), 0
    with pytest.raises(UnavailableError, match=r"translated none of the first requests: \{'HTTP 503': 3\}"):
        measure_server(url, WORKLOAD, GenerationConfig(), LoadSettings())


def test_an_address_where_nobody_listens_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=f"{address}/readyz did not answer as a Dragoman service does"):
            measure_server(address, WORKLOAD, GenerationConfig(), LoadSettings())


def test_an_unready_service_is_named(make_app: Callable[..., FastAPI], stub: StubTranslator) -> None:
    stub.calls.append("close")  # an engine that takes no requests
    with serve(make_app()) as address, pytest.raises(UnavailableError, match=r"readyz did not answer .*503"):
        measure_server(address, WORKLOAD, GenerationConfig(), LoadSettings())


def test_the_command_shows_tables_and_ends_with_json(
    url: str, stub: StubTranslator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = ["--rate", "30", "--duration", "0.2", "--clients", "3", "--rounds", "1", "--latency-bound", str(BOUND_MS)]
    assert main(["benchmark", "--server", f"{url}/", *load, "--plot", str(tmp_path / "p.png")]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    assert report["server"]["closed"][0]["requests"] == len(SENTENCES["fr"])
    assert report["server"]["best"]["rate"] == 30.0
    assert report["engine"] is None
    assert "LoadSettings(clients=3" in report["circumstances"]["load"]
    assert "highest rate with 95% good: 30.0 arrivals per second" in captured.err
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert {work.text for work in stub.submitted} == set(SENTENCES["fr"])


def test_the_command_says_why_a_service_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--server", "nonsense"]) == 1
    assert "nonsense/readyz did not answer" in capsys.readouterr().err
