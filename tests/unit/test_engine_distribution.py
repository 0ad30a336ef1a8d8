"""The scheduler with several workers: who gets what, requests that are put back, a budget that shrinks; no threads."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.engine.request import Request
from model.engine.scheduler import PASSING_BATCHES, REFILLED_BELOW, Scheduler
from tests.unit.test_engine_scheduler import add_all, endless, new_request, padded_tokens


def by_worker(selected: list[tuple[Request, int]], num_workers: int) -> list[list[int]]:
    """The source lengths that each worker got."""
    return [[request.source_length for request, its in selected if its == worker] for worker in range(num_workers)]


def test_a_burst_is_spread_over_idle_workers() -> None:
    scheduler = Scheduler(1000, num_workers=3)
    add_all(scheduler, [new_request(10) for _ in range(7)])
    assert sorted(map(len, by_worker(scheduler.select(), 3))) == [2, 2, 3]


def test_a_burst_of_unequal_requests_is_spread_by_cost() -> None:
    scheduler = Scheduler(1000, num_workers=2)
    add_all(scheduler, [new_request(length) for length in (90, 20, 20)])  # cost 100, 30, 30
    assert by_worker(scheduler.select(), 2) == [[90], [20, 20]]


def test_a_single_request_goes_to_an_idle_worker() -> None:
    scheduler = Scheduler(1000, num_workers=3)
    workers = []
    for _ in range(3):
        scheduler.add(new_request(10))
        ((_, worker),) = scheduler.select()
        workers.append(worker)
    assert sorted(workers) == [0, 1, 2]
    scheduler.remove(scheduler.running_requests(1)[0])
    scheduler.add(new_request(200))
    assert [worker for _, worker in scheduler.select()] == [1]


def test_each_worker_has_a_budget_of_its_own() -> None:
    scheduler = Scheduler(40, num_workers=2)  # two of 10 + 10 each
    requests = [new_request(10) for _ in range(5)]
    add_all(scheduler, requests)
    assert len(scheduler.select()) == 4
    assert (scheduler.num_running, scheduler.num_waiting) == (4, 1)
    assert [scheduler.running_tokens(worker) for worker in (0, 1)] == [40, 40]
    leaving = scheduler.running_requests(1)[0]
    assert scheduler.worker_of(leaving) == 1
    assert scheduler.worker_of(requests[4]) is None
    scheduler.remove(leaving)
    assert scheduler.worker_of(leaving) is None
    assert scheduler.select() == [(requests[4], 1)]


@pytest.mark.parametrize("num_requests", [8, 37, 100])
def test_both_workers_stay_busy_until_the_end_of_a_list(num_requests: int) -> None:
    """Requests take as many steps as they have tokens reserved; each worker gives every request of its batch one."""
    longest = 9
    scheduler = Scheduler(160, num_workers=2)
    requests = [new_request(10, reserved=1 + 5 * number % longest) for number in range(num_requests)]
    add_all(scheduler, requests)
    left = {request: request.reserved_tokens for request in requests}
    half_idle_steps = steps = 0
    while len(scheduler):
        scheduler.select()
        busy = [worker for worker in (0, 1) if scheduler.is_busy(worker)]
        steps += 1
        half_idle_steps += len(busy) == 1
        for worker in busy:
            for request in scheduler.running_requests(worker):
                left[request] -= 1
                if left[request] == 0:
                    scheduler.remove(request)
    assert set(left.values()) == {0}
    assert half_idle_steps < longest  # less than the longest request takes: nothing waited while a worker was idle
    assert steps > half_idle_steps


def test_a_list_of_a_thousand_does_not_starve_a_single_one_on_any_number_of_workers() -> None:
    for num_workers in (1, 2, 3):
        scheduler = Scheduler(80, num_workers)
        add_all(scheduler, [new_request(30, caller="list") for _ in range(1000)])
        assert len(scheduler.select()) == 2 * num_workers
        single = new_request(5, caller="single")
        scheduler.add(single)
        started: list[Request] = []
        while single not in started:
            scheduler.remove(scheduler.running_requests(len(started) % num_workers)[0])
            started += [request for request, _ in scheduler.select()]
        assert len(started) <= 2  # at most one of the 996 that wait goes before


def test_one_worker_empties_for_a_big_request_and_the_others_go_on() -> None:
    budget = 500
    scheduler = Scheduler(budget, num_workers=2)
    stream = iter(endless(40, "new"))  # cost 50
    add_all(scheduler, [next(stream) for _ in range(20)])
    assert len(scheduler.select()) == 20
    big = new_request(5000, caller="big")
    scheduler.add(big)
    passing = 0
    started: Counter[int] = Counter()
    for number in range(400):
        while scheduler.num_waiting < 20:
            scheduler.add(next(stream))
        selected = scheduler.select()
        started.update(worker for _, worker in selected)
        if any(request is big for request, _ in selected):
            break
        passing += sum(request.cost for request, _ in selected)
        worker = number % 2
        running = scheduler.running_requests(worker)
        assert running, "a worker is idle while requests wait"
        scheduler.remove(running[0])
    else:
        raise AssertionError("the big request was starved")
    # What may pass, and what the other worker takes while one empties its ten, one request for each that ends there.
    assert passing <= 2 * PASSING_BATCHES * budget + 12 * 50
    other = 1 - next(worker for worker in (0, 1) if big in scheduler.running_requests(worker))
    assert len(scheduler.running_requests(other)) >= REFILLED_BELOW * budget / 50


def test_requests_put_back_are_the_next_in_their_order() -> None:
    scheduler = Scheduler(80)
    requests = [new_request(10) for _ in range(8)]  # four of them fit
    add_all(scheduler, requests)
    assert [request for request, _ in scheduler.select()] == requests[:4]
    assert scheduler.requeue(0) == requests[:4]
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.waiting_cost) == (0, 8, 160)
    assert scheduler.requests() == requests
    assert [request for request, _ in scheduler.select()] == requests[:4]
    scheduler.remove(requests[1])
    scheduler.remove(requests[2])
    assert [request for request, _ in scheduler.select()] == requests[4:6]
    scheduler.requeue(0)
    assert scheduler.requests() == [requests[0], *requests[3:]]


def test_callers_get_their_turns_back_with_what_is_put_back() -> None:
    """After the shortage the shares are those of an engine that never had one."""

    def served(shortage: bool) -> list[str | None]:
        scheduler = Scheduler(40)  # two at a time
        for caller in ("list", "other"):
            add_all(scheduler, [new_request(10, caller=caller) for _ in range(30)])
        scheduler.select()
        if shortage:
            for _ in range(5):
                scheduler.requeue(0)
                scheduler.select()
        order = []
        for _ in range(20):
            running = scheduler.running_requests(0)
            order.append(running[0].caller)
            scheduler.remove(running[0])
            scheduler.select()
        return order

    assert served(shortage=True) == served(shortage=False)


def test_a_caller_that_was_forgotten_meanwhile_gets_its_turn_back() -> None:
    scheduler = Scheduler(20)  # one at a time
    request = new_request(10, caller="short of memory")
    scheduler.add(request)
    scheduler.select()
    scheduler.add(new_request(10, caller="other"))
    scheduler.select()
    assert scheduler.requeue(0) == [request]
    assert scheduler.select() == [(request, 0)]


def test_a_shortage_halves_the_budget_but_not_below_the_largest_request() -> None:
    scheduler = Scheduler(100)
    add_all(scheduler, [new_request(10), new_request(10)])  # cost 20
    scheduler.select()
    assert scheduler.halve_budget(0)
    assert scheduler.max_batch_tokens == 50
    scheduler.requeue(0)
    scheduler.select()
    assert scheduler.halve_budget(0)
    scheduler.requeue(0)
    assert scheduler.max_batch_tokens == 25
    assert len(scheduler.select()) == 1
    assert not scheduler.halve_budget(0)  # it is alone: a smaller budget would not help it
    scheduler = Scheduler(160)
    add_all(scheduler, [new_request(70), new_request(70, reserved=5)])  # cost 80 and 75
    assert len(scheduler.select()) == 2
    assert scheduler.halve_budget(0)
    assert scheduler.max_batch_tokens == 80
    scheduler = Scheduler(160)
    add_all(scheduler, [new_request(50), new_request(1, reserved=1)])
    assert len(scheduler.select()) == 2
    scheduler.remove(scheduler.running_requests()[0])


def test_a_batch_from_before_the_halving_does_not_halve_again() -> None:
    scheduler = Scheduler(80, num_workers=2)
    add_all(scheduler, [new_request(10) for _ in range(8)])
    scheduler.select()
    assert scheduler.halve_budget(0)
    assert not scheduler.halve_budget(1)  # its 80 tokens are above the new budget anyway
    assert scheduler.max_batch_tokens == 40
    scheduler.requeue(0)
    scheduler.requeue(1)
    assert [len(own) for own in by_worker(scheduler.select(), 2)] == [2, 2]


request_shapes = st.tuples(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 8), st.sampled_from(["a", "b", None]), st.floats(0, 50)
)


@settings(max_examples=60, deadline=None)
@given(
    num_workers=st.integers(1, 3),
    budget=st.integers(1, 400),
    arrivals=st.lists(st.lists(request_shapes, max_size=6), max_size=15),
    choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=40),
)
def test_any_history_keeps_every_budget_and_serves_everybody(
    num_workers: int,
    budget: int,
    arrivals: list[list[tuple[int, int, int, str | None, float]]],
    choices: list[int],
) -> None:
    """Random arrivals, endings, cancellations, deadlines and shortages against books kept one by one."""
    scheduler = Scheduler(budget, num_workers)
    waiting: set[Request] = set()
    running: list[list[Request]] = [[] for _ in range(num_workers)]
    turn = 0
    while turn < len(arrivals) or waiting or any(running):
        assert turn < 1000, "requests are left over"
        for source_length, reserved, beam_size, caller, patience in arrivals[turn] if turn < len(arrivals) else []:
            deadline = turn + patience if patience < 5 else None
            request = new_request(source_length, reserved, beam_size, caller, deadline)
            scheduler.add(request)
            waiting.add(request)
        for request, its_worker in scheduler.expire(turn):
            assert request.deadline is not None
            assert request.deadline <= turn
            if its_worker is None:
                waiting.remove(request)
            else:
                running[its_worker].remove(request)
        for request, worker in scheduler.select():
            waiting.remove(request)
            running[worker].append(request)
        assert all(running) or not waiting, "an idle worker while requests wait"
        for worker, batch in enumerate(running):
            assert padded_tokens(batch) <= budget or len(batch) == 1
            assert scheduler.running_tokens(worker) == padded_tokens(batch)
            assert scheduler.running_requests(worker) == batch
        assert (scheduler.num_waiting, scheduler.num_running) == (len(waiting), sum(map(len, running)))
        assert scheduler.waiting_cost == sum(request.cost for request in waiting)
        assert set(scheduler.requests()) == waiting.union(*running)
        choice = choices[turn % len(choices)]
        busy = [worker for worker, batch in enumerate(running) if batch] or [0]
        worker = busy[choice % len(busy)]
        if choice % 5 == 0 and turn < 40:
            put_back = scheduler.requeue(worker)
            assert put_back == running[worker]
            waiting.update(put_back)
            running[worker] = []
        if waiting and choice % 7 == 0:
            cancelled = min(waiting, key=lambda request: hash((request.source_length, choice)))
            waiting.remove(cancelled)
            assert scheduler.remove(cancelled)
        if running[worker]:
            assert scheduler.remove(running[worker].pop(choice % len(running[worker])))
        turn += 1
    assert scheduler.requests() == []
