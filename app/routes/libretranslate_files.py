"""LibreTranslate's files for its clients as they are: one request that waits for the translation, then a download."""

from __future__ import annotations

import asyncio
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.dependencies import Service, ServiceDependency
from app.document_store import DocumentRecord
from app.documents import FAILURE, NewDocument
from app.files import attachment, read_upload
from app.limits import wait_for_disconnect
from app.routes.documents import require_files
from app.routes.libretranslate_parameters import bad_request, required, resolve_languages, select_translator
from model import RequestCancelledError

_UPLOAD = {
    "type": "object",
    "required": ["file", "source", "target"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "source": {"type": "string", "examples": ["auto"]},
        "target": {"type": "string", "examples": ["en"]},
        "api_key": {"type": "string"},
    },
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_REQUEST_BODY = {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}
_FILE_CONTENT = {"*/*": {"schema": {"type": "string", "format": "binary"}}}

router = APIRouter(tags=["LibreTranslate"])


def _errors(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Describe errors; the keys are statuses with an underscore before them."""
    return {int(status[1:]): {"description": text, "content": _ERROR} for status, text in descriptions.items()}


@router.post(
    "/translate_file",
    openapi_extra={"requestBody": _REQUEST_BODY},
    responses=_errors(_400="The request breaks a rule.", _403="Files are not translated here.", _503="Too much load."),
)
async def translate_file(request: Request, service: ServiceDependency) -> dict[str, str]:
    """Translate a file, and answer with the address of the result when that is there."""
    form = await read_upload(request)
    parameters = form.first()
    require_files(service)
    if form.data is None:
        raise bad_request("Invalid request: missing file parameter")
    source, target = (required(parameters, name) for name in ("source", "target"))
    if not form.data or not form.name:
        raise bad_request("Invalid request: empty file")
    if PurePath(form.name).suffix.lower() not in service.documents.formats:
        raise bad_request("Invalid request: file format not supported")
    source, target = resolve_languages(service, source, target)
    _, source, target = select_translator(service, source, target)
    caller = await service.access.admit(request, 0, parameters)
    new = NewDocument(form.data, form.name, source, target, is_shared=True)
    record = await _translated(await service.documents.add(new, caller), request, service)
    name = quote(f"{record.id}.{record.result_name}")
    return {"translatedFileUrl": f"{str(request.base_url).rstrip('/')}/download_file/{name}"}


@router.get(
    "/download_file/{name}",
    response_class=Response,
    responses={
        200: {"content": _FILE_CONTENT, "description": "The file."},
        **_errors(_404="There is no such file, or no longer.", _503="The service is starting or stopping."),
    },
)
async def download_file(name: str, service: ServiceDependency) -> Response:
    """Return a translated file, to everybody who knows its address."""
    record = await service.documents.find(name.partition(".")[0])
    data = None
    if record is not None and record.is_shared:
        data = await service.documents.result(record)
    if record is None or data is None:
        raise HTTPException(404, "File not found")
    return attachment(data, record.result_name, record.media_type)


async def _translated(record: DocumentRecord, request: Request, service: Service) -> DocumentRecord:
    """Wait until a document is done, as long as the client does; if it has no result, forget it."""
    over = asyncio.ensure_future(service.documents.wait(record))
    gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
    now: DocumentRecord | None = None
    try:
        await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not over.done():
            raise RequestCancelledError("the client closed the connection")
        now = over.result()
    finally:
        over.cancel()
        gone.cancel()
        await asyncio.gather(over, gone, return_exceptions=True)
        if now is None or now.state != "done":
            await service.documents.delete(record)
    if now is None:
        raise HTTPException(404, "File not found")
    if now.error:
        raise HTTPException(500 if now.error == FAILURE else 400, now.error)
    return now
