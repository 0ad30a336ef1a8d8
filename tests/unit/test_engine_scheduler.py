"""The scheduler alone: budget, length order, ageing, fair share, deadlines; no threads, no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import GenerationConfig
from model.engine.request import Request
from model.engine.scheduler import CHUNK_BATCHES, PASSING_BATCHES, Scheduler

CONFIGS = {beam_size: GenerationConfig(beam_size=beam_size) for beam_size in range(1, 9)}


def new_request(
    source_length: int, reserved: int = 10, beam_size: int = 1, caller: str | None = None, deadline: float | None = None
) -> Request:
    """A request of the given shape."""
    return Request((7,) * source_length, CONFIGS[beam_size], reserved_tokens=reserved, caller=caller, deadline=deadline)


def add_all(scheduler: Scheduler, requests: Iterable[Request]) -> None:
    """Add in order."""
    for request in requests:
        scheduler.add(request)


def select(scheduler: Scheduler) -> list[Request]:
    """Select for a single worker."""
    selected = scheduler.select()
    assert {worker for _, worker in selected} <= {0}
    return [request for request, _ in selected]


def padded_tokens(requests: Sequence[Request]) -> int:
    """Positions of a batch, counted row by row: the source padded to the longest, and the reserved target."""
    longest = max((len(request.source_ids) for request in requests), default=0)
    return sum(longest + request.reserved_tokens for request in requests for _ in range(request.config.beam_size))


def test_imports_no_torch() -> None:
    modules = "model.engine.scheduler, model.engine.request, model.engine.stats"
    code = f"import sys; import {modules}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "False"


def test_empty_scheduler_selects_nothing() -> None:
    scheduler = Scheduler(100)
    assert select(scheduler) == []
    assert len(scheduler) == scheduler.num_waiting == scheduler.num_running == scheduler.running_tokens() == 0


def test_longest_with_longest() -> None:
    scheduler = Scheduler(120)  # three rows of 30 + 10, or six of 10 + 10
    lengths = [10, 30, 10, 30, 10, 30, 10, 10, 10]
    add_all(scheduler, map(new_request, lengths))
    first = select(scheduler)
    assert [request.source_length for request in first] == [30, 30, 30]
    for request in first:
        assert scheduler.remove(request)
    assert [request.source_length for request in select(scheduler)] == [10] * 6


def test_padding_counts_against_the_budget() -> None:
    scheduler = Scheduler(100)
    long, short = new_request(40), new_request(5)
    add_all(scheduler, [long, short])
    assert select(scheduler) == [long, short]
    assert scheduler.running_tokens() == 2 * 40 + 10 + 10  # the short one is padded
    scheduler = Scheduler(99)
    add_all(scheduler, [long, short])
    assert select(scheduler) == [long]


def test_a_long_newcomer_is_charged_for_the_padding_of_the_others() -> None:
    for length, fits in ((24, False), (23, True)):  # 3 * 24 + 30 = 102, 3 * 23 + 30 = 99
        scheduler = Scheduler(100)
        add_all(scheduler, [new_request(5), new_request(5)])
        assert len(select(scheduler)) == 2
        scheduler.add(new_request(length))
        assert len(select(scheduler)) == fits


def test_padding_shrinks_when_the_longest_leaves() -> None:
    scheduler = Scheduler(1000)
    requests = [new_request(40), new_request(20), new_request(5)]
    add_all(scheduler, requests)
    assert len(select(scheduler)) == 3
    scheduler.remove(requests[0])
    assert scheduler.running_tokens() == padded_tokens(requests[1:])


def test_beams_count_as_rows() -> None:
    scheduler = Scheduler(100)
    add_all(scheduler, [new_request(10, beam_size=4), new_request(10, beam_size=2)])
    assert [request.num_rows for request in select(scheduler)] == [4]
    scheduler = Scheduler(120)
    add_all(scheduler, [new_request(10, beam_size=4), new_request(10, beam_size=2)])
    assert len(select(scheduler)) == 2


def test_request_above_the_budget_runs_alone() -> None:
    scheduler = Scheduler(100)
    giant, small = new_request(500), new_request(5)
    add_all(scheduler, [giant, small])
    assert select(scheduler) == [giant]
    assert select(scheduler) == []
    scheduler.remove(giant)
    assert select(scheduler) == [small]


def test_waiting_counts_and_costs() -> None:
    scheduler = Scheduler(40)
    requests = [new_request(10) for _ in range(10)]
    add_all(scheduler, requests)
    assert (scheduler.num_waiting, scheduler.waiting_cost) == (10, 200)
    assert len(select(scheduler)) == 2
    assert (scheduler.num_waiting, scheduler.waiting_cost, scheduler.num_running) == (8, 160, 2)
    for request in requests:  # some run, some are in the window, some in the queue behind it
        assert scheduler.remove(request)
        assert not scheduler.remove(request)
    assert (len(scheduler), scheduler.waiting_cost, scheduler.running_tokens()) == (0, 0, 0)
    assert scheduler.requests() == []


def run_until(scheduler: Scheduler, wanted: Request, feed: Iterable[Request], rounds: int) -> int:
    """Serve a steady stream of others, one request ending each round; return the cost that ran before ``wanted``."""
    cost = 0
    stream = iter(feed)
    for _ in range(rounds):
        while scheduler.num_waiting < 20:
            scheduler.add(next(stream))
        for request in select(scheduler):
            if request is wanted:
                return cost
            cost += request.cost
        scheduler.remove(scheduler.requests()[0])
    raise AssertionError(f"not admitted after {rounds} rounds")


def endless(source_length: int, callers: str = "same") -> Iterable[Request]:
    """Requests of cost ``source_length + 10`` without end, all from one caller or each from a new one."""
    number = 0
    while True:
        number += 1
        yield new_request(source_length, caller="bulk" if callers == "same" else f"caller {number}")


@pytest.mark.parametrize("callers", ["same", "new"])
@pytest.mark.parametrize(("source_length", "others"), [(2, 40), (60, 5)])
def test_no_length_is_starved_by_another(callers: str, source_length: int, others: int) -> None:
    budget = 200
    scheduler = Scheduler(budget)
    stream = iter(endless(others, callers))
    add_all(scheduler, [next(stream) for _ in range(20)])
    wanted = new_request(source_length, caller="bulk")
    scheduler.add(wanted)
    # The 20 in front of it (of new callers, each round brings one more), its own chunk, and what may pass it.
    front = (1 if callers == "same" else 2) * 21 * (others + 10)
    assert run_until(scheduler, wanted, stream, 400) <= front + (CHUNK_BATCHES + PASSING_BATCHES) * budget


@pytest.mark.parametrize("size", [300, 5000])
def test_big_request_is_not_starved_by_small_ones_that_always_fit(size: int) -> None:
    budget = 500
    scheduler = Scheduler(budget)
    stream = iter(endless(40, "new"))
    add_all(scheduler, [next(stream) for _ in range(9)])
    assert len(select(scheduler)) == 9
    big = new_request(size, caller="big")
    scheduler.add(big)
    # Its turn is the next; then others pass it until they used up what may pass, one request more at most.
    assert run_until(scheduler, big, stream, 300) <= PASSING_BATCHES * budget + 2 * 50


def test_others_pass_a_caller_whose_request_does_not_fit_yet() -> None:
    scheduler = Scheduler(100)
    add_all(scheduler, [new_request(20, caller="first"), new_request(20, caller="first")])
    running = select(scheduler)
    big, small = new_request(80, caller="big"), new_request(10, caller="small")
    add_all(scheduler, [big, small])
    assert select(scheduler) == [small]
    for request in [*running, small]:
        scheduler.remove(request)
    assert select(scheduler) == [big]


def test_a_full_batch_is_refilled_when_it_is_half_empty() -> None:
    scheduler = Scheduler(200)
    requests = [new_request(10) for _ in range(20)]  # ten of them fit
    add_all(scheduler, requests)
    assert select(scheduler) == requests[:10]
    for request in requests[:4]:
        scheduler.remove(request)
        assert select(scheduler) == []
    scheduler.remove(requests[4])
    assert select(scheduler) == requests[10:15]


def test_a_batch_that_was_not_full_takes_whoever_comes() -> None:
    scheduler = Scheduler(200)
    first = [new_request(10) for _ in range(8)]
    add_all(scheduler, first)
    assert select(scheduler) == first
    late = new_request(10)
    scheduler.add(late)
    assert select(scheduler) == [late]


def test_a_mixed_list_is_padded_less_than_first_come_first_served() -> None:
    budget = 600
    lengths = [5 + 37 * number % 50 for number in range(300)]

    def padding(batches: list[list[Request]]) -> int:
        return sum(padded_tokens(batch) - sum(request.cost for request in batch) for batch in batches)

    in_order: list[list[Request]] = [[]]
    for request in map(new_request, lengths):
        if padded_tokens([*in_order[-1], request]) > budget:
            in_order.append([])
        in_order[-1].append(request)

    scheduler = Scheduler(budget)
    add_all(scheduler, map(new_request, lengths))
    by_length: list[list[Request]] = []
    while len(scheduler):
        by_length.append(select(scheduler))
        for request in by_length[-1]:
            scheduler.remove(request)
    assert sum(map(len, by_length)) == 300
    assert padding(by_length) < 0.25 * padding(in_order)
    assert len(by_length) < len(in_order)


def test_no_request_is_overtaken_by_more_than_its_chunk() -> None:
    budget = 100
    scheduler = Scheduler(budget)
    requests = [new_request(3 + 17 * number % 40) for number in range(400)]
    add_all(scheduler, requests)
    started: list[Request] = []
    while len(scheduler):
        started += select(scheduler)
        scheduler.remove(scheduler.running_requests()[0])
    arrival = {request: number for number, request in enumerate(requests)}
    for place, request in enumerate(started):
        overtaken_by = sum(other.cost for other in started[:place] if arrival[other] > arrival[request])
        assert overtaken_by <= CHUNK_BATCHES * budget + 60


def test_chunks_fall_and_rise_in_turn() -> None:
    budget = 15  # one at a time: none fits beside another
    lengths = [1 + 5 * number % 8 for number in range(40)]
    expected: list[int] = []
    chunk: list[int] = []
    falling = True
    for length in lengths:
        chunk.append(length)
        if sum(each + 10 for each in chunk) >= CHUNK_BATCHES * budget:
            expected += sorted(chunk, reverse=falling)
            chunk, falling = [], not falling
    expected += sorted(chunk, reverse=falling)

    scheduler = Scheduler(budget)
    add_all(scheduler, map(new_request, lengths))
    assert [request.source_length for request in serve(scheduler, 40)] == expected


def test_equal_requests_run_by_arrival() -> None:
    scheduler = Scheduler(20)  # one at a time
    requests = [new_request(10) for _ in range(40)]
    add_all(scheduler, requests)
    assert serve(scheduler, 40) == requests


def serve(scheduler: Scheduler, count: int) -> list[Request]:
    """Let ``count`` requests run one after another."""
    served: list[Request] = []
    while len(served) < count:
        (request,) = select(scheduler)
        served.append(request)
        scheduler.remove(request)
    return served


def callers_of(requests: list[Request]) -> list[str | None]:
    """Whose they are."""
    return [request.caller for request in requests]


def test_a_list_of_a_thousand_does_not_starve_a_single_one() -> None:
    scheduler = Scheduler(400)
    add_all(scheduler, [new_request(30, caller="list") for _ in range(1000)])
    assert len(select(scheduler)) == 10
    single = new_request(5, caller="single")
    scheduler.add(single)
    assert run_until(scheduler, single, [], 1000) <= 40  # at most one of the 990 that wait


def test_two_lists_share_evenly_by_cost() -> None:
    scheduler = Scheduler(1)
    add_all(scheduler, [new_request(90, caller="long") for _ in range(300)])  # cost 100
    add_all(scheduler, [new_request(10, caller="short") for _ in range(300)])  # cost 20
    served = serve(scheduler, 120)
    long_cost = sum(request.cost for request in served if request.caller == "long")
    short_cost = sum(request.cost for request in served if request.caller == "short")
    assert long_cost + short_cost > 2000
    assert abs(long_cost - short_cost) <= 100  # one request


def test_a_caller_that_comes_late_gets_no_arrears() -> None:
    scheduler = Scheduler(1)
    add_all(scheduler, [new_request(10, caller="early") for _ in range(100)])
    serve(scheduler, 50)
    add_all(scheduler, [new_request(10, caller="late") for _ in range(100)])
    assert 9 <= callers_of(serve(scheduler, 20)).count("late") <= 11


def test_leaving_and_coming_back_gives_no_second_share() -> None:
    """A caller that queues one at a time gets no more than one that queues a list."""
    scheduler = Scheduler(1)
    add_all(scheduler, [new_request(10, caller="list") for _ in range(100)])
    scheduler.add(new_request(10, caller="single"))
    served: list[Request] = []
    for _ in range(40):
        served += serve(scheduler, 1)
        if served[-1].caller == "single":
            scheduler.add(new_request(10, caller="single"))
    assert 19 <= callers_of(served).count("single") <= 21


def test_endless_new_callers_do_not_starve_an_old_one() -> None:
    scheduler = Scheduler(1)
    add_all(scheduler, [new_request(10, caller="old") for _ in range(300)])
    newcomers = iter(endless(10, "new"))
    served: list[Request] = []
    for _ in range(200):
        while scheduler.num_waiting < 305 - callers_of(served).count("old"):
            scheduler.add(next(newcomers))
        served += serve(scheduler, 1)
    assert abs(callers_of(served).count("old") - 200 / 6) <= 1  # six callers wait at any time


def test_a_newcomer_starts_where_the_fluid_share_stands() -> None:
    """Not where a caller stands that used up its share for long.

    The list and the big request share the device, so after the big one, of cost 1,000, the list is owed about 500: 25
    of its requests, of cost 20, go before a newcomer, and not the 50 that the big one's caller must wait for.
    """
    scheduler = Scheduler(1)
    add_all(scheduler, [new_request(10, caller="list") for _ in range(100)])
    scheduler.add(new_request(990, caller="big"))
    assert set(callers_of(serve(scheduler, 2))) == {"list", "big"}
    select(scheduler)  # the list's second runs: everybody who waits, or had a share, is passed
    scheduler.add(new_request(10, caller="new"))
    scheduler.add(new_request(10, caller="big"))
    scheduler.remove(scheduler.running_requests()[0])
    order = callers_of(serve(scheduler, 60))
    assert 20 <= order.index("new") <= 30
    assert 45 <= order.index("big") <= 55


def test_callers_without_requests_are_forgotten() -> None:
    scheduler = Scheduler(1)
    for number in range(1000):
        request = new_request(10, caller=str(number))
        scheduler.add(request)
        if number % 2:
            assert scheduler.remove(request)
        else:
            serve(scheduler, 1)
    assert select(scheduler) == []
    assert scheduler._callers == {}
    assert scheduler._tags == []


def test_expired_requests_leave_from_everywhere() -> None:
    scheduler = Scheduler(40)
    requests = [new_request(10, deadline=float(number)) for number in range(10)]
    never = new_request(10)
    add_all(scheduler, [*requests, never])
    select(scheduler)
    assert scheduler.expire(-1.0) == []
    assert {request for request, _ in scheduler.expire(4.0)} == set(requests[:5])
    assert scheduler.expire(4.5) == []
    assert {request for request, _ in scheduler.expire(100.0)} == set(requests[5:])
    assert scheduler.requests() == [never]
    late = new_request(10, deadline=150.0)
    scheduler.add(late)
    assert scheduler.expire(149.0) == []
    assert scheduler.expire(150.0) == [(late, None)]


def test_selection_is_tried_again_only_when_something_changed() -> None:
    scheduler = Scheduler(40)
    add_all(scheduler, [new_request(10) for _ in range(4)])
    running = select(scheduler)
    assert len(running) == 2
    assert select(scheduler) == []
    assert scheduler.remove(running[0])
    assert len(select(scheduler)) == 1


request_shapes = st.tuples(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 8), st.sampled_from(["a", "b", None]), st.floats(0, 50)
)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(1, 400),
    arrivals=st.lists(st.lists(request_shapes, max_size=6), max_size=15),
    choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=40),
)
def test_any_history_keeps_the_budget_and_serves_everybody(
    budget: int, arrivals: list[list[tuple[int, int, int, str | None, float]]], choices: list[int]
) -> None:
    """Random arrivals, endings, cancellations and deadlines against sums counted one by one."""
    scheduler = Scheduler(budget)
    waiting: set[Request] = set()
    running: list[Request] = []
    turn = 0
    while turn < len(arrivals) or waiting or running:
        assert turn < 2000, "requests are left over"
        for source_length, reserved, beam_size, caller, patience in arrivals[turn] if turn < len(arrivals) else []:
            # A tenth of the patience values gives deadlines; the others wait for ever.
            deadline = turn + patience if patience < 5 else None
            request = new_request(source_length, reserved, beam_size, caller, deadline)
            scheduler.add(request)
            waiting.add(request)
        expired = [request for request, _ in scheduler.expire(turn)]
        assert set(expired) == {r for r in [*waiting, *running] if r.deadline is not None and r.deadline <= turn}
        waiting -= set(expired)
        running = [request for request in running if request not in expired]
        selected = select(scheduler)
        assert waiting.issuperset(selected)
        waiting -= set(selected)
        running += selected
        assert running or not waiting, "an idle device while requests wait"
        assert padded_tokens(running) <= budget or len(running) == 1
        assert scheduler.running_tokens() == padded_tokens(running)
        assert (scheduler.num_waiting, scheduler.num_running) == (len(waiting), len(running))
        assert scheduler.waiting_cost == sum(request.cost for request in waiting)
        assert set(scheduler.requests()) == {*waiting, *running}
        choice = choices[turn % len(choices)]
        if waiting and choice % 7 == 0:
            cancelled = min(waiting, key=lambda request: hash((request.source_length, choice)))
            waiting.remove(cancelled)
            assert scheduler.remove(cancelled)
        if running:
            assert scheduler.remove(running.pop(choice % len(running)))
        turn += 1
