"""The page for people at ``/`` and its files under ``/page/``; everything that it does, it asks the API for."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

_FOLDER = Path(__file__).parent.parent / "static" / "page"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {file.name: file for file in sorted(_FOLDER.iterdir()) if file.suffix in _MEDIA_TYPES}
"""All that can be asked for: a name that is not here is no file, whatever a path may look like."""

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """Serve the page."""
    return _file("index.html", request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def file(name: str, request: Request) -> Response:
    """Serve a script, a style sheet or a picture of the page."""
    return _file(name, request)


def _file(name: str, request: Request) -> Response:
    """Return a file, or 304 for a browser that has it; a browser asks each time, so that an update is seen at once."""
    found = _FILES.get(name)
    if found is None:
        raise HTTPException(404, "there is no such file")
    headers = {"Cache-Control": "no-cache"}
    response = FileResponse(found, headers=headers, media_type=_MEDIA_TYPES[found.suffix], stat_result=found.stat())
    if response.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={**headers, "ETag": response.headers["etag"]})
    return response
