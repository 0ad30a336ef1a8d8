"""For those who run the service: alive, ready, measured, which version, documented; nothing here translates."""

from __future__ import annotations

import platform
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, JSONResponse, Response

from app.dependencies import ServiceDependency
from app.metrics import CONTENT_TYPE, package_version

_DOCS_PAGE = Path(__file__).parent.parent / "static" / "docs.html"

router = APIRouter(tags=["operation"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Tell that the process answers at all; restart it when this fails."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Starting, stopping, or an engine died."}})
async def readyz(service: ServiceDependency) -> Response:
    """Tell whether requests are taken: models loaded and warm, engines running, not shutting down."""
    ready = service.registry.healthy()
    return JSONResponse({"status": "ready" if ready else "unavailable"}, 200 if ready else 503)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: ServiceDependency) -> Response:
    """Return what was measured, in Prometheus' text format."""
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@router.get("/version")
async def version() -> dict[str, str]:
    """Return the versions of the service and of its Python."""
    return {"name": "dragoman", "version": package_version(), "python": platform.python_version()}


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Serve a page that shows /openapi.json to people; it loads nothing from anywhere else."""
    return FileResponse(_DOCS_PAGE, media_type="text/html")
