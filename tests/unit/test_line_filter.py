"""Reading texts ahead of their translations: order, promptness, bounds, and what happens when it ends early."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import pytest

from model.errors import InvalidTextError, OverloadedError
from model.line_filter import DEFAULT_WINDOW, read_document, read_lines, translate_ahead
from tests.unit.stub_translator import StubPending


def ahead(
    submit: Callable[[str], Any], texts: Iterable[str], window: int = DEFAULT_WINDOW
) -> Generator[Any, None, None]:
    """Call translate_ahead with stubs in the place of its types."""
    return translate_ahead(submit, texts, window)


def _done(text: str) -> StubPending:
    pending = StubPending()
    pending.future.set_result(text.upper())
    return pending


def test_lines_end_at_line_feeds_only() -> None:
    stream = io.BytesIO("a\x85b\u2028c\rd\r\n\nlast".encode())
    assert list(read_lines(stream, "x")) == ["a\x85b\u2028c\rd", "", "last"]
    assert read_document(io.BytesIO("\ufeffa\r\n".encode()), "x") == "a\r\n"


def test_a_result_is_given_out_before_the_next_text_is_there() -> None:
    seen = threading.Event()

    def texts() -> Iterator[str]:
        yield "one"
        assert seen.wait(60), "the first result was held back until the second text"
        yield "two"

    results = ahead(_done, texts())
    first = next(results)
    assert first == "ONE"
    seen.set()
    rest = list(results)
    assert rest == ["TWO"]


def test_texts_are_submitted_ahead_and_results_keep_their_order() -> None:
    waiting: list[StubPending] = []

    def submit(_: str) -> StubPending:
        waiting.append(StubPending())
        if len(waiting) == 5:  # the engine finishes the last one first
            for number in reversed(range(5)):
                waiting[number].future.set_result(number)
        return waiting[-1]

    results = list(ahead(submit, "abcde", window=5))
    assert results == [0, 1, 2, 3, 4]


def test_no_more_than_the_window_is_submitted_ahead() -> None:
    counts = {"submitted": 0, "yielded": 0, "ahead": 0}

    def submit(text: str) -> StubPending:
        counts["submitted"] += 1
        counts["ahead"] = max(counts["ahead"], counts["submitted"] - counts["yielded"])
        return _done(text)

    for _ in ahead(submit, map(str, range(500)), window=7):
        counts["yielded"] += 1
    assert counts["submitted"] == 500
    assert 1 <= counts["ahead"] <= 7


def test_closing_cancels_what_is_under_way() -> None:
    pendings: list[StubPending] = []
    all_submitted = threading.Event()

    def submit(text: str) -> StubPending:
        pendings.append(_done(text) if text == "a" else StubPending())
        return pendings[-1]

    def texts() -> Iterator[str]:
        yield from "abc"
        all_submitted.set()  # asked for a fourth, so the third is in the queue

    results = ahead(submit, texts())
    next(results)
    assert all_submitted.wait(60)
    results.close()
    assert [pending.cancelled for pending in pendings] == [False, True, True]


def test_a_full_queue_is_waited_for() -> None:
    refused: list[str] = []

    def submit(text: str) -> StubPending:
        if text == "b" and not refused:
            refused.append(text)
            raise OverloadedError("full", 1.0)
        return _done(text)

    results = list(ahead(submit, "abc"))
    assert results == ["A", "B", "C"]
    assert refused == ["b"]


def test_a_queue_that_is_full_without_us_is_an_error() -> None:
    def submit(_: str) -> StubPending:
        raise OverloadedError("full", 1.0)

    with pytest.raises(OverloadedError):
        list(ahead(submit, "a"))


def test_bytes_that_are_no_text_are_named() -> None:
    lines = read_lines(io.BytesIO(b"a\n\xff\n"), "x")
    assert next(lines) == "a"
    with pytest.raises(InvalidTextError, match=r"line 2 of x must be UTF-8"):
        next(lines)
    with pytest.raises(InvalidTextError, match=r"x must be UTF-8 \(byte 2 is not\)"):
        read_document(io.BytesIO(b"a\n\xff\n"), "x")
