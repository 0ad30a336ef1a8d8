"""LibreTranslate's protocol at the root, for its clients as they are: its parameters, order of checks and messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.dependencies import FinishedText, Service, ServiceDependency, read_parameters, translate_job
from app.limits import REQUEST_ID, Deadline, off_loop
from app.schemas import LibreTranslateDetectRequest, LibreTranslateRequest
from app.translators import Job
from model import GenerationConfig, UnsupportedLanguageError, language

if TYPE_CHECKING:
    from pydantic import BaseModel

    from model import Detection

_FORMATS = ("text",)
_FALLBACK_LANGUAGE = "en"
"""What LibreTranslate calls the language of a text without words, at confidence 0."""
_FRONTEND_TIMEOUT_MS = 500
_MEDIA_TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")

router = APIRouter(tags=["LibreTranslate"])


def _documented(parameters: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that we read ourselves, in each of its encodings."""
    schema = parameters.model_json_schema()
    content = {media_type: {"schema": schema} for media_type in _MEDIA_TYPES}
    error = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
    return {
        "requestBody": {"required": True, "content": content},
        "responses": {"400": {"description": "The request breaks a rule.", "content": error}},
    }


@router.post("/translate", openapi_extra=_documented(LibreTranslateRequest))
async def translate(request: Request, service: ServiceDependency) -> dict[str, Any]:
    """Translate `q`, a text or (in JSON) a list of texts."""
    deadline = Deadline.of(request.scope, service.settings)
    parameters = await read_parameters(request)
    q, source, target = (_required(parameters, name) for name in ("q", "source", "target"))
    num_alternatives = _alternatives(parameters, service.settings.max_alternatives)
    texts = _texts(q, service)
    source, target = _languages(service, source, target)
    text_format = parameters.get("format") or "text"
    if text_format not in _FORMATS:
        raise _bad_request(f"{_shown(text_format)} format is not supported")
    translator, source, target = _select(service, source, target)
    config = GenerationConfig(
        num_hypotheses=num_alternatives + 1, beam_size=max(GenerationConfig().beam_size, num_alternatives + 1)
    )
    job = Job(
        texts,
        source,
        target,
        config,
        deadline_seconds=deadline.remaining_seconds(),
        caller=request.scope[REQUEST_ID],
    )
    finished = await translate_job(service, translator, job, request, deadline)
    return _reply(finished, as_list=isinstance(q, list), detected=source is None, alternatives=num_alternatives > 0)


@router.post("/detect", openapi_extra=_documented(LibreTranslateDetectRequest))
async def detect(request: Request, service: ServiceDependency) -> list[dict[str, Any]]:
    """Tell the language of `q`, best guess first."""
    parameters = await read_parameters(request)
    service.registry.require_ready()
    texts = _texts(_required(parameters, "q"), service)
    whole = "\n".join(texts)
    guesses = await off_loop(len(whole), lambda: service.registry.detect(whole))
    return [_detected(guess) for guess in guesses] or [_detected(None)]


@router.get("/languages")
async def languages(service: ServiceDependency) -> list[dict[str, Any]]:
    """List the languages; each is among its own targets, since such a text is returned as it is."""
    registry = service.registry
    registry.require_ready()
    return [
        {"code": entry.code, "name": entry.name, "targets": registry.targets(entry.code)}
        for entry in registry.languages()
    ]


@router.get("/health")
async def health(service: ServiceDependency) -> dict[str, str]:
    """Tell that requests are taken."""
    service.registry.require_ready()
    return {"status": "ok"}


@router.get("/frontend/settings")
async def frontend_settings(service: ServiceDependency) -> dict[str, Any]:
    """Tell a page what it may offer."""
    registry = service.registry
    registry.require_ready()
    codes = [entry.code for entry in registry.languages()]
    target = language(_FALLBACK_LANGUAGE if _FALLBACK_LANGUAGE in codes else codes[0])
    return {
        "charLimit": service.settings.max_characters,
        "frontendTimeout": _FRONTEND_TIMEOUT_MS,
        "apiKeys": False,
        "keyRequired": False,
        "suggestions": False,
        "filesTranslation": False,
        "supportedFilesFormat": [],
        "language": {
            "source": {"code": "auto", "name": "Auto Detect"},
            "target": {"code": target.code, "name": target.name},
        },
    }


def _bad_request(message: str) -> HTTPException:
    return HTTPException(400, message)


def _shown(value: Any, limit: int = 100) -> str:
    """Return what a message quotes of a value that the caller sent."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _required(parameters: Mapping[str, Any], name: str) -> Any:
    """Return a parameter that must be there and not be empty."""
    value = parameters.get(name)
    if not value:
        raise _bad_request(f"Invalid request: missing {name} parameter")
    return value


def _alternatives(parameters: Mapping[str, Any], limit: int) -> int:
    """Return how many alternatives are wanted; negative numbers mean none."""
    value = parameters.get("alternatives", 0)
    try:
        number = int(value) if isinstance(value, str) or type(value) is int else None
    except ValueError:
        number = None
    if number is None:
        raise _bad_request("Invalid request: alternatives parameter is not a number")
    if number > limit:
        raise _bad_request(f"Invalid request: alternatives parameter must be <= {limit}")
    return max(0, number)


def _texts(q: Any, service: Service) -> list[str]:
    """Return ``q`` as a list of texts within the limits."""
    texts = q if isinstance(q, list) else [q]
    if not all(isinstance(text, str) for text in texts):
        raise _bad_request("Invalid request: q parameter must be a string or a list of strings")
    limits = service.settings
    sizes = [(len(texts), limits.max_texts), *((len(text), limits.max_characters) for text in texts)]
    for size, limit in sizes:
        if size > limit:
            raise _bad_request(f"Invalid request: request ({size}) exceeds text limit ({limit})")
    return texts


def _languages(service: Service, source: Any, target: Any) -> tuple[str | None, str]:
    """Return the codes of both languages, None for a source that is to be detected."""
    service.registry.require_ready()
    codes: list[str | None] = []
    for name, code in (("source", source), ("target", target)):
        if name == "source" and code == "auto":
            codes.append(None)
            continue
        try:
            codes.append(service.registry.resolve(name, str(code)))
        except UnsupportedLanguageError:
            raise _bad_request(f"{_shown(code)} is not supported") from None
    return codes[0], str(codes[1])


def _select(service: Service, source: str | None, target: str) -> Any:
    """Return the registry's choice, or LibreTranslate's words for a pair that no model has."""
    try:
        return service.registry.select(source, target)
    except UnsupportedLanguageError:
        wanted, given = language(target), language(source or target)
        raise _bad_request(
            f"{wanted.name} ({wanted.code}) is not available as a target language from {given.name} ({given.code})"
        ) from None


def _reply(finished: Sequence[FinishedText], as_list: bool, detected: bool, alternatives: bool) -> dict[str, Any]:
    """Put the results into LibreTranslate's shape: lists for a list, bare values for one text."""
    columns: dict[str, list[Any]] = {"translatedText": [item.text for item in finished]}
    if detected:
        columns["detectedLanguage"] = [_detected(item.plan.detected) for item in finished]
    if alternatives:
        columns["alternatives"] = [item.alternatives for item in finished]
    return {name: values if as_list else values[0] for name, values in columns.items()}


def _detected(guess: Detection | None) -> dict[str, Any]:
    """Put one guess into LibreTranslate's shape, whose confidence is a percentage."""
    if guess is None:
        return {"confidence": 0.0, "language": _FALLBACK_LANGUAGE}
    return {"confidence": round(100 * guess.confidence, 1), "language": guess.language}
