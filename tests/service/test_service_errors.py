"""Every exception of the model has an answer, and our own failures give nothing away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.errors import KINDS
from model import (
    CheckpointError,
    ConfigurationError,
    DecodingError,
    DragomanError,
    InvalidOptionError,
    InvalidRequestError,
    InvalidTextError,
    UnavailableError,
)

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator


def leaves(kind: type[DragomanError]) -> set[type[DragomanError]]:
    """Return the classes of model.errors below ``kind`` that have no subclass there."""
    below = [each for each in kind.__subclasses__() if each.__module__ == "model.errors"]
    return {kind} if not below else set().union(*map(leaves, below))


def test_every_leaf_has_a_status_code() -> None:
    found = leaves(DragomanError)
    assert InvalidTextError in found
    assert CheckpointError in found
    assert set(KINDS) == found


def test_the_blame_falls_on_the_right_side() -> None:
    for leaf, kind in KINDS.items():
        if issubclass(leaf, InvalidRequestError):
            assert kind.status == 422
        elif issubclass(leaf, UnavailableError) and leaf is not DecodingError:
            assert kind.status in (499, 503, 504)
        else:
            assert kind.status == 500


def test_slugs_tell_kinds_apart() -> None:
    pairs = {(kind.slug, kind.status, kind.title) for kind in KINDS.values()}
    assert len({slug for slug, _, _ in pairs}) == len(pairs)


class UnknownRequestError(InvalidRequestError):
    """A leaf that the service does not know yet."""


@pytest.mark.parametrize(
    ("exception", "native", "libre"),
    [
        (UnknownRequestError("shape", "must be round", "square"), 422, 400),
        (InvalidOptionError("top_k", "must not be negative", -1), 422, 400),
        (UnavailableError("out of order"), 500, 500),
        (DecodingError("secret tensor"), 500, 500),
        (CheckpointError("secret path"), 500, 500),
        (ConfigurationError("models", "must not be secret", "secret"), 500, 500),
        (RuntimeError("secret detail"), 500, 500),
        (RecursionError("secret depth"), 500, 500),
    ],
)
def test_statuses(
    make_app: Callable[..., FastAPI], stub: StubTranslator, exception: Exception, native: int, libre: int
) -> None:
    stub.refusal, stub.refuses_after = exception, 0
    with TestClient(make_app()) as client:  # which raises what the application lets through
        first = client.post("/v1/translate", json={"texts": "x", "source": "fr", "target": "en"})
        second = client.post("/translate", json={"q": "x", "source": "fr", "target": "en"})
    assert (first.status_code, second.status_code) == (native, libre)
    assert first.headers["content-type"] == "application/problem+json"
    assert set(second.json()) == {"error"}
    for reply in (first, second):
        assert "secret" not in reply.text
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("name", "pointer", "place"),
    [
        ("banned_tokens", "#/options/banned_tokens", "options.banned_tokens"),
        ("target_prefix", "#/target_prefix", "target_prefix"),
        ("items", "#/texts", "texts"),  # which is no field of the body
    ],
)
def test_what_the_translator_refuses_is_named_as_in_the_body(
    make_app: Callable[..., FastAPI], stub: StubTranslator, name: str, pointer: str, place: str
) -> None:
    stub.refusal, stub.refuses_after = InvalidRequestError(name, "must be so", "x"), 0
    with TestClient(make_app()) as client:
        reply = client.post("/v1/translate", json={"texts": "x", "source": "fr", "target": "en"})
    assert reply.json()["detail"] == f"{place} must be so, got 'x'"
    assert reply.json()["errors"] == [{"detail": "must be so, got 'x'", "pointer": pointer}]
