"""Documents on the native face: sent in a form, translated in the background, fetched or deleted by their ids."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from app.access import Caller
from app.dependencies import Service, ServiceDependency
from app.document_schemas import DocumentReply, DocumentsReply
from app.document_store import DocumentRecord
from app.documents import NewDocument
from app.errors import DOCUMENT_NOT_FOUND, FILES_DISABLED, NO_RESULT, RequestError
from app.files import attachment
from app.schemas import ProblemReply
from model import Glossary, InvalidDocumentError, InvalidOptionError, MarkupOptions, Protection, TextOptions

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProblemReply, "description": "The form cannot be read."},
    401: {"model": ProblemReply, "description": "An API key is needed."},
    403: {"model": ProblemReply, "description": "The API key is not valid, or files are not translated here."},
    404: {"model": ProblemReply, "description": "The caller has no such document, or no such glossary."},
    409: {"model": ProblemReply, "description": "The document has no result, or not yet; `detail` says which."},
    413: {"model": ProblemReply, "description": "The file is too large."},
    422: {"model": ProblemReply, "description": "The request breaks a rule; `errors` says which."},
    429: {"model": ProblemReply, "description": "The caller's limit or quota is reached."},
    503: {"model": ProblemReply, "description": "Too many documents wait, or the service is starting or stopping."},
}
_ANY_FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(prefix="/v1/documents", tags=["documents"])


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _PROBLEMS[status] for status in statuses}


@router.post("", status_code=202, responses=_problems(400, 401, 403, 404, 413, 422, 429, 503))
async def upload(
    request: Request,
    response: Response,
    service: ServiceDependency,
    file: Annotated[UploadFile, File(description="The document; the end of its name tells the format.")],
    target: Annotated[str, Form(description="Language to translate to.")],
    source: Annotated[str, Form(description="Language of the document; auto detects it.")] = "auto",
    model: Annotated[str, Form(description="Name of a model of /v1/models; empty: one that has the languages.")] = "",
    glossaries: Annotated[str, Form(description="Ids of glossaries, with commas between them.")] = "",
    ignore_tags: Annotated[str, Form(description="Elements whose content stays as it is.")] = "",
    splitting_tags: Annotated[str, Form(description="Elements that begin a new block.")] = "",
    non_splitting_tags: Annotated[str, Form(description="Elements that never begin a new block.")] = "",
    literals: Annotated[list[str] | None, Form(description="Words or phrases that stay as they are.")] = None,
    patterns: Annotated[list[str] | None, Form(description="Regular expressions of such.")] = None,
) -> DocumentReply:
    """Take a document; it is translated in the background, and is deleted some time after that."""
    caller = await service.access.admit(request)
    require_files(service)
    service.registry.require_ready()
    name = file.filename or ""
    suffix = PurePath(name).suffix.lower()
    if suffix not in service.documents.formats:
        formats = ", ".join(service.documents.formats)
        raise InvalidDocumentError("file", f"must have a name that ends in one of {formats}", suffix)
    wanted = None if source.lower() in ("", "auto") else source
    _, source_code, target_code = service.registry.select(wanted, target, model or None)
    options = TextOptions(
        markup=MarkupOptions(
            ignore_tags=_words(ignore_tags),
            splitting_tags=_words(splitting_tags),
            non_splitting_tags=_words(non_splitting_tags),
        ),
        protection=Protection(patterns=tuple(patterns or ()), literals=tuple(literals or ())),
        glossaries=await _glossaries(service, caller, _words(glossaries), source_code, target_code),
    )
    data = await file.read()
    if not data:
        raise InvalidDocumentError("file", "must not be empty", name)
    new = NewDocument(data, name, source_code, target_code, model or None, options)
    record = await service.documents.add(new, caller)
    response.headers["Location"] = f"/v1/documents/{record.id}"
    return _reply(record, service)


@router.get("", responses=_problems(401, 403, 503))
async def documents(request: Request, service: ServiceDependency) -> DocumentsReply:
    """List the documents of the caller's key; a caller without a key has no list, only the ids."""
    caller = await service.access.identify(request)
    records: Sequence[DocumentRecord] = ()
    if caller.key is not None:
        records = await service.documents.of_owner(caller.id)
    return DocumentsReply(documents=[_reply(record, service) for record in records])


@router.get("/{document_id}", responses=_problems(401, 403, 404, 422, 503))
async def status(document_id: str, request: Request, service: ServiceDependency) -> DocumentReply:
    """Tell how far a document is."""
    return _reply(await _find(document_id, request, service), service)


@router.get(
    "/{document_id}/result",
    response_class=Response,
    responses={200: {"content": _ANY_FILE, "description": "The file."}, **_problems(401, 403, 404, 409, 422, 503)},
)
async def result(document_id: str, request: Request, service: ServiceDependency) -> Response:
    """Return the translated document."""
    record = await _find(document_id, request, service)
    if record.state == "error":
        raise RequestError(NO_RESULT, f"the document could not be translated: {record.error}")
    if record.state != "done":
        raise RequestError(NO_RESULT, f"the document is {record.state}", {"Retry-After": "1"})
    data = await service.documents.result(record)
    if data is None:  # deleted at this moment
        raise RequestError(DOCUMENT_NOT_FOUND, "there is no such document")
    return attachment(data, record.result_name, record.media_type)


@router.delete("/{document_id}", status_code=204, responses=_problems(401, 403, 404, 422, 503))
async def delete(document_id: str, request: Request, service: ServiceDependency) -> None:
    """Delete a document; if it is not done, stop its translation."""
    await service.documents.delete(await _find(document_id, request, service))


def require_files(service: Service) -> None:
    """Raise RequestError if files are not translated here."""
    if not service.settings.files:
        raise RequestError(FILES_DISABLED, "Files translation are disabled on this server.")


async def _find(document_id: str, request: Request, service: Service) -> DocumentRecord:
    """Return a document of the caller, or raise RequestError."""
    caller = await service.access.identify(request)
    record = await service.documents.find(document_id, caller.id)
    if record is None:
        raise RequestError(DOCUMENT_NOT_FOUND, "there is no such document")
    return record


async def _glossaries(
    service: Service, caller: Caller, ids: Sequence[str], source: str | None, target: str
) -> tuple[Glossary, ...]:
    """Return the caller's dictionaries for the languages."""
    if not ids:
        return ()
    if source is None:
        raise InvalidOptionError("glossaries", "need a source language that is not detected", ",".join(ids))
    via = service.registry.select(source, target)[0].via
    if via is not None:  # a document has no report that could say that a term was skipped
        rule = f"cannot be applied where {source} is translated to {target} by way of {via}"
        raise InvalidOptionError("glossaries", rule, ",".join(ids))
    return await service.read_glossaries(caller, ids, [(source, target)])


def _words(text: str) -> tuple[str, ...]:
    """Return the words between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _reply(record: DocumentRecord, service: Service) -> DocumentReply:
    """Put a document into the reply's shape."""
    expires = service.documents.expires(record)
    return DocumentReply(
        id=record.id,
        name=record.name,
        state=record.state,
        source=record.source,
        target=record.target,
        model=record.model,
        characters=record.characters,
        translated_characters=record.translated_characters,
        seconds_remaining=service.documents.seconds_remaining(record),
        error=record.error or None,
        created_at=_iso(record.created),
        expires_at=None if expires is None else _iso(expires),
        result=f"/v1/documents/{record.id}/result" if record.state == "done" else None,
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
