"""DeepL's documents for its clients as they are: upload, status, one download; each document has a key of its own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hmac import compare_digest
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.dependencies import Service, ServiceDependency
from app.document_names import hash_secret
from app.document_schemas import DeepLDocument, DeepLDocumentStatus
from app.document_store import DocumentRecord
from app.documents import NewDocument
from app.files import attachment, read_upload
from app.routes import deepl_parameters as parameters
from app.routes.deepl import ERRORS, read_glossaries, select_languages
from app.routes.deepl_parameters import bad_request, unsupported
from app.routes.documents import require_files
from model import TextOptions

_UPLOAD = {
    "type": "object",
    "required": ["file", "target_lang"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "target_lang": {"type": "string"},
        "source_lang": {"type": "string"},
        "filename": {"type": "string", "description": "In the place of the file's own name."},
        "output_format": {"type": "string", "description": "Only the format of the file itself."},
        "formality": {"type": "string", "enum": ["default", "prefer_more", "prefer_less"]},
        "glossary_id": {"type": "string", "description": "Needs source_lang."},
        "glossary_ids": {"type": "string", "description": "Up to 5, with commas between them."},
    },
}
_KEY = {"type": "object", "required": ["document_key"], "properties": {"document_key": {"type": "string"}}}
_MEDIA_TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_ANY_FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(prefix="/v2/document", tags=["DeepL"])


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: ERRORS[status] for status in statuses}


def _body(schema: dict[str, Any], *media_types: str) -> dict[str, Any]:
    """Describe a body that we read ourselves."""
    return {"requestBody": {"required": True, "content": {each: {"schema": schema} for each in media_types}}}


@router.post(
    "",
    responses=_errors(400, 403, 404, 413, 429, 456, 503, 529),
    openapi_extra=_body(_UPLOAD, "multipart/form-data"),
)
async def upload(request: Request, service: ServiceDependency) -> DeepLDocument:
    """Take a document; what comes back is needed to ask for it."""
    form = await read_upload(request)
    values: Mapping[str, Any] = form.lists()
    caller = await service.access.admit(request, 0, values)
    require_files(service)
    if not form.data:
        raise bad_request("Invalid file data.")
    name = parameters.optional(values, "filename") or form.name
    suffix = PurePath(name).suffix.lower()
    if suffix not in service.documents.formats:
        raise bad_request("Invalid file data.")
    if (parameters.optional(values, "output_format") or suffix[1:]).lower() != suffix[1:]:
        raise unsupported("output_format")
    _, source, target = select_languages(values, service)
    if source == target:
        raise bad_request("Source and target language are equal.")
    options = TextOptions(glossaries=await read_glossaries(values, service, caller, source, target))
    document_key = secrets.token_hex(32).upper()
    new = NewDocument(form.data, name, source, target, options=options, secret=document_key)
    record = await service.documents.add(new, caller)
    return DeepLDocument(document_id=record.id.upper(), document_key=document_key)


_STATUS: dict[str, Any] = {
    "responses": _errors(400, 403, 404, 429, 503),
    "response_model_exclude_none": True,
}


@router.get("/{document_id}", include_in_schema=False, **_STATUS)
@router.post("/{document_id}", openapi_extra=_body(_KEY, *_MEDIA_TYPES), **_STATUS)
async def status(document_id: str, request: Request, service: ServiceDependency) -> DeepLDocumentStatus:
    """Tell how far a document is."""
    record = await _find(document_id, request, service)
    error = record.error or None
    remaining = service.documents.seconds_remaining(record)
    return DeepLDocumentStatus(
        document_id=record.id.upper(),
        status=record.state,
        seconds_remaining=remaining if record.state == "translating" else None,
        billed_characters=record.characters if record.state == "done" else None,
        error_message=error,
        message=error,
    )


_RESULT: dict[str, Any] = {
    "response_class": Response,
    "responses": {200: {"content": _ANY_FILE, "description": "The file."}, **_errors(400, 403, 404, 429, 503)},
}


@router.get("/{document_id}/result", include_in_schema=False, **_RESULT)
@router.post("/{document_id}/result", openapi_extra=_body(_KEY, *_MEDIA_TYPES), **_RESULT)
async def result(document_id: str, request: Request, service: ServiceDependency) -> Response:
    """Return the translated document, once; then it is deleted."""
    record = await _find(document_id, request, service)
    if record.state == "error":
        raise HTTPException(503, f"Document could not be translated: {record.error}")
    if record.state != "done":
        raise HTTPException(503, "Document translation is not done")
    data = await service.documents.take_result(record)
    if data is None:  # somebody else was quicker
        raise HTTPException(404, "Document not found")
    return attachment(data, record.result_name, record.media_type)


async def _find(document_id: str, request: Request, service: Service) -> DocumentRecord:
    """Return the caller's document whose key the request has, or raise HTTPException."""
    values = await parameters.read_values(request, service.settings)
    caller = await service.access.identify(request, values)
    document_key = parameters.required(values, "document_key")
    record = await service.documents.find(document_id.lower(), caller.id)
    if record is None or record.secret is None or not compare_digest(record.secret, hash_secret(document_key)):
        raise HTTPException(404, "Document not found")
    return record
