"""A service in a process of its own, whose answers the test holds back; run it as a script.

It writes ``submitted`` to stdout for each text that arrives, and finishes all open texts for each line on stdin.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Serve on a free port until a signal comes; the first one begins a long draining."""
    sys.path.insert(0, str(ROOT))
    from app.main import create_app
    from app.server import run_server
    from app.settings import Settings
    from tests.service.conftest import StubTranslator

    stub = StubTranslator(holds=True)
    settings = Settings(port=0, drain_seconds=600.0, shutdown_timeout_seconds=600.0)

    def announce() -> None:
        while True:
            stub.arrivals.acquire()
            print("submitted", flush=True)

    def finish() -> None:
        for _ in sys.stdin:
            for work in stub.submitted:
                if not work.future.done():
                    work.finish()

    for body in (announce, finish):
        threading.Thread(target=body, daemon=True).start()
    run_server(create_app(settings, [stub]), settings)


if __name__ == "__main__":
    main()
