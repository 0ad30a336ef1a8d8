"""DeepL's glossaries: of one dictionary under /v2, of several under /v3; the same ones, kept in app.glossaries.

/v2 knows only glossaries of exactly one dictionary. Languages are written in small letters and without a region.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.access import Caller
from app.deepl_schemas import (
    DeepLDictionary,
    DeepLDictionaryEntries,
    DeepLDictionaryRequest,
    DeepLEntriesReply,
    DeepLGlossaries,
    DeepLGlossary,
    DeepLGlossaryRequest,
    DeepLMultilingualGlossaries,
    DeepLMultilingualGlossary,
    DeepLMultilingualRequest,
    DeepLMultilingualUpdate,
)
from app.dependencies import Service, ServiceDependency
from app.errors import GLOSSARY_NOT_FOUND, UNSUPPORTED_MEDIA_TYPE, RequestError
from app.glossaries import Dictionary, GlossaryInfo, parse_dictionary
from app.limits import off_loop
from app.routes import deepl_parameters as parameters
from app.routes.deepl import ERRORS
from app.routes.deepl_parameters import bad_request
from model import UnsupportedLanguageError

TSV = "text/tab-separated-values"
_LIST_ERRORS: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (403, 429)}
_ID_ERRORS: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (400, 403, 404, 429)}
_ALL_ERRORS: dict[int | str, dict[str, Any]] = {
    status: ERRORS[status] for status in (400, 403, 404, 413, 415, 429, 503)
}
_JSON_AND_FORM = ("application/json", "application/x-www-form-urlencoded")

router = APIRouter(tags=["DeepL"])


def _documented(model: type[BaseModel], encodings: tuple[str, ...] = ("application/json",)) -> dict[str, Any]:
    """Describe a body that we read ourselves. Definitions stand where they are used, since ours is no root."""
    schema = _inlined(model.model_json_schema())
    return {"requestBody": {"required": True, "content": {encoding: {"schema": schema} for encoding in encodings}}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put the definitions of a schema, which do not refer to one another, in the place of their references."""
    definitions: Mapping[str, Any] = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return definitions[value["$ref"].rpartition("/")[2]]
            return {name: resolved(each) for name, each in value.items()}
        return [resolved(each) for each in value] if isinstance(value, list) else value

    resolved_schema: dict[str, Any] = resolved(schema)
    return resolved_schema


_PAIR: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": True, "schema": {"type": "string"}}
        for name in ("source_lang", "target_lang")
    ]
}


# Of one dictionary


@router.post(
    "/v2/glossaries",
    status_code=201,
    responses=_ALL_ERRORS,
    openapi_extra=_documented(DeepLGlossaryRequest, _JSON_AND_FORM),
)
async def create(request: Request, service: ServiceDependency) -> DeepLGlossary:
    """Create a glossary of one dictionary."""
    values, caller = await _admitted(request, service)
    name = parameters.required(values, "name")
    dictionary = await _dictionary(values, service)
    info = await anyio.to_thread.run_sync(service.glossaries.create, caller.id, name, [dictionary])
    return _glossary(info)


@router.get("/v2/glossaries", responses=_LIST_ERRORS)
async def all_glossaries(request: Request, service: ServiceDependency) -> DeepLGlossaries:
    """List the caller's glossaries of one dictionary."""
    caller = await service.access.admit(request)
    found = await anyio.to_thread.run_sync(service.glossaries.all_glossaries, caller.id)
    return DeepLGlossaries(glossaries=[_glossary(info) for info in found if len(info.dictionaries) == 1])


@router.get("/v2/glossaries/{glossary_id}", responses=_ID_ERRORS)
async def get(glossary_id: str, request: Request, service: ServiceDependency) -> DeepLGlossary:
    """Describe a glossary of one dictionary."""
    caller = await service.access.admit(request)
    return _glossary(await _single(glossary_id, service, caller))


@router.get(
    "/v2/glossaries/{glossary_id}/entries",
    response_class=Response,
    responses={**_ID_ERRORS, 200: {"content": {TSV: {"schema": {"type": "string"}}}}, 415: ERRORS[415]},
)
async def entries(glossary_id: str, request: Request, service: ServiceDependency) -> Response:
    """Return the entries of a glossary of one dictionary, as TSV."""
    caller = await service.access.admit(request)
    if not accepts(request.headers.get("accept"), TSV):
        raise RequestError(UNSUPPORTED_MEDIA_TYPE, f"the Accept header must have {TSV}")
    info = await _single(glossary_id, service, caller)
    [pair] = info.dictionaries
    found = await anyio.to_thread.run_sync(service.glossaries.read, caller.id, info.id, pair.source, pair.target)
    return Response(found.to_tsv(), headers={"Content-Type": f"{TSV}; charset=utf-8"})


@router.delete("/v2/glossaries/{glossary_id}", status_code=204, responses=_ID_ERRORS)
async def delete(glossary_id: str, request: Request, service: ServiceDependency) -> None:
    """Delete a glossary of one dictionary."""
    caller = await service.access.admit(request)
    info = await _single(glossary_id, service, caller)
    await anyio.to_thread.run_sync(service.glossaries.delete, caller.id, info.id)


# Of several dictionaries


@router.post(
    "/v3/glossaries", status_code=201, responses=_ALL_ERRORS, openapi_extra=_documented(DeepLMultilingualRequest)
)
async def create_multilingual(request: Request, service: ServiceDependency) -> DeepLMultilingualGlossary:
    """Create a glossary with its dictionaries."""
    values, caller = await _admitted(request, service)
    name = parameters.required(values, "name")
    dictionaries = await _dictionaries(values, service)
    if not dictionaries:
        raise parameters.missing("dictionaries")
    return _multilingual(await anyio.to_thread.run_sync(service.glossaries.create, caller.id, name, dictionaries))


@router.get("/v3/glossaries", responses=_LIST_ERRORS)
async def all_multilingual(request: Request, service: ServiceDependency) -> DeepLMultilingualGlossaries:
    """List the caller's glossaries."""
    caller = await service.access.admit(request)
    found = await anyio.to_thread.run_sync(service.glossaries.all_glossaries, caller.id)
    return DeepLMultilingualGlossaries(glossaries=[_multilingual(info) for info in found])


@router.get("/v3/glossaries/{glossary_id}", responses=_ID_ERRORS)
async def get_multilingual(glossary_id: str, request: Request, service: ServiceDependency) -> DeepLMultilingualGlossary:
    """Describe a glossary."""
    caller = await service.access.admit(request)
    return _multilingual(await anyio.to_thread.run_sync(service.glossaries.get, caller.id, _id(glossary_id)))


@router.patch("/v3/glossaries/{glossary_id}", responses=_ALL_ERRORS, openapi_extra=_documented(DeepLMultilingualUpdate))
async def update_multilingual(
    glossary_id: str, request: Request, service: ServiceDependency
) -> DeepLMultilingualGlossary:
    """Rename a glossary, or merge entries into its dictionaries, or both."""
    values, caller = await _admitted(request, service)
    name = parameters.optional(values, "name")
    dictionaries = await _dictionaries(values, service)
    update = partial(
        service.glossaries.update, caller.id, _id(glossary_id), name=name, dictionaries=dictionaries, merge=True
    )
    return _multilingual(await anyio.to_thread.run_sync(update))


@router.delete("/v3/glossaries/{glossary_id}", status_code=204, responses=_ID_ERRORS)
async def delete_multilingual(glossary_id: str, request: Request, service: ServiceDependency) -> None:
    """Delete a glossary."""
    caller = await service.access.admit(request)
    await anyio.to_thread.run_sync(service.glossaries.delete, caller.id, _id(glossary_id))


@router.get("/v3/glossaries/{glossary_id}/entries", responses={**_ID_ERRORS, 503: ERRORS[503]}, openapi_extra=_PAIR)
async def multilingual_entries(glossary_id: str, request: Request, service: ServiceDependency) -> DeepLEntriesReply:
    """Return the entries of one dictionary."""
    values, caller = await _admitted(request, service)
    source, target = _pair(values, service)
    found = await anyio.to_thread.run_sync(service.glossaries.read, caller.id, _id(glossary_id), source, target)
    entry = DeepLDictionaryEntries(source_lang=source.lower(), target_lang=target.lower(), entries=found.to_tsv())
    return DeepLEntriesReply(dictionaries=[entry])


@router.put(
    "/v3/glossaries/{glossary_id}/dictionaries",
    responses=_ALL_ERRORS,
    openapi_extra=_documented(DeepLDictionaryRequest),
)
async def replace_dictionary(glossary_id: str, request: Request, service: ServiceDependency) -> DeepLDictionary:
    """Replace a dictionary, or add one."""
    values, caller = await _admitted(request, service)
    dictionary = await _dictionary(values, service)
    update = partial(service.glossaries.update, caller.id, _id(glossary_id), dictionaries=[dictionary], merge=False)
    info = await anyio.to_thread.run_sync(update)
    pair = dictionary.source, dictionary.target
    [entry] = [each for each in info.dictionaries if (each.source, each.target) == pair]
    return DeepLDictionary(
        source_lang=entry.source.lower(), target_lang=entry.target.lower(), entry_count=entry.entry_count
    )


@router.delete(
    "/v3/glossaries/{glossary_id}/dictionaries",
    status_code=204,
    responses={**_ID_ERRORS, 503: ERRORS[503]},
    openapi_extra=_PAIR,
)
async def delete_dictionary(glossary_id: str, request: Request, service: ServiceDependency) -> None:
    """Delete one dictionary; the glossary stays."""
    values, caller = await _admitted(request, service)
    delete_one = service.glossaries.delete_dictionary
    await anyio.to_thread.run_sync(delete_one, caller.id, _id(glossary_id), *_pair(values, service))


async def _admitted(request: Request, service: Service) -> tuple[Mapping[str, Any], Caller]:
    """Return a request's parameters and who sent them."""
    values = await parameters.read_values(request, service.settings)
    return values, await service.access.admit(request, 0, values)


def _id(glossary_id: str) -> str:
    """Return an id as it is stored, or refuse what cannot be one."""
    return parameters.uuid_of(glossary_id, "glossary_id")


async def _single(glossary_id: str, service: Service, caller: Caller) -> GlossaryInfo:
    """Return a glossary of exactly one dictionary; /v2 knows no others."""
    info = await anyio.to_thread.run_sync(service.glossaries.get, caller.id, _id(glossary_id))
    if len(info.dictionaries) != 1:
        raise RequestError(GLOSSARY_NOT_FOUND, f"the glossary has {len(info.dictionaries)} dictionaries; use /v3")
    return info


def _pair(values: Mapping[str, Any], service: Service) -> tuple[str, str]:
    """Return the languages of a dictionary, as the models spell them."""
    names = [parameters.required(values, name) for name in ("source_lang", "target_lang")]
    service.registry.require_ready()
    try:
        source, target = (service.registry.resolve("language", name) for name in names)
    except UnsupportedLanguageError:
        source = target = ""
    if source == target or target not in service.registry.targets(source):
        raise bad_request("Unsupported glossary source and target language pair")
    return source, target


async def _dictionary(values: Mapping[str, Any], service: Service) -> Dictionary:
    """Return the dictionary that the parameters describe."""
    source, target = _pair(values, service)
    text = parameters.required(values, "entries")
    parameters.required(values, "entries_format")
    if parameters.choice(values, "entries_format", ("tsv", "csv")) == "csv":
        return await off_loop(len(text), partial(parse_dictionary, text, "csv", source, target))
    return await off_loop(len(text), partial(parse_dictionary, text, "tsv", source, target))


async def _dictionaries(values: Mapping[str, Any], service: Service) -> list[Dictionary]:
    """Return the dictionaries that the parameters list, none if there is no list."""
    listed = values.get("dictionaries") or []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise parameters.unsupported("dictionaries")
    return [await _dictionary(each, service) for each in listed]


def accepts(header: str | None, media_type: str) -> bool:
    """Whether an Accept header (RFC 9110, section 12.5.1) takes a media type; without a header all are welcome."""
    if header is None or not header.strip():
        return True
    wanted = {media_type, f"{media_type.partition('/')[0]}/*", "*/*"}
    for part in header.lower().split(","):
        name, *details = (piece.strip() for piece in part.split(";"))
        refused = any(detail.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for detail in details)
        if name in wanted and not refused:
            return True
    return False


def _glossary(info: GlossaryInfo) -> DeepLGlossary:
    """Put a glossary of one dictionary into DeepL's shape."""
    [dictionary] = info.dictionaries
    return DeepLGlossary(
        glossary_id=info.id,
        name=info.name,
        source_lang=dictionary.source.lower(),
        target_lang=dictionary.target.lower(),
        creation_time=_time(info),
        entry_count=dictionary.entry_count,
    )


def _multilingual(info: GlossaryInfo) -> DeepLMultilingualGlossary:
    """Put a glossary into DeepL's shape."""
    return DeepLMultilingualGlossary(
        glossary_id=info.id,
        name=info.name,
        creation_time=_time(info),
        dictionaries=[
            DeepLDictionary(
                source_lang=each.source.lower(), target_lang=each.target.lower(), entry_count=each.entry_count
            )
            for each in info.dictionaries
        ],
    )


def _time(info: GlossaryInfo) -> str:
    """Return when a glossary was created, with milliseconds, as DeepL's clients parse it."""
    return info.created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
