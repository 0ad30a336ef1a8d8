"""Dragoman on Ray Serve, for many machines and devices: one replica a device, and our own batching inside each.

It decides nothing about translation: every replica is the application of `dragoman serve`, configured by the same
DRAGOMAN_* variables. Install Ray with `pip install 'dragoman[ray]'`, and start it from the root of the repository:

    serve run deploy.ray_serve:create num_replicas=2 num_gpus=1

Requests reach a replica while fewer than `max_ongoing_requests` run on it: enough to fill the engine's batch, and
few enough that another replica gets the rest. Do not put `serve.batch` around it, which would only wait. Replicas share
nothing: set DRAGOMAN_LIMITS_STORAGE to a Redis, or each counts limits by itself; and keys, glossaries and documents in
DRAGOMAN_DATA_DIRECTORY can be shared on one machine only, as SQLite's log does not work over a network. The proxy sends
a request for /metrics to any one replica, so watch replicas with Ray's own metrics.
"""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI
from ray import serve

from app.main import create_app


@cache
def _application() -> FastAPI:
    """Return the application of this process: each replica is a process, and has one."""
    return create_app()


def build() -> FastAPI:
    """Return the same; Ray takes a plain function for a builder, and anything else for the application itself."""
    return _application()


@serve.deployment(name="dragoman")
@serve.ingress(build)
class Replica:
    """One application on one device; Ray runs its lifespan, which loads the models and closes them."""

    def check_health(self) -> None:
        """Let Ray replace the replica when an engine has died."""
        if not _application().state.service.registry.healthy():
            raise RuntimeError("an engine does not run")


def create(
    num_replicas: int = 1,
    num_gpus: float = 0,
    num_cpus: float = 1,
    max_ongoing_requests: int = 64,
    max_queued_requests: int = 256,
) -> serve.Application:
    """Return what `serve run` and `serve.run` take.

    Args:
        num_replicas: how many; as many as there are devices.
        num_gpus: devices of a replica: 1, or 0 to translate on the processor.
        num_cpus: processor cores that Ray sets aside for a replica; set DRAGOMAN_NUM_WORKERS to the same number.
        max_ongoing_requests: requests that run on a replica at the same time.
        max_queued_requests: requests that wait for a replica at each proxy; those beyond are answered with 503.
    """
    deployment = Replica.options(
        num_replicas=int(num_replicas),
        ray_actor_options={"num_gpus": float(num_gpus), "num_cpus": float(num_cpus)},
        max_ongoing_requests=int(max_ongoing_requests),
        max_queued_requests=int(max_queued_requests),
        graceful_shutdown_timeout_s=60,
    )
    return deployment.bind()
