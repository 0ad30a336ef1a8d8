"""DeepL's parameters: read from JSON, a form or a query string, checked in DeepL's words; nothing is done with them.

A parameter that is not known is ignored, as DeepL does. One that is known and cannot be honoured is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.dependencies import is_json, parse_json, read_body, read_fields
from app.errors import MALFORMED_BODY, UNSUPPORTED_MEDIA_TYPE, RequestError
from app.settings import Settings

_FORM_TYPES = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_FIELDS_BESIDE_TEXTS = 100
"""Far more than DeepL has; bounds the work on a hostile form."""
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


async def read_values(request: Request, settings: Settings) -> Mapping[str, Any]:
    """Return the parameters; those of the body win over the query string's. A repeated field of a form is a list.

    The body is read with every method: DeepL's own client sends a form with a GET.

    Raises:
        RequestError: a body that is not what its content type says, or of another type.
    """
    values: dict[str, Any] = {}
    for name, text in await read_fields(request, settings.max_texts + _FIELDS_BESIDE_TEXTS):
        values.setdefault(name.removesuffix("[]"), []).append(text)
    body = await read_body(request)
    if is_json(request):
        if not body and request.method == "GET":
            return values
        content = parse_json(body)
        if not isinstance(content, dict):
            raise RequestError(MALFORMED_BODY, "the body must be a JSON object")
        return {**values, **content}
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type not in _FORM_TYPES:
        raise RequestError(UNSUPPORTED_MEDIA_TYPE, "the Content-Type must be application/json or that of a form")
    return values


def bad_request(message: str) -> HTTPException:
    """Return the error of a request that DeepL would refuse in these words."""
    return HTTPException(400, message)


def unsupported(name: str) -> HTTPException:
    """Return the error of a parameter whose value is not one of those that it may have."""
    return bad_request(f"Value for '{name}' not supported.")


def missing(name: str) -> HTTPException:
    """Return the error of a parameter that must be there."""
    return bad_request(f"Parameter '{name}' not specified.")


def texts(values: Mapping[str, Any], name: str = "text") -> list[str]:
    """Return a list of texts; one alone may stand without a list."""
    value = values.get(name)
    found = [value] if isinstance(value, str) else value
    if found is None or found == []:
        raise missing(name)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise unsupported(name)
    return found


def optional(values: Mapping[str, Any], name: str) -> str | None:
    """Return a parameter as a string, None if it is missing or empty. The first of several counts."""
    value = values.get(name)
    if isinstance(value, list) and value:
        value = value[0]
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str | int):
        raise unsupported(name)
    return str(value)


def required(values: Mapping[str, Any], name: str) -> str:
    """Return a parameter as a string that must be there."""
    value = optional(values, name)
    if value is None:
        raise missing(name)
    return value


def choice(values: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    """Return one of the allowed values, in any case; None if the parameter is missing."""
    value = optional(values, name)
    if value is None:
        return None
    if value.lower() not in allowed:
        raise unsupported(name)
    return value.lower()


def flag(values: Mapping[str, Any], name: str) -> bool:
    """Return a truth value, False if the parameter is missing."""
    return _FLAGS[choice(values, name, tuple(_FLAGS)) or "0"]


def words(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the words of a list, or of strings with commas between them."""
    value = values.get(name)
    parts = [value] if isinstance(value, str) else value or []
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise unsupported(name)
    return tuple(dict.fromkeys(word.strip() for part in parts for word in part.split(",") if word.strip()))


def uuid_of(value: str, name: str) -> str:
    """Return a UUID in small letters, or refuse what is none."""
    if not _UUID.fullmatch(value.lower()):
        raise unsupported(name)
    return value.lower()
