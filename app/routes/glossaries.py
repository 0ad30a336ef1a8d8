"""Glossaries in our own protocol, under /v1/glossaries: made, listed, read, changed, deleted, but not kept here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from app.dependencies import JsonRoute, Service, ServiceDependency
from app.errors import DICTIONARY_NOT_FOUND, UNSUPPORTED_MEDIA_TYPE, RequestError, renamed
from app.glossaries import Dictionary, DictionaryInfo, GlossaryInfo, parse_dictionary
from app.glossary_schemas import (
    DictionaryEntriesReply,
    DictionaryReply,
    DictionaryRequest,
    GlossariesReply,
    GlossaryEntriesReply,
    GlossaryReply,
    GlossaryRequest,
    GlossaryUpdate,
)
from app.limits import off_loop
from app.routes.deepl_glossaries import accepts
from app.schemas import ProblemReply
from model import Glossary, InvalidOptionError, InvalidRequestError, UnsupportedLanguageError

_MEDIA_TYPES = {"json": "application/json", "tsv": "text/tab-separated-values", "csv": "text/csv"}
"""Formats of entries; where the Accept header takes several, the first one."""
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemReply, "description": "The body is not JSON."},
    401: {"model": ProblemReply, "description": "A key is needed."},
    403: {"model": ProblemReply, "description": "The key is not valid."},
    404: {"model": ProblemReply, "description": "The caller has no such glossary, or it has no such dictionary."},
    413: {"model": ProblemReply, "description": "The body is too large."},
    415: {"model": ProblemReply, "description": "The body is of another type than JSON."},
    422: {"model": ProblemReply, "description": "The request breaks a rule; `errors` says which."},
    429: {"model": ProblemReply, "description": "The caller's rate limit is reached."},
    503: {"model": ProblemReply, "description": "The service is starting or stopping."},
}
_WITHOUT_BODY: dict[int | str, dict[str, Any]] = {status: _PROBLEMS[status] for status in (401, 403, 404, 429)}

router = APIRouter(prefix="/v1/glossaries", tags=["native"], route_class=JsonRoute)


@router.post("", status_code=201, responses=_PROBLEMS)
async def create(body: GlossaryRequest, request: Request, service: ServiceDependency) -> GlossaryReply:
    """Create a glossary with its dictionaries."""
    caller = await service.access.admit(request)
    dictionaries = await _dictionaries(body.dictionaries, service)
    return _reply(await anyio.to_thread.run_sync(service.glossaries.create, caller.id, body.name, dictionaries))


@router.get("", responses=_WITHOUT_BODY)
async def all_glossaries(request: Request, service: ServiceDependency) -> GlossariesReply:
    """List the caller's glossaries."""
    caller = await service.access.admit(request)
    found = await anyio.to_thread.run_sync(service.glossaries.all_glossaries, caller.id)
    return GlossariesReply(glossaries=[_reply(info) for info in found])


@router.get("/{glossary_id}", responses=_WITHOUT_BODY)
async def get(glossary_id: str, request: Request, service: ServiceDependency) -> GlossaryReply:
    """Describe a glossary."""
    caller = await service.access.admit(request)
    return _reply(await anyio.to_thread.run_sync(service.glossaries.get, caller.id, glossary_id.lower()))


@router.get(
    "/{glossary_id}/entries",
    response_model=GlossaryEntriesReply,
    responses={
        **_WITHOUT_BODY,
        200: {"content": {_MEDIA_TYPES[each]: {"schema": {"type": "string"}} for each in ("tsv", "csv")}},
        415: {"model": ProblemReply, "description": "The Accept header takes no format that there is."},
        422: _PROBLEMS[422],
    },
)
async def entries(
    glossary_id: str,
    request: Request,
    service: ServiceDependency,
    source: Annotated[str | None, Query(description="Only dictionaries from this language.")] = None,
    target: Annotated[str | None, Query(description="Only dictionaries to this language.")] = None,
    format: Annotated[
        Literal["json", "tsv", "csv"] | None, Query(description="Missing: what the Accept header takes, first JSON.")
    ] = None,
) -> Response:
    """Return the entries of a glossary: as JSON of all dictionaries, as TSV or CSV of one."""
    caller = await service.access.admit(request)
    chosen = format or _acceptable(request)
    info = await anyio.to_thread.run_sync(service.glossaries.get, caller.id, glossary_id.lower())
    pairs = _filtered(info, source, target, service)
    read = partial(service.glossaries.read, caller.id, info.id)
    found = [await anyio.to_thread.run_sync(read, pair.source, pair.target) for pair in pairs]
    if chosen != "json":
        if len(found) != 1:
            raise InvalidOptionError("source", f"and target must choose one dictionary for {chosen}", len(found))
        content = found[0].to_tsv() if chosen == "tsv" else found[0].to_csv()
        return Response(content, headers={"Content-Type": f"{_MEDIA_TYPES[chosen]}; charset=utf-8"})
    characters = sum(len(entry[0]) for glossary in found for entry in glossary.entries)
    return Response(await off_loop(characters, lambda: _as_json(found)), media_type=_MEDIA_TYPES["json"])


@router.patch("/{glossary_id}", responses=_PROBLEMS)
async def update(glossary_id: str, body: GlossaryUpdate, request: Request, service: ServiceDependency) -> GlossaryReply:
    """Rename a glossary, or change its dictionaries, or both."""
    caller = await service.access.admit(request)
    dictionaries = await _dictionaries(body.dictionaries, service)
    change = partial(
        service.glossaries.update,
        caller.id,
        glossary_id.lower(),
        name=body.name,
        dictionaries=dictionaries,
        merge=body.merge,
    )
    return _reply(await anyio.to_thread.run_sync(change))


@router.delete("/{glossary_id}", status_code=204, responses=_WITHOUT_BODY)
async def delete(glossary_id: str, request: Request, service: ServiceDependency) -> None:
    """Delete a glossary."""
    caller = await service.access.admit(request)
    await anyio.to_thread.run_sync(service.glossaries.delete, caller.id, glossary_id.lower())


def _acceptable(request: Request) -> str:
    """Return the first format that the Accept header takes."""
    header = request.headers.get("accept")
    for name, media_type in _MEDIA_TYPES.items():
        if accepts(header, media_type):
            return name
    raise RequestError(UNSUPPORTED_MEDIA_TYPE, f"the Accept header must have one of {', '.join(_MEDIA_TYPES.values())}")


def _filtered(info: GlossaryInfo, source: str | None, target: str | None, service: Service) -> Sequence[DictionaryInfo]:
    """Return the dictionaries with the wanted languages."""
    if source is not None or target is not None:
        service.registry.require_ready()
    given = {"source": source, "target": target}.items()
    wanted = [None if code is None else service.registry.resolve(name, code) for name, code in given]
    found = [
        pair for pair in info.dictionaries if wanted[0] in (None, pair.source) and wanted[1] in (None, pair.target)
    ]
    if not found and info.dictionaries:
        raise RequestError(DICTIONARY_NOT_FOUND, "the glossary has no dictionary for these languages")
    return found


async def _dictionaries(bodies: Sequence[DictionaryRequest], service: Service) -> list[Dictionary]:
    """Return the dictionaries that a body describes.

    Raises:
        InvalidRequestError: a language or an entry breaks a rule, with its place in the body.
    """
    service.registry.require_ready()
    found = []
    for index, body in enumerate(bodies):
        try:
            source = service.registry.resolve("source", body.source)
            target = service.registry.resolve("target", body.target)
            if target not in service.registry.targets(source):
                raise UnsupportedLanguageError("target", f"must be one that {source} can be translated to", body.target)
            found.append(await _dictionary(body, source, target))
        except InvalidRequestError as error:
            raise renamed(error, f"dictionaries[{index}].{error.name}") from error
    return found


async def _dictionary(body: DictionaryRequest, source: str, target: str) -> Dictionary:
    """Return one dictionary; its entries are checked where they are stored, unless they are a text."""
    if isinstance(body.entries, str):
        text = body.entries
        return await off_loop(len(text), partial(parse_dictionary, text, body.format, source, target))
    return Dictionary(source, target, [(pair[0], pair[1]) for pair in body.entries])


def _reply(info: GlossaryInfo) -> GlossaryReply:
    """Put a glossary into the reply's shape."""
    return GlossaryReply(
        id=info.id,
        name=info.name,
        created=info.created,
        dictionaries=[
            DictionaryReply(source=each.source, target=each.target, entry_count=each.entry_count)
            for each in info.dictionaries
        ],
    )


def _as_json(found: Sequence[Glossary]) -> str:
    """Write dictionaries with their entries. Slow for many entries."""
    return GlossaryEntriesReply(
        dictionaries=[
            DictionaryEntriesReply(
                source=glossary.source_language, target=glossary.target_language, entries=list(glossary.entries)
            )
            for glossary in found
        ]
    ).model_dump_json()
