"""The tree of exceptions: its shape is the one that its drawing shows, and every error carries name, rule and value."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import errors
from model.errors import (
    ConfigurationError,
    DragomanError,
    InvalidOptionError,
    InvalidRequestError,
    InvalidTextError,
    OverloadedError,
    UnavailableError,
    UnsupportedLanguageError,
    shorten,
)


def drawn_tree() -> dict[str, str]:
    """Return each class of the module docstring's drawing with the class that it hangs on."""
    tree: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│├└─\s]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            del path[depth:]
            tree[found[2]] = path[-1] if path else "Exception"
            path.append(found[2])
    return tree


def test_the_drawing_is_the_tree() -> None:
    actual = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }
    assert drawn_tree() == actual
    assert len(actual) == 16


def test_who_catches_what() -> None:
    for kind in (InvalidTextError, InvalidOptionError, UnsupportedLanguageError):
        assert issubclass(kind, InvalidRequestError)
    for root in (InvalidRequestError, ConfigurationError):
        assert issubclass(root, ValueError)
        assert issubclass(root, DragomanError)
    assert not issubclass(UnavailableError, ValueError)  # the request was fine


@pytest.mark.parametrize("kind", [InvalidTextError, InvalidOptionError, UnsupportedLanguageError, ConfigurationError])
def test_name_rule_and_value(kind: type[InvalidRequestError]) -> None:
    error = kind("beam_size", "must be between 1 and 64", 65)
    assert (error.name, error.rule, error.value) == ("beam_size", "must be between 1 and 64", "65")
    assert str(error) == "beam_size must be between 1 and 64, got 65"


def test_an_error_never_carries_a_whole_document() -> None:
    document = "J'aime les châteaux. " * 10_000
    error = InvalidTextError("text", "must not be longer than 5 characters", document)
    assert len(error.value) == 80
    assert error.value.endswith("…")
    assert len(str(error)) < 150


def test_overloaded_says_when_to_come_back() -> None:
    error = OverloadedError("the queue is full", retry_after_seconds=2.5)
    assert error.retry_after_seconds == 2.5
    assert str(error) == "the queue is full"


@given(st.text(), st.integers(2, 100))
def test_shortened_text_is_short_and_can_be_written(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    short.encode()
    assert short.isprintable() or " " in short


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é", "'é'"),
        ("\ud800", r"'\ud800'"),
        ("a\nb", r"'a\nb'"),
        (None, "None"),
        ([1, "\udfff"], r"[1, '\udfff']"),
        (1.5, "1.5"),
        ("x" * 78, "'" + "x" * 78 + "'"),
        ("x" * 79, "'" + "x" * 78 + "…"),
    ],
)
def test_shorten(value: object, expected: str) -> None:
    assert shorten(value) == expected
