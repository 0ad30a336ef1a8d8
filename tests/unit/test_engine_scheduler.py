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
from model.engine.scheduler import OVERTAKING_BATCHES, WINDOW_BATCHES, FairQueue, Scheduler

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


def padded_tokens(requests: Sequence[Request]) -> int:
    """Positions of a batch, counted row by row: the source padded to the longest, and the reserved target."""
    longest = max((len(request.source_ids) for request in requests), default=0)
    return sum(longest + request.reserved_tokens for request in requests for _ in range(request.config.beam_size))


def test_imports_no_torch() -> None:
    code = "import sys; import model.engine.scheduler, model.engine.request, model.engine.stats; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "False"


def test_empty_scheduler_selects_nothing() -> None:
    scheduler = Scheduler(100)
    assert scheduler.select() == []
    assert len(scheduler) == scheduler.num_waiting == scheduler.num_running == scheduler.running_tokens == 0


def test_longest_with_longest() -> None:
    scheduler = Scheduler(120)  # three rows of 30 + 10, or six of 10 + 10
    lengths = [10, 30, 10, 30, 10, 30, 10, 10, 10]
    add_all(scheduler, map(new_request, lengths))
    first = scheduler.select()
    assert [request.source_length for request in first] == [30, 30, 30]
    for request in first:
        assert scheduler.remove(request)
    assert [request.source_length for request in scheduler.select()] == [10] * 6


def test_padding_counts_against_the_budget() -> None:
    scheduler = Scheduler(100)
    long, short = new_request(40), new_request(5)
    add_all(scheduler, [long, short])
    assert scheduler.select() == [long, short]
    assert scheduler.running_tokens == 2 * 40 + 10 + 10  # the short one is padded
    scheduler = Scheduler(99)
    add_all(scheduler, [long, short])
    assert scheduler.select() == [long]


def test_a_long_newcomer_is_charged_for_the_padding_of_the_others() -> None:
    scheduler = Scheduler(100)
    scheduler.add(new_request(5))
    scheduler.add(new_request(5))
    assert len(scheduler.select()) == 2
    scheduler.add(new_request(24))  # 3 * 24 + 30 = 102
    assert scheduler.select() == []
    scheduler.add(new_request(23))  # 3 * 23 + 30 = 99
    assert [request.source_length for request in scheduler.select()] == [23]


def test_padding_shrinks_when_the_longest_leaves() -> None:
    scheduler = Scheduler(1000)
    requests = [new_request(40), new_request(20), new_request(5)]
    add_all(scheduler, requests)
    assert len(scheduler.select()) == 3
    scheduler.remove(requests[0])
    assert scheduler.running_tokens == padded_tokens(requests[1:])


def test_beams_count_as_rows() -> None:
    scheduler = Scheduler(100)
    add_all(scheduler, [new_request(10, beam_size=4), new_request(10, beam_size=2)])
    assert [request.num_rows for request in scheduler.select()] == [4]
    scheduler = Scheduler(120)
    add_all(scheduler, [new_request(10, beam_size=4), new_request(10, beam_size=2)])
    assert len(scheduler.select()) == 2


def test_request_above_the_budget_runs_alone() -> None:
    scheduler = Scheduler(100)
    giant, small = new_request(500), new_request(5)
    add_all(scheduler, [giant, small])
    assert scheduler.select() == [giant]
    assert scheduler.select() == []
    scheduler.remove(giant)
    assert scheduler.select() == [small]


def test_waiting_counts_and_costs() -> None:
    scheduler = Scheduler(40)
    requests = [new_request(10) for _ in range(10)]
    add_all(scheduler, requests)
    assert (scheduler.num_waiting, scheduler.waiting_cost) == (10, 200)
    assert len(scheduler.select()) == 2
    assert (scheduler.num_waiting, scheduler.waiting_cost, scheduler.num_running) == (8, 160, 2)
    for request in requests:  # some run, some are in the window, some in the queue behind it
        assert scheduler.remove(request)
        assert not scheduler.remove(request)
    assert (len(scheduler), scheduler.waiting_cost, scheduler.running_tokens) == (0, 0, 0)
    assert scheduler.requests() == []


def run_until(scheduler: Scheduler, wanted: Request, feed: Iterable[Request], rounds: int) -> int:
    """Serve with a steady stream of others, one running request finishing each round; cost admitted before ``wanted``."""
    cost = 0
    stream = iter(feed)
    for _ in range(rounds):
        while scheduler.num_waiting < 20:
            scheduler.add(next(stream))
        for request in scheduler.select():
            if request is wanted:
                return cost
            cost += request.cost
        scheduler.remove(scheduler.requests()[0])
    raise AssertionError(f"not admitted after {rounds} rounds")


def endless(source_length: int, callers: str = "same") -> Iterable[Request]:
    """Requests without end, all from one caller or each from a new one."""
    number = 0
    while True:
        number += 1
        yield new_request(source_length, caller="bulk" if callers == "same" else f"caller {number}")


@pytest.mark.parametrize("callers", ["same", "new"])
def test_short_request_is_not_starved_by_long_ones(callers: str) -> None:
    budget = 500
    scheduler = Scheduler(budget)
    stream = iter(endless(40, callers))
    add_all(scheduler, [next(stream) for _ in range(20)])
    short = new_request(2, caller="bulk")
    scheduler.add(short)
    # The 20 in front of it (and, of new callers, as many again), the window, and what may overtake it there.
    bound = (1 if callers == "same" else 2) * 20 * 50 + (WINDOW_BATCHES + OVERTAKING_BATCHES) * budget + 2 * 50
    assert run_until(scheduler, short, stream, 200) <= bound


@pytest.mark.parametrize("callers", ["same", "new"])
@pytest.mark.parametrize("size", [300, 5000])
def test_big_request_is_not_starved_by_small_ones_that_always_fit(callers: str, size: int) -> None:
    budget = 500
    scheduler = Scheduler(budget)
    stream = iter(endless(40, callers))
    add_all(scheduler, [next(stream) for _ in range(9)])
    assert len(scheduler.select()) == 9
    big = new_request(size, caller="bulk")
    scheduler.add(big)
    assert run_until(scheduler, big, stream, 300) <= (WINDOW_BATCHES + OVERTAKING_BATCHES) * budget + 2 * 50


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
        by_length.append(scheduler.select())
        for request in by_length[-1]:
            scheduler.remove(request)
    assert sum(map(len, by_length)) == 300
    assert padding(by_length) < 0.6 * padding(in_order)
    assert len(by_length) < len(in_order)


def test_a_list_of_a_thousand_does_not_starve_a_single_one() -> None:
    budget = 400
    scheduler = Scheduler(budget)
    add_all(scheduler, [new_request(30, caller="list") for _ in range(1000)])
    assert len(scheduler.select()) == 10
    single = new_request(5, caller="single")
    scheduler.add(single)
    cost_before = run_until(scheduler, single, [], 1000)
    # At most the window and what may overtake it there, of the 39,600 that wait; each can overshoot by a request.
    assert cost_before <= (WINDOW_BATCHES + OVERTAKING_BATCHES) * budget + 2 * 40


def test_two_lists_share_evenly_by_cost() -> None:
    queue = FairQueue()
    for _ in range(300):
        queue.push(new_request(90, caller="long"))  # cost 100
    for _ in range(300):
        queue.push(new_request(10, caller="short"))  # cost 20
    taken = {"long": 0, "short": 0}
    for _ in range(120):
        request = queue.pop()
        assert request is not None
        taken[str(request.caller)] += request.cost
    assert sum(taken.values()) > 2000
    assert abs(taken["long"] - taken["short"]) <= 100  # one request


def test_a_caller_that_comes_late_gets_no_arrears() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.push(new_request(10, caller="early"))
    for _ in range(50):
        queue.pop()
    for _ in range(100):
        queue.push(new_request(10, caller="late"))
    callers = [request.caller for _ in range(20) if (request := queue.pop())]
    assert 9 <= callers.count("late") <= 11


def test_leaving_and_coming_back_gives_no_second_share() -> None:
    """A caller that queues one at a time gets no more than one that queues a list."""
    queue = FairQueue()
    for _ in range(100):
        queue.push(new_request(10, caller="list"))
    queue.push(new_request(10, caller="single"))
    taken: list[str | None] = []
    for _ in range(40):
        request = queue.pop()
        assert request is not None
        taken.append(request.caller)
        if request.caller == "single":
            queue.push(new_request(10, caller="single"))
    assert 19 <= taken.count("single") <= 21


def test_endless_new_callers_do_not_starve_an_old_one() -> None:
    queue = FairQueue()
    for _ in range(50):
        queue.push(new_request(10, caller="old"))
    taken: list[str | None] = []
    for number in range(100):
        while len(queue) < 55:
            queue.push(new_request(10, caller=f"new {number} {len(queue)}"))
        request = queue.pop()
        assert request is not None
        taken.append(request.caller)
    assert taken.count("old") >= 12  # at each turn six callers wait: a sixth of 100 is its share


def test_fair_queue_forgets_callers() -> None:
    queue = FairQueue()
    for number in range(1000):
        request = new_request(10, caller=str(number))
        queue.push(request)
        assert queue.remove(request) if number % 2 else queue.pop() is request
    assert queue.pop() is None
    assert len(queue) == 0
    assert list(queue) == []
    assert queue._requests == {}
    assert queue._tags == []


def test_expired_requests_leave_from_everywhere() -> None:
    scheduler = Scheduler(40)
    requests = [new_request(10, deadline=float(number)) for number in range(10)]
    never = new_request(10)
    add_all(scheduler, [*requests, never])
    scheduler.select()
    assert scheduler.expire(-1.0) == []
    assert set(scheduler.expire(4.0)) == set(requests[:5])
    assert scheduler.expire(4.5) == []
    assert set(scheduler.expire(100.0)) == set(requests[5:])
    assert scheduler.requests() == [never]
    late = new_request(10, deadline=150.0)
    scheduler.add(late)
    assert scheduler.expire(149.0) == []
    assert scheduler.expire(150.0) == [late]


def test_selection_is_tried_again_only_when_something_changed() -> None:
    scheduler = Scheduler(40)
    add_all(scheduler, [new_request(10) for _ in range(4)])
    running = scheduler.select()
    assert len(running) == 2
    assert scheduler.select() == []
    assert scheduler.remove(running[0])
    assert len(scheduler.select()) == 1


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
        expired = scheduler.expire(turn)
        assert set(expired) == {r for r in [*waiting, *running] if r.deadline is not None and r.deadline <= turn}
        waiting -= set(expired)
        running = [request for request in running if request not in expired]
        selected = scheduler.select()
        assert waiting.issuperset(selected)
        waiting -= set(selected)
        running += selected
        assert running or not waiting, "an idle device while requests wait"
        assert padded_tokens(running) <= budget or len(running) == 1
        assert scheduler.running_tokens == padded_tokens(running)
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
