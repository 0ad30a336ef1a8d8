"""The end of a service: at the signal it is not ready, refuses new work, finishes the old, and leaves with status 0."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import httpx
import pytest
import uvicorn

import app.server
from app.server import GentleServer

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
"""Only ever waited for by a test that fails."""
BODY = {"texts": "été", "source": "fr", "target": "en"}


class Process:
    """A service in a process of its own, whose log is read as it comes."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.address = self.wait_for_log("Uvicorn running on ").split()[3]

    def wait_for_log(self, beginning: str) -> str:
        """Return the next message of the log that begins so."""
        for line in self._pipe(self.process.stderr):
            event = str(json.loads(line)["event"]) if line.startswith("{") else line
            self.log.append(event)
            if event.startswith(beginning):
                return event
        raise AssertionError(f"the log ended without {beginning!r}: {self.log}")

    def wait_for_output(self) -> str:
        """Return the next line on stdout."""
        return self._pipe(self.process.stdout).readline()

    def tell(self, line: str) -> None:
        """Write a line to stdin."""
        pipe = self._pipe(self.process.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    def close(self) -> None:
        """End it, if it still runs, and close its pipes."""
        self.process.kill()
        self.process.communicate()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@pytest.fixture
def service() -> Iterator[Process]:
    """A service whose answers are held back."""
    process = Process(str(Path(__file__).with_name("stopping_service.py")))
    yield process
    process.close()


def test_a_stop_refuses_the_new_and_finishes_the_old(service: Process) -> None:
    old: list[httpx.Response] = []

    def ask() -> None:
        old.append(httpx.post(f"{service.address}/v1/translate", json=BODY, timeout=PATIENCE_SECONDS))

    asking = threading.Thread(target=ask)
    with httpx.Client(base_url=service.address, timeout=PATIENCE_SECONDS) as kept_alive:
        assert kept_alive.get("/readyz").status_code == 200
        asking.start()
        assert service.wait_for_output() == "submitted\n"

        service.process.send_signal(signal.SIGTERM)
        while (ready := kept_alive.get("/readyz")).status_code == 200:
            assert service.process.poll() is None
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")
        assert kept_alive.get("/livez").status_code == 200
        for path, body in (("/v1/translate", BODY), ("/translate", {"q": "été", "source": "fr", "target": "en"})):
            new = httpx.post(service.address + path, json=body, timeout=PATIENCE_SECONDS)
            assert new.status_code == 503
            assert (new.headers["connection"], new.headers["retry-after"]) == ("close", "5")

    service.process.send_signal(signal.SIGTERM)  # a second one ends the draining
    service.wait_for_log("Shutting down")
    service.wait_for_log("Waiting for connections to close")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.address}/livez", timeout=PATIENCE_SECONDS)
    assert old == []
    service.tell("finish")
    asking.join(PATIENCE_SECONDS)
    assert old[0].status_code == 200
    assert old[0].json()["translations"][0]["text"] == "<en>été"
    assert service.process.wait(PATIENCE_SECONDS) == 0


def test_the_command_ends_with_status_0() -> None:
    code = "import sys; from app.cli import main; sys.exit(main(['serve', '--port', '0']))"
    process = Process("-c", code, DRAGOMAN_DECODER="plain", DRAGOMAN_NUM_WORKERS="1", DRAGOMAN_DRAIN_SECONDS="0")
    try:
        reply = httpx.post(f"{process.address}/v1/translate", json=BODY, timeout=PATIENCE_SECONDS)
        assert reply.status_code == 200
        process.process.send_signal(signal.SIGTERM)
        process.wait_for_log("closed")
        assert process.process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.close()


# The server's own steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that the test moves."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(app.server, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def make_server(calls: list[str]) -> GentleServer:
    async def application(*_: Any) -> None: ...

    return GentleServer(uvicorn.Config(application, log_config=None), lambda: calls.append("stop"), 5.0)


def leaves(server: GentleServer) -> bool:
    """Whether the server leaves its main loop now."""
    return asyncio.run(server.on_tick(1))


def test_the_listener_stays_open_for_the_draining(clock: SimpleNamespace) -> None:
    calls: list[str] = []
    server = make_server(calls)
    assert not leaves(server)
    server.handle_exit(signal.SIGTERM, None)
    assert calls == ["stop"]
    clock.now += 4.9
    assert not leaves(server)
    clock.now += 0.1
    assert leaves(server)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
def test_a_person_or_a_second_signal_does_not_wait(signals: list[signal.Signals]) -> None:
    server = make_server([])
    for each in signals:
        assert not leaves(server)
        server.handle_exit(each, None)
    assert leaves(server)
    assert not server.force_exit
    server.handle_exit(signals[-1], None)
    assert server.force_exit
