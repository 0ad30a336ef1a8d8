"""The driver of a text's segments, with flows that are written out here and an engine that answers when told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from model.config import GenerationConfig
from model.errors import DeadlineExceededError, EngineClosedError, OverloadedError, RequestCancelledError
from model.generation.generate import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.pipeline.pending import Flow, PendingTranslation
from model.translation import SegmentTranslation, Translation

PATIENCE = 10.0
"""Seconds that a test waits for what must come; far more than it takes."""


class HeldRequest:
    """A request that is answered when the test says so; its answer is one hypothesis of its source."""

    def __init__(self, item: GenerationInput) -> None:
        self.item = item
        self.future: Future[list[Hypothesis]] = Future()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def answer(self) -> None:
        ids = tuple(self.item.source_ids)
        self.future.set_result([Hypothesis(ids, -1.0, -1.0, (-1.0,), "end")])


class HeldEngine:
    """Takes inputs up to a capacity, and counts how many were open at once."""

    def __init__(self, capacity: int = 1000) -> None:
        self.capacity = capacity
        self.requests: list[HeldRequest] = []
        self.deadlines: list[float | None] = []
        self.refusal: Exception = OverloadedError("full", 1.0)
        self.arrivals = threading.Semaphore(0)

    def submit(self, inputs: Sequence[GenerationInput], deadline_seconds: float | None) -> list[HeldRequest]:
        if sum(not request.future.done() for request in self.requests) + len(inputs) > self.capacity:
            raise self.refusal
        new = [HeldRequest(item) for item in inputs]
        self.requests += new
        self.deadlines.append(deadline_seconds)
        for _ in new:
            self.arrivals.release()
        return new

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` more requests have come."""
        for _ in range(count):
            assert self.arrivals.acquire(timeout=PATIENCE), "a request that should have come did not"


def ask(*numbers: int) -> list[GenerationInput]:
    return [GenerationInput((number,), GenerationConfig()) for number in numbers]


def segment(text: str) -> SegmentTranslation:
    return SegmentTranslation(0, len(text), text, text, 0.0)


def once(number: int) -> Flow:
    """Ask for one decoding, and return its tokens as the text."""
    [hypotheses] = yield ask(number)
    return segment(f"{hypotheses[0].token_ids}")


def twice(number: int) -> Flow:
    """Ask for two decodings, then for another one; go on without it where the engine refuses."""
    first, second = yield ask(number, number + 1)
    try:
        [third] = yield ask(number + 2)
    except OverloadedError:
        return segment("without")
    return segment(f"{first[0].token_ids}{second[0].token_ids}{third[0].token_ids}")


def nothing() -> Flow:
    """Ask for nothing."""
    return segment("as it is")
    yield []


def failing() -> Flow:
    """Break after the first answer."""
    yield ask(1)
    raise ValueError("broken flow")


def joined(segments: list[SegmentTranslation]) -> Translation:
    text = "|".join(part.text for part in segments)
    return Translation(text, "fr", "en", None, tuple(segments), (), 0.0, "end", (), 0, 0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


Start = Callable[..., PendingTranslation]


@pytest.fixture
def start(executor: ThreadPoolExecutor) -> Start:
    """Return what starts a text of some flows on an engine."""

    def begin(engine: HeldEngine, *flows: Flow, window: int = 100, **more: object) -> PendingTranslation:
        return PendingTranslation(flows, engine.submit, joined, executor, window=window, **more)  # type: ignore[arg-type]

    return begin


def test_results_are_in_the_order_of_the_segments_whatever_finishes_first(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, once(1), nothing(), once(2), once(3))
    for request in reversed(engine.requests):
        request.answer()
    assert pending.future.result(PATIENCE).text == "(1,)|as it is|(2,)|(3,)"


def test_a_text_without_work_is_done_at_once(start: Start) -> None:
    engine = HeldEngine()
    assert start(engine, nothing(), nothing()).future.result(PATIENCE).text == "as it is|as it is"
    assert start(engine).future.result(PATIENCE).text == ""
    assert engine.requests == []


def test_a_flow_is_sent_all_answers_of_a_round_and_may_ask_again(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, twice(10))
    engine.wait_for(2)
    engine.requests[1].answer()
    assert len(engine.requests) == 2, "one of two answers is not enough to go on"
    engine.requests[0].answer()
    engine.wait_for(1)
    engine.requests[2].answer()
    assert pending.future.result(PATIENCE).text == "(10,)(11,)(12,)"


def test_at_most_a_window_of_segments_is_in_the_engine(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, *(once(number) for number in range(5)), window=2)
    engine.wait_for(2)
    for number in range(3):
        assert len(engine.requests) == number + 2
        engine.requests[number].answer()
        engine.wait_for(1)
    for request in engine.requests[3:]:
        request.answer()
    assert pending.future.result(PATIENCE).text == "|".join(f"({number},)" for number in range(5))


def test_the_first_window_is_submitted_whole_or_not_at_all(start: Start) -> None:
    engine = HeldEngine(capacity=2)
    with pytest.raises(OverloadedError):
        start(engine, once(1), once(2), once(3))
    assert engine.requests == []


def test_a_later_segment_waits_for_room(start: Start) -> None:
    engine = HeldEngine(capacity=2)
    pending = start(engine, once(1), once(2), once(3), window=2)
    engine.capacity = 1  # others' work came in
    engine.requests[0].answer()
    engine.requests[1].answer()
    engine.wait_for(3)
    engine.requests[2].answer()
    assert pending.future.result(PATIENCE).text == "(1,)|(2,)|(3,)"


def test_a_full_queue_fails_a_text_that_has_nothing_left_to_wait_for(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, once(1), once(2), window=1)
    engine.capacity = 0
    engine.requests[0].answer()
    with pytest.raises(OverloadedError):
        pending.future.result(PATIENCE)


@pytest.mark.parametrize("refusal", [OverloadedError("full", 1.0), EngineClosedError("closing")])
def test_a_flow_goes_on_without_a_second_round_that_is_refused(start: Start, refusal: Exception) -> None:
    engine = HeldEngine()
    engine.refusal = refusal
    pending = start(engine, twice(1))
    engine.capacity = 0
    for request in engine.requests:
        request.answer()
    assert pending.future.result(PATIENCE).text == "without"


def test_an_error_of_one_request_is_the_texts_and_ends_the_others(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, once(1), once(2))
    engine.requests[1].future.set_exception(DeadlineExceededError("late"))
    with pytest.raises(DeadlineExceededError):
        pending.future.result(PATIENCE)
    assert engine.requests[0].cancelled
    engine.requests[0].answer()  # too late to matter


def test_an_error_of_a_flow_or_of_the_assembly_reaches_the_caller(start: Start, executor: ThreadPoolExecutor) -> None:
    engine = HeldEngine()
    pending = start(engine, failing(), once(2))
    engine.requests[0].answer()
    with pytest.raises(ValueError, match="broken flow"):
        pending.future.result(PATIENCE)

    def refuse(_: list[SegmentTranslation]) -> Translation:
        raise KeyError("assembly")

    pending = PendingTranslation([nothing()], engine.submit, refuse, executor, window=1)
    with pytest.raises(KeyError, match="assembly"):
        pending.future.result(PATIENCE)


@pytest.mark.parametrize("by_future", [False, True])
def test_cancelling_drops_the_requests(start: Start, by_future: bool) -> None:
    engine = HeldEngine()
    pending = start(engine, once(1), once(2))
    if by_future:
        assert pending.future.cancel()
    else:
        pending.cancel()
        with pytest.raises(RequestCancelledError):
            pending.future.result(PATIENCE)
    assert [request.cancelled for request in engine.requests] == [True, True]


def test_the_deadline_is_that_of_the_text_in_every_round(start: Start) -> None:
    engine = HeldEngine()
    pending = start(engine, twice(1), deadline_seconds=60.0)
    for request in engine.requests:
        request.answer()
    engine.wait_for(3)
    first, second = engine.deadlines
    assert first is not None
    assert second is not None
    assert 0 < second < first <= 60.0
    pending.cancel()


def test_segments_are_told_as_they_finish(start: Start) -> None:
    engine = HeldEngine()
    told: list[tuple[int, str]] = []
    seen = threading.Semaphore(0)

    def on_segment(index: int, part: SegmentTranslation) -> None:
        told.append((index, part.text))
        seen.release()

    pending = start(engine, once(1), once(2), on_segment=on_segment)
    engine.requests[1].answer()
    assert seen.acquire(timeout=PATIENCE)
    assert told == [(1, "(2,)")]
    assert not pending.future.done()
    engine.requests[0].answer()
    pending.future.result(PATIENCE)
    assert told == [(1, "(2,)"), (0, "(1,)")]
