"""LibreTranslate's protocol at the root, for its clients as they are: its parameters, order of checks and messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.dependencies import FinishedText, ServiceDependency, read_parameters, translate_texts
from app.limits import REQUEST_ID, Deadline, off_loop
from app.routes.libretranslate_parameters import (
    bad_request,
    num_alternatives,
    required,
    resolve_languages,
    select_translator,
    shown,
    texts_within_limits,
)
from app.schemas import LibreTranslateDetectRequest, LibreTranslateRequest, LibreTranslateSuggestRequest
from app.suggestions import Suggestion
from app.translators import RequestedTexts
from model import GenerationConfig, TextOptions, language

if TYPE_CHECKING:
    from pydantic import BaseModel

    from model import Detection

_FORMATS: Mapping[Any, Literal["text", "html"]] = {"text": "text", "html": "html"}
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
    q, source, target = (required(parameters, name) for name in ("q", "source", "target"))
    wanted = num_alternatives(parameters, service.settings.max_alternatives)
    texts = texts_within_limits(q, service)
    source, target = resolve_languages(service, source, target)
    text_format = parameters.get("format") or "text"
    if not isinstance(text_format, str) or text_format not in _FORMATS:
        raise bad_request(f"{shown(text_format)} format is not supported")
    choice, source, target = select_translator(service, source, target)
    await service.access.admit(request, sum(map(len, texts)), parameters)
    config = GenerationConfig(num_hypotheses=wanted + 1, beam_size=max(GenerationConfig().beam_size, wanted + 1))
    requested = RequestedTexts(
        texts,
        source,
        target,
        config,
        options=TextOptions(format=_FORMATS[text_format]),
        deadline_seconds=deadline.remaining_seconds(),
        caller=request.scope[REQUEST_ID],
    )
    finished = await translate_texts(service, choice, requested, request, deadline)
    return _reply(finished, as_list=isinstance(q, list), detected=source is None, alternatives=wanted > 0)


@router.post("/detect", openapi_extra=_documented(LibreTranslateDetectRequest))
async def detect(request: Request, service: ServiceDependency) -> list[dict[str, Any]]:
    """Tell the language of `q`, best guess first."""
    parameters = await read_parameters(request)
    service.registry.require_ready()
    texts = texts_within_limits(required(parameters, "q"), service)
    await service.access.admit(request, 0, parameters)
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
        "apiKeys": service.access.keys is not None,
        "keyRequired": service.settings.require_key,
        "suggestions": service.settings.suggestions,
        "filesTranslation": service.settings.files,
        "supportedFilesFormat": list(service.documents.formats) if service.settings.files else [],
        "language": {
            "source": {"code": "auto", "name": "Auto Detect"},
            "target": {"code": target.code, "name": target.name},
        },
    }


@router.post("/suggest", openapi_extra=_documented(LibreTranslateSuggestRequest))
async def suggest(request: Request, service: ServiceDependency) -> dict[str, bool]:
    """Keep a better translation `s` of `q` for the operator, if that is wanted here."""
    parameters = await read_parameters(request)
    if service.suggestions is None:
        raise HTTPException(403, "Suggestions are disabled on this server.")
    q, suggestion, source, target = (required(parameters, name) for name in ("q", "s", "source", "target"))
    texts_within_limits([q, suggestion], service)
    source, target = resolve_languages(service, source, target)
    caller = await service.access.admit(request, 0, parameters)
    new = Suggestion(q, suggestion, source or "auto", target, caller.id)
    await anyio.to_thread.run_sync(service.suggestions.add, new)
    return {"success": True}


@router.get("/spec")
async def spec(request: Request) -> dict[str, Any]:
    """Return the description of the whole service, as `/openapi.json` does."""
    application: FastAPI = request.app
    return application.openapi()


def _reply(finished: Sequence[FinishedText], as_list: bool, detected: bool, alternatives: bool) -> dict[str, Any]:
    """Put the results into LibreTranslate's shape: lists for a list, bare values for one text."""
    columns: dict[str, list[Any]] = {"translatedText": [item.text for item in finished]}
    if detected:
        columns["detectedLanguage"] = [_detected(item.detected) for item in finished]
    if alternatives:
        columns["alternatives"] = [item.alternatives for item in finished]
    return {name: values if as_list else values[0] for name, values in columns.items()}


def _detected(guess: Detection | None) -> dict[str, Any]:
    """Put one guess into LibreTranslate's shape, whose confidence is a percentage."""
    if guess is None:
        return {"confidence": 0.0, "language": _FALLBACK_LANGUAGE}
    return {"confidence": round(100 * guess.confidence, 1), "language": guess.language}
