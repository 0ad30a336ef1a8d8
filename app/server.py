"""Listens for HTTP, and stops gently: not ready at once, refusing new work for a while, then waiting for the old.

The order of a stop: the signal; readiness is 503 and new translations are refused with 503, while the listener stays
open for ``drain_seconds`` so that balancers notice; the listener closes; running requests finish, up to
``shutdown_timeout_seconds``; the models close; the exit status is 0.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.settings import Settings


def run_server(application: FastAPI, settings: Settings) -> None:
    """Serve an application of create_app until a signal stops it.

    Raises:
        SystemExit: it could not start; uvicorn has logged why.
    """
    config = uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        log_config=None,  # create_app sets up the logs
        access_log=False,  # it writes one line per request itself, without query strings
        server_header=False,
        proxy_headers=False,  # create_app believes the proxies of the settings, and no others
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_seconds),
    )
    server = GentleServer(config, application.state.service.registry.stop_accepting, settings.drain_seconds)
    server.run()
    if not server.started:
        raise SystemExit(1)


class GentleServer(uvicorn.Server):
    """A server that goes on listening for a while after it was told to stop."""

    def __init__(self, config: uvicorn.Config, stop_accepting: Callable[[], None], drain_seconds: float) -> None:
        """Serve ``config``.

        Args:
            stop_accepting: lets the application refuse new work; called in a signal handler, so it must only set flags.
            drain_seconds: time from SIGTERM until the listener closes. An interrupt from the keyboard, or a second
                signal, closes it at once; one more ends the running requests too.
        """
        super().__init__(config)
        self._stop_accepting = stop_accepting
        self._drain_seconds = drain_seconds
        self._drained_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Take one signal. It is not raised again at the end, as uvicorn would do: a wanted stop is no failure."""
        self._stop_accepting()
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGINT or self._drained_at is not None:
            self.should_exit = True
        else:
            self._drained_at = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Leave the main loop when the draining is over; uvicorn asks ten times a second."""
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)
