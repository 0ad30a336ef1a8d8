"""The models of the service: which there are, and loading, swapping and unloading them by those who may."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import anyio.to_thread
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.dependencies import JsonRoute, Service, ServiceDependency
from app.errors import (
    DEFAULT_MODEL_STAYS,
    MODEL_NOT_FOUND,
    MODEL_TOO_LARGE,
    MODELS_DISABLED,
    UNUSABLE_MODEL,
    RequestError,
)
from app.limits import Deadline, Patience
from app.model_store import ModelEntry, NoRoomError
from app.routes.native import PROBLEMS
from app.schemas import LoadModelRequest, ModelReply, ModelsReply, ProblemReply
from model import CheckpointError, ConfigurationError, DeadlineExceededError, InvalidOptionError

_MAX_FILES = 10_000
"""More than any model has; bounds the look for links that lead out of the folder."""
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ProblemReply, "description": "The default model can be swapped, but not unloaded."}
}

router = APIRouter(prefix="/v1/models", tags=["native"], route_class=JsonRoute)
_logger = structlog.get_logger("app")


@dataclass(frozen=True)
class _Loading:
    """A model on its way; it goes on if nobody waits any more, since others may want it."""

    future: Future[tuple[ModelEntry, bool]]

    def cancel(self) -> None:
        """Drop it if it has not begun."""
        self.future.cancel()


@router.get("", responses={503: PROBLEMS[503]})
async def models(service: ServiceDependency) -> ModelsReply:
    """List the models, the default one first."""
    service.registry.require_ready()
    entries = service.registry.store.entries
    return ModelsReply(models=[_reply(entry, is_default=index == 0) for index, entry in enumerate(entries)])


@router.post(
    "",
    status_code=201,
    responses={
        200: {"model": ModelReply, "description": "It took the place of a model of the same name."},
        **{status: PROBLEMS[status] for status in (400, 401, 403, 413, 415, 422, 429, 503, 504)},
    },
)
async def load(body: LoadModelRequest, request: Request, response: Response, service: ServiceDependency) -> ModelReply:
    """Load a model, or swap one: the new one is warm before requests get it, and the old one finishes what it has.

    Needs an admin key. A model that takes longer than the deadline is loaded all the same; the list shows it then.
    """
    await service.access.admit_admin(request)
    service.registry.require_ready()
    deadline = Deadline.of(request.scope, service.settings)
    path = await anyio.to_thread.run_sync(_folder, body.path, service)
    if body.name is not None and not (body.name.strip() and body.name.isprintable()):
        raise InvalidOptionError("name", "must have printable characters only, and at least one", body.name)
    future = service.registry.store.add(path, body.name)
    try:
        async with Patience(request.receive, deadline) as patience:
            await patience.wait_for_all([_Loading(future)])
    except DeadlineExceededError:
        raise DeadlineExceededError("the model is still being loaded; /v1/models will list it") from None
    except NoRoomError as error:
        raise RequestError(MODEL_TOO_LARGE, str(error)) from None
    except (CheckpointError, ConfigurationError) as error:
        raise RequestError(UNUSABLE_MODEL, str(error)) from None
    entry, swapped = future.result()
    _logger.info("model loaded", model=entry.name, swapped=swapped)
    response.status_code = 200 if swapped else 201
    return _reply(entry, is_default=entry is service.registry.store.entries[0])


@router.delete(
    "/{name}",
    status_code=204,
    responses={**{status: PROBLEMS[status] for status in (401, 403, 404, 429, 503)}, **_CONFLICT},
)
async def unload(name: str, request: Request, service: ServiceDependency) -> None:
    """Take a model out of service; it is closed when it has finished what it has. Needs an admin key."""
    await service.access.admit_admin(request)
    service.registry.require_ready()
    try:
        entry = service.registry.store.remove(name)
    except ConfigurationError as error:
        raise RequestError(DEFAULT_MODEL_STAYS, str(error)) from None
    if entry is None:
        raise RequestError(MODEL_NOT_FOUND, "there is no model of this name")
    _logger.info("model unloaded", model=entry.name)


def _folder(path: str, service: Service) -> Path:
    """Return a folder below the models' directory; no file in it may lead out of that directory.

    Raises:
        RequestError: of kind MODELS_DISABLED: there is no such directory.
        InvalidOptionError: the path is no folder below it.
    """
    if service.settings.models_directory is None:
        raise RequestError(MODELS_DISABLED, "the setting models_directory names no folder to load models from")
    refusal = InvalidOptionError("path", "must be a folder below the models' directory", path)
    try:
        base = service.settings.models_directory.resolve(strict=True)
        folder = (base / path).resolve(strict=True)
        if folder == base or not folder.is_relative_to(base) or not folder.is_dir():
            raise refusal
        files = list(islice(folder.rglob("*"), _MAX_FILES + 1))
        if len(files) > _MAX_FILES or not all(each.resolve().is_relative_to(base) for each in files):
            raise refusal
    except (OSError, ValueError, RuntimeError):  # missing, no access; a null character; a circle of links
        raise refusal from None
    return folder


def _reply(entry: ModelEntry, is_default: bool) -> ModelReply:
    used = entry.last_used
    return ModelReply(
        name=entry.name,
        languages=list(entry.languages),
        source_languages=list(entry.source_languages),
        target_languages=list(entry.target_languages),
        default=is_default,
        state=entry.state,
        memory_bytes=entry.memory_bytes,
        last_used_at=None if used is None else datetime.fromtimestamp(used, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        info=dict(entry.info),
    )
