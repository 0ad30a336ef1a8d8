"""Turns exceptions into replies: which status, and in the words of which protocol. It raises and logs nothing.

Every exception becomes a :class:`Problem`; the path decides which face writes it down: RFC 9457 problem details on the
native face, ``{"error": text}`` on the LibreTranslate face, ``{"message": text}`` on the DeepL face.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from model import (
    CheckpointError,
    ConfigurationError,
    CorpusError,
    DeadlineExceededError,
    DecodingError,
    DragomanError,
    EngineClosedError,
    InvalidDocumentError,
    InvalidOptionError,
    InvalidRequestError,
    InvalidTextError,
    OverloadedError,
    RequestCancelledError,
    TrainingDivergedError,
    UnsupportedLanguageError,
)

_LIBRETRANSLATE_PATHS = frozenset(
    {"/translate", "/detect", "/languages", "/health", "/frontend/settings", "/translate_file", "/suggest", "/spec"}
)
_LIBRETRANSLATE_PREFIX = "/download_file/"

DEEPL_PREFIXES = ("/v2/", "/v3/")
"""Beginnings of paths whose errors are written the way DeepL's clients expect."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: its status code, the last part of its type URI, and its title."""

    status: int
    slug: str
    title: str

    @property
    def uri(self) -> str:
        """RFC 9457's ``type``: an identifier, not an address."""
        return f"urn:dragoman:problem:{self.slug}"


MALFORMED_BODY = Kind(400, "malformed-body", "The body cannot be read")
NOT_ADMIN = Kind(403, "not-admin", "An admin key is needed")
MODELS_DISABLED = Kind(403, "models-disabled", "Models are not loaded here while the service runs")
MODEL_NOT_FOUND = Kind(404, "model-not-found", "There is no such model")
DEFAULT_MODEL_STAYS = Kind(409, "default-model", "The default model cannot be unloaded")
MODEL_TOO_LARGE = Kind(422, "model-too-large", "The model does not fit into the memory that is allowed")
UNUSABLE_MODEL = Kind(422, "unusable-model", "The folder has no usable model")
MISSING_KEY = Kind(401, "missing-key", "An API key is needed")
INVALID_KEY = Kind(403, "invalid-key", "The API key is not valid")
BODY_TIMEOUT = Kind(408, "body-timeout", "The body did not arrive in time")
BODY_TOO_LARGE = Kind(413, "body-too-large", "The body is too large")
OVER_LIMIT = Kind(413, "over-limit", "The request is larger than the caller's limit")
GLOSSARY_NOT_FOUND = Kind(404, "glossary-not-found", "There is no such glossary")
DICTIONARY_NOT_FOUND = Kind(404, "dictionary-not-found", "The glossary has no dictionary for these languages")
FILES_DISABLED = Kind(403, "files-disabled", "Files are not translated here")
DOCUMENT_NOT_FOUND = Kind(404, "document-not-found", "There is no such document")
NO_RESULT = Kind(409, "no-result", "The document has no result")
UNSUPPORTED_MEDIA_TYPE = Kind(415, "unsupported-media-type", "The content type is not supported")
INVALID_REQUEST = Kind(422, "invalid-request", "The request breaks a rule")
TOO_MANY_REQUESTS = Kind(429, "too-many-requests", "The caller's rate limit is reached")
QUOTA_EXCEEDED = Kind(429, "quota-exceeded", "The caller's quota is used up")
INTERNAL = Kind(500, "internal-error", "The service failed")

LIBRETRANSLATE_STATUS: Mapping[Kind, int] = {MISSING_KEY: 400, OVER_LIMIT: 400, QUOTA_EXCEEDED: 403}
"""Where LibreTranslate's clients know another status than ours."""
DEEPL_STATUS: Mapping[Kind, int] = {MISSING_KEY: 403, QUOTA_EXCEEDED: 456}
"""Where DeepL's clients know another status than ours."""

KINDS: Mapping[type[DragomanError], Kind] = {
    InvalidTextError: Kind(422, "invalid-text", "A text cannot be translated as it is"),
    InvalidDocumentError: Kind(422, "invalid-document", "A document cannot be translated as it is"),
    InvalidOptionError: Kind(422, "invalid-option", "An option is out of its range"),
    UnsupportedLanguageError: Kind(422, "unsupported-language", "No loaded model has this language"),
    ConfigurationError: INTERNAL,
    CheckpointError: INTERNAL,
    CorpusError: INTERNAL,
    TrainingDivergedError: INTERNAL,
    OverloadedError: Kind(503, "overloaded", "The queue is full"),
    DeadlineExceededError: Kind(504, "deadline-exceeded", "The request's time ran out"),
    RequestCancelledError: Kind(499, "request-cancelled", "The client went away"),
    DecodingError: INTERNAL,
    EngineClosedError: Kind(503, "unavailable", "The service does not take requests now"),
}
"""The answer to every leaf of the tree in model.errors; a test checks that none is missing."""

_TOO_MUCH_LOAD = 529
"""DeepL's own status for a service that has too much to do."""
_RETRY_AFTER_SECONDS = 5
"""Sent when the service is starting or stopping; an overloaded engine gives its own estimate."""


class RequestError(HTTPException):
    """A request that HTTP alone shows to be wrong, before any translator sees it."""

    def __init__(self, kind: Kind, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        super().__init__(kind.status, detail, headers)


@dataclass(frozen=True)
class Problem:
    """What went wrong, before a face puts it into its words."""

    kind: Kind
    detail: str
    errors: tuple[dict[str, str], ...] = ()
    """One entry for each broken rule: ``detail`` and, where known, ``pointer`` (a JSON pointer into the body)."""
    headers: Mapping[str, str] = field(default_factory=dict)


def describe(exception: Exception) -> Problem:
    """Return the problem that a caller may read; details of our own failures stay inside."""
    if isinstance(exception, RequestValidationError):
        errors = tuple(_broken_rule(error) for error in exception.errors())
        return Problem(INVALID_REQUEST, "; ".join(_sentence(error) for error in errors[:3]), errors)
    if isinstance(exception, RequestError):
        return Problem(exception.kind, exception.detail, headers=exception.headers or {})
    if isinstance(exception, HTTPException):
        return Problem(_plain_kind(exception.status_code), exception.detail, headers=exception.headers or {})
    if isinstance(exception, DragomanError):
        return _describe_own(exception)
    return Problem(INTERNAL, "The service failed to answer this request.")


def renamed(error: InvalidRequestError, name: str) -> InvalidRequestError:
    """Return the same error about a field that the caller knows as ``name``."""
    copy = type(error)(name, error.rule, None)
    copy.value = error.value  # which is a representation already
    copy.args = (f"{name} {error.rule}, got {error.value}",)
    return copy


def error_response(exception: Exception, scope: Scope) -> Response:
    """Return the reply to ``exception`` in the words of the face that ``scope`` belongs to."""
    problem = describe(exception)
    write: Callable[[Problem, Scope], Response] = _problem_details
    path: str = scope.get("path", "")
    if is_libretranslate(path):
        write = _libretranslate_error
    elif path.startswith(DEEPL_PREFIXES):
        write = _deepl_error
    return write(problem, scope)


def is_libretranslate(path: str) -> bool:
    """Whether the errors of a path are written the way LibreTranslate's clients expect."""
    return path in _LIBRETRANSLATE_PATHS or path.startswith(_LIBRETRANSLATE_PREFIX)


def install_error_handlers(app: FastAPI) -> None:
    """Let ``app`` answer the exceptions that are part of normal operation; others reach the outermost middleware."""

    async def answer(request: Request, exception: Exception) -> Response:
        if not isinstance(exception, HTTPException) and describe(exception).kind is INTERNAL:
            raise exception  # our own failure: logged, then answered, by the outermost middleware
        return error_response(exception, request.scope)

    for kind in (DragomanError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def _describe_own(exception: DragomanError) -> Problem:
    """Describe an exception of model.errors."""
    kind = next((KINDS[base] for base in type(exception).__mro__ if base in KINDS), INTERNAL)
    if isinstance(exception, InvalidRequestError):
        if kind is INTERNAL:  # a leaf that is not in the table yet is still the caller's mistake
            kind = INVALID_REQUEST
        pointer = "#/" + exception.name.replace("[", "/").replace("]", "").replace(".", "/")
        error = {"detail": f"{exception.rule}, got {exception.value}", "pointer": pointer}
        return Problem(kind, str(exception), (error,))
    if isinstance(exception, OverloadedError):
        seconds = max(1, math.ceil(exception.retry_after_seconds))
        return Problem(kind, str(exception), headers={"Retry-After": str(seconds)})
    if isinstance(exception, EngineClosedError):
        return Problem(kind, str(exception), headers={"Retry-After": str(_RETRY_AFTER_SECONDS)})
    if kind is INTERNAL:
        return Problem(kind, "The service failed to answer this request.")
    return Problem(kind, str(exception))


def _plain_kind(status: int) -> Kind:
    """Return the kind of a problem that its status code says all about, such as 404 and 405."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"
    return Kind(status, phrase.lower().replace(" ", "-"), phrase)


def _broken_rule(error: Mapping[str, Any]) -> dict[str, str]:
    """Shorten one of pydantic's errors; what was received stays out, since it may be a whole document."""
    place = [str(part).replace("~", "~0").replace("/", "~1") for part in error["loc"]]
    if place[:1] != ["body"]:
        return {"detail": error["msg"], "parameter": "/".join(place[1:])}
    return {"detail": error["msg"], "pointer": "#" + "".join(f"/{part}" for part in place[1:])}


def _sentence(error: Mapping[str, str]) -> str:
    """Join place and rule of one broken rule."""
    place = error.get("pointer", error.get("parameter", "")).removeprefix("#/").replace("/", ".")
    return f"{place}: {error['detail']}" if place and place != "#" else error["detail"]


def problem_content(problem: Problem, scope: Scope) -> dict[str, Any]:
    """Return RFC 9457 problem details."""
    return {
        "type": problem.kind.uri,
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
        "instance": scope.get("path", ""),
        "errors": list(problem.errors),
    }


def _problem_details(problem: Problem, scope: Scope) -> Response:
    """Write RFC 9457 problem details."""
    return _json(problem_content(problem, scope), problem, "application/problem+json")


def _libretranslate_error(problem: Problem, scope: Scope) -> Response:  # noqa: ARG001 - one signature for all faces
    """Write LibreTranslate's error object; its clients know 400 where the native face is more exact."""
    status = 400 if problem.kind.status in (415, 422) else problem.kind.status
    status = LIBRETRANSLATE_STATUS.get(problem.kind, status)
    detail = f"Slowdown: {problem.detail}" if problem.kind is TOO_MANY_REQUESTS else problem.detail
    return _json({"error": detail}, problem, "application/json", status)


def _deepl_error(problem: Problem, scope: Scope) -> Response:
    """Write DeepL's error object, in two parts where it is about glossaries; 529 tells a full queue from a stop."""
    kind, detail = problem.kind, problem.detail
    status = DEEPL_STATUS.get(kind, 400 if kind.status == 422 else kind.status)
    if kind is KINDS[OverloadedError]:
        status = _TOO_MUCH_LOAD
    content = {"message": detail}
    if "/glossaries" in scope.get("path", ""):
        content = {"message": kind.title, "detail": detail}
    return _json(content, problem, "application/json", status)


def _json(content: Mapping[str, Any], problem: Problem, media_type: str, status: int | None = None) -> Response:
    """Write JSON with escapes only, so that any string that a caller sent can be echoed."""
    body = json.dumps(content).encode("ascii")
    return Response(body, status or problem.kind.status, dict(problem.headers), media_type)
