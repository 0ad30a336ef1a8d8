"""A real HTTP server around an application for clients that open their own connections; it holds no fixture itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


@contextmanager
def serve(application: FastAPI) -> Iterator[str]:
    """Serve on a free port in a thread, and yield the address without a slash at its end.

    Connections wait in the socket's queue until the service takes them. On the way out the server finishes what it
    answers, and the lifespan of the application ends.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
