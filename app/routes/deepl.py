"""DeepL's protocol for its clients as they are: translation and usage; languages and glossaries are beside it.

Accepted and of no effect: ``context``, ``preserve_formatting``, ``outline_detection``, ``tag_handling_version``,
``model_type``, and a formality that is only preferred. ``split_sentences=nonewlines`` is the same as ``1``, since a
line break always separates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter
from starlette.requests import Request

from app.access import Caller
from app.deepl_schemas import DeepLError, DeepLTranslateReply, DeepLTranslateRequest, DeepLTranslation, DeepLUsage
from app.dependencies import FinishedText, Service, ServiceDependency, translate_texts
from app.errors import DICTIONARY_NOT_FOUND, RequestError
from app.limits import REQUEST_ID, Deadline, check_texts
from app.routes import deepl_parameters as parameters
from app.routes.deepl_parameters import bad_request, unsupported
from app.translators import RequestedTexts
from model import GenerationConfig, Glossary, MarkupOptions, TextOptions, UnsupportedLanguageError

MAX_GLOSSARIES = 5
"""Most glossaries of one request."""
_FORMATS: Mapping[str | None, Literal["text", "html", "xml"]] = {None: "text", "html": "html", "xml": "xml"}
_SPLITTING: Mapping[str, Literal["sentences", "none"]] = {"0": "none", "1": "sentences", "nonewlines": "sentences"}
_FORMALITIES = ("default", "more", "less", "prefer_more", "prefer_less")
_MODEL_TYPES = ("quality_optimized", "prefer_quality_optimized", "latency_optimized")
_NOT_HERE = ("style_id", "translation_memory_id", "custom_instructions")
"""What would change the translation at DeepL's, and what this service does not have."""

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": DeepLError, "description": "The request breaks a rule."},
    403: {"model": DeepLError, "description": "The key is missing or not valid."},
    404: {"model": DeepLError, "description": "There is no such glossary."},
    413: {"model": DeepLError, "description": "The body, or the request, is too large."},
    415: {"model": DeepLError, "description": "The content type is not supported."},
    429: {"model": DeepLError, "description": "The caller's rate limit is reached."},
    456: {"model": DeepLError, "description": "The caller's quota is used up."},
    503: {"model": DeepLError, "description": "The service is starting or stopping."},
    504: {"model": DeepLError, "description": "The deadline passed."},
    529: {"model": DeepLError, "description": "The queue is full."},
}
"""Replies that OpenAPI should know."""

router = APIRouter(prefix="/v2", tags=["DeepL"])


def _documented(schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a body that we read ourselves, in each of its encodings."""
    encodings = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    return {"requestBody": {"required": True, "content": {encoding: {"schema": schema} for encoding in encodings}}}


@router.get("/translate", include_in_schema=False, response_model_exclude_none=True)
@router.post(
    "/translate",
    responses=ERRORS,
    openapi_extra=_documented(DeepLTranslateRequest.model_json_schema()),
    response_model_exclude_none=True,
)
async def translate(request: Request, service: ServiceDependency) -> DeepLTranslateReply:
    """Translate each text of `text`."""
    deadline = Deadline.of(request.scope, service.settings)
    values = await parameters.read_values(request, service.settings)
    caller = await service.access.admit(request, 0, values)
    texts = parameters.texts(values)
    check_texts(texts, service.settings, "text")
    choice, source, target = select_languages(values, service)
    options = await _options(values, service, caller, source, target)
    model_type = parameters.choice(values, "model_type", _MODEL_TYPES)
    await service.access.admit(request, sum(map(len, texts)), values)
    requested = RequestedTexts(
        texts=texts,
        source=source,
        target=target,
        config=GenerationConfig(),
        options=options,
        deadline_seconds=deadline.remaining_seconds(),
        caller=request.scope[REQUEST_ID],
    )
    finished = await translate_texts(service, choice, requested, request, deadline)
    return DeepLTranslateReply(translations=[_translation(item, model_type) for item in finished])


@router.get("/usage", responses={403: ERRORS[403], 429: ERRORS[429]})
@router.post("/usage", include_in_schema=False)
async def usage(request: Request, service: ServiceDependency) -> DeepLUsage:
    """Tell how many characters were translated this month, and how many may be."""
    values = await parameters.read_values(request, service.settings)
    caller = await service.access.admit(request, 0, values)
    used = await service.access.usage(caller)
    return DeepLUsage(
        character_count=used.character_count,
        character_limit=used.character_limit,
        start_time=used.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        end_time=used.end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def select_languages(values: Mapping[str, Any], service: Service) -> Any:
    """Return the registry's choice for the request's languages, or DeepL's words for those that no model has."""
    target, source = parameters.required(values, "target_lang"), parameters.optional(values, "source_lang")
    service.registry.require_ready()
    codes: list[str | None] = []
    for name, code in (("target_lang", target), ("source_lang", source)):
        try:
            codes.append(None if code is None else service.registry.resolve(name, code))
        except UnsupportedLanguageError:
            raise unsupported(name) from None
    formality = parameters.choice(values, "formality", _FORMALITIES)
    if formality in ("more", "less"):
        raise bad_request(f"Target language '{str(codes[0]).upper()}' doesn't support formality.")
    try:
        return service.registry.select(codes[1], str(codes[0]))
    except UnsupportedLanguageError:  # no model has both
        raise unsupported("target_lang") from None


async def _options(
    values: Mapping[str, Any], service: Service, caller: Caller, source: str | None, target: str
) -> TextOptions:
    """Return how the texts are to be read, after checks of everything that says so."""
    for name in _NOT_HERE:
        if values.get(name):
            raise unsupported(name)
    for name in ("preserve_formatting", "outline_detection", "show_billed_characters"):
        parameters.flag(values, name)
    parameters.choice(values, "tag_handling_version", ("v1", "v2"))
    return TextOptions(
        format=_FORMATS[parameters.choice(values, "tag_handling", ("xml", "html"))],
        markup=MarkupOptions(
            ignore_tags=parameters.words(values, "ignore_tags"),
            splitting_tags=parameters.words(values, "splitting_tags"),
            non_splitting_tags=parameters.words(values, "non_splitting_tags"),
        ),
        splitting=_SPLITTING[parameters.choice(values, "split_sentences", tuple(_SPLITTING)) or "1"],
        glossaries=await read_glossaries(values, service, caller, source, target),
    )


async def read_glossaries(
    values: Mapping[str, Any], service: Service, caller: Caller, source: str | None, target: str
) -> tuple[Glossary, ...]:
    """Return the dictionaries that ``glossary_id`` or ``glossary_ids`` ask for, in order.

    Raises:
        HTTPException: an id is malformed, the source language is missing, or a glossary does not have the languages.
        RequestError: the caller has no such glossary.
    """
    single, several = parameters.optional(values, "glossary_id"), parameters.words(values, "glossary_ids")
    if single is not None and several:
        raise bad_request("Use either glossary_id or glossary_ids, not both.")
    ids = [parameters.uuid_of(each, "glossary_id") for each in (several or filter(None, [single]))]
    if not ids:
        return ()
    if len(ids) > MAX_GLOSSARIES:
        raise bad_request(f"At most {MAX_GLOSSARIES} glossary_ids can be used.")
    if source is None:
        raise bad_request("Use of a glossary requires the source_lang parameter to be specified")
    if service.registry.select(source, target)[0].via is not None:  # no reply here could say that a term was skipped
        raise bad_request("A glossary cannot be used for languages that are translated by way of another language.")
    read = service.glossaries.read
    try:
        return tuple([await anyio.to_thread.run_sync(read, caller.id, each, source, target) for each in ids])
    except RequestError as error:
        if error.kind is DICTIONARY_NOT_FOUND:
            raise bad_request(f"{error.detail}.".capitalize()) from None
        raise


def _translation(item: FinishedText, model_type: str | None) -> DeepLTranslation:
    """Put one result into DeepL's shape. Characters are code points, as DeepL counts them."""
    return DeepLTranslation(
        detected_source_language=item.source.upper(),
        text=item.text,
        billed_characters=len(item.plan.text),
        model_type_used=model_type and model_type.removeprefix("prefer_"),
    )
