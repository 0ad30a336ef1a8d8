"""Files in requests and replies: reads a form with one file, and answers with an attachment; it knows no protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from model import RequestCancelledError

_MAX_FIELDS = 100
"""Far more than any endpoint has; bounds the work on a hostile form."""
_FORM_TYPES = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})


@dataclass(frozen=True)
class Upload:
    """A form with a file."""

    data: bytes | None
    """The file's bytes; None if the form has no field ``file`` with a file."""
    name: str
    """The file's name as the caller gave it; empty if there is none."""
    fields: Sequence[tuple[str, str]]
    """The fields of the query string, then those of the form, as often as they occur."""

    def first(self) -> Mapping[str, str]:
        """Return each field's first value."""
        values: dict[str, str] = {}
        for name, value in self.fields:
            values.setdefault(name, value)
        return values

    def lists(self) -> Mapping[str, list[str]]:
        """Return all values of each field; ``name[]`` is ``name``."""
        values: dict[str, list[str]] = {}
        for name, value in self.fields:
            values.setdefault(name.removesuffix("[]"), []).append(value)
        return values


async def read_upload(request: Request) -> Upload:
    """Read a form that may have one file, called ``file``. A body of another type counts as none.

    Raises:
        HTTPException: the form is malformed, or has several files.
        RequestCancelledError: the client went away while sending it.
        RequestError: it is too large or too slow (see limits).
    """
    fields = list(request.query_params.multi_items())
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _FORM_TYPES:
        return Upload(None, "", fields)
    try:
        async with request.form(max_files=1, max_fields=_MAX_FIELDS) as form:
            fields += [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            file = form.get("file")
            if not isinstance(file, UploadFile):
                return Upload(None, "", fields)
            return Upload(await file.read(), file.filename or "", fields)
    except ClientDisconnect:
        raise RequestCancelledError("the client closed the connection while sending the body") from None


def attachment(data: bytes, name: str, media_type: str) -> Response:
    """Answer with a file that a browser saves and never shows (RFC 6266; names beyond ASCII as in RFC 8187)."""
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_" for letter in name
    )
    disposition = f'attachment; filename="{plain}"'
    if plain != name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    headers = {
        "Content-Type": media_type or "application/octet-stream",  # so that nobody adds a charset, which may be another
        "Content-Disposition": disposition,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Response(data, headers=headers)
