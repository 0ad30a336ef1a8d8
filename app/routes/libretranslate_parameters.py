"""LibreTranslate's parameters, checked in its words; nothing is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from app.dependencies import Service
from model import UnsupportedLanguageError, language


def bad_request(message: str) -> HTTPException:
    return HTTPException(400, message)


def shown(value: Any, limit: int = 100) -> str:
    """Return what a message quotes of a value that the caller sent."""
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def required(parameters: Mapping[str, Any], name: str) -> Any:
    """Return a parameter that must be there and not be empty."""
    value = parameters.get(name)
    if not value:
        raise bad_request(f"Invalid request: missing {name} parameter")
    return value


def num_alternatives(parameters: Mapping[str, Any], limit: int) -> int:
    """Return how many alternatives are wanted; negative numbers mean none."""
    value = parameters.get("alternatives", 0)
    try:
        number = int(value) if isinstance(value, str) or type(value) is int else None
    except ValueError:
        number = None
    if number is None:
        raise bad_request("Invalid request: alternatives parameter is not a number")
    if number > limit:
        raise bad_request(f"Invalid request: alternatives parameter must be <= {limit}")
    return max(0, number)


def texts_within_limits(q: Any, service: Service) -> list[str]:
    """Return ``q`` as a list of texts within the limits."""
    texts = q if isinstance(q, list) else [q]
    if not all(isinstance(text, str) for text in texts):
        raise bad_request("Invalid request: q parameter must be a string or a list of strings")
    limits = service.settings
    sizes = [(len(texts), limits.max_texts), *((len(text), limits.max_characters) for text in texts)]
    for size, limit in sizes:
        if size > limit:
            raise bad_request(f"Invalid request: request ({size}) exceeds text limit ({limit})")
    return texts


def resolve_languages(service: Service, source: Any, target: Any) -> tuple[str | None, str]:
    """Return the codes of both languages, None for a source that is to be detected."""
    service.registry.require_ready()
    codes: list[str | None] = []
    for name, code in (("source", source), ("target", target)):
        if name == "source" and code == "auto":
            codes.append(None)
            continue
        try:
            codes.append(service.registry.resolve(name, str(code)))
        except UnsupportedLanguageError:
            raise bad_request(f"{shown(code)} is not supported") from None
    return codes[0], str(codes[1])


def select_translator(service: Service, source: str | None, target: str) -> Any:
    """Return the registry's choice, or LibreTranslate's words for a pair that no model has."""
    try:
        return service.registry.select(source, target)
    except UnsupportedLanguageError:
        wanted, given = language(target), language(source or target)
        raise bad_request(
            f"{wanted.name} ({wanted.code}) is not available as a target language from {given.name} ({given.code})"
        ) from None
