"""Which waiting requests run next under the token budget; plain Python: no torch, no threads, no clock.

Callers take turns, so that each gets the same share of the device. In a caller's turn length decides, not arrival:
longest with longest, so that padding is small. Whoever does not fit is passed by those who do, a caller by others and a
request by its caller's others, but only for so long: then nothing goes before it. So every request runs after a bounded
amount of other work.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.engine.request import Request

WINDOW_BATCHES = 4.0
"""How far into a caller's row length decides over arrival, in full batches: more is less padding, less is fairer."""
OVERTAKING_BATCHES = 1.0
"""How much may overtake a request, or pass a caller whose turn it is, in full batches."""
MAX_PASSED_CALLERS = 16
"""How many callers whose requests do not fit are passed in one selection, which bounds its time."""


@dataclass(eq=False)
class _Candidate:
    """A request in the window."""

    request: Request
    order: int
    """Its place in the order of arrival."""
    due_at: float
    """It is due once requests of this total cost have left the window."""

    @property
    def length_order(self) -> tuple[int, int, int]:
        """Longest source first, then most target positions, then by arrival."""
        return (-self.request.source_length, -self.request.reserved_tokens, self.order)


class CallerQueue:
    """One caller's waiting requests: a row by arrival, with a window at its front out of which the longest goes first.

    Args:
        window_cost: the window is filled up to this cost.
        overtaking_cost: a request that requests of this cost have overtaken is due: it goes before all others.
    """

    def __init__(self, caller: str | None, window_cost: float, overtaking_cost: float) -> None:
        self.caller = caller
        self.passed_cost = 0
        """Cost of other callers' requests that went before this queue's although it was its turn."""
        self._window_cost = window_cost
        self._overtaking_cost = overtaking_cost
        self._row: OrderedDict[Request, None] = OrderedDict()
        self._window: OrderedDict[Request, _Candidate] = OrderedDict()  # by arrival
        self._by_length: list[_Candidate] = []  # the same, sorted by length_order
        self._num_entered = 0
        self._entered_cost = 0  # of all requests that ever entered the window
        self._left_cost = 0  # of all that have left it

    def __len__(self) -> int:
        return len(self._window) + len(self._row)

    def __iter__(self) -> Iterator[Request]:
        yield from self._window
        yield from self._row

    def add(self, request: Request) -> None:
        """Append a request to the row."""
        self._row[request] = None

    def remove(self, request: Request) -> bool:
        """Take a request out; False if it is not here."""
        if request in self._row:
            del self._row[request]
            return True
        candidate = self._window.pop(request, None)
        if candidate is None:
            return False
        place = bisect.bisect_left(self._by_length, candidate.length_order, key=lambda each: each.length_order)
        del self._by_length[place]
        self._left_cost += request.cost
        return True

    def find(self, fits: Callable[[Request], bool]) -> Request | None:
        """Return the request that goes next, which stays here; None if none may go.

        That is the longest one that fits; but the oldest one once it is due, and then no other until it fits. ``due_at``
        is the cost that was before a request when it entered the window, plus what may overtake it: one that only waits
        for its turn is never due, and the oldest one always becomes so first.
        """
        self._fill_window()
        if not self._window:
            return None
        oldest = next(iter(self._window.values()))
        if self._left_cost >= oldest.due_at:
            return oldest.request if fits(oldest.request) else None
        return next((candidate.request for candidate in self._by_length if fits(candidate.request)), None)

    def _fill_window(self) -> None:
        while self._row and self._entered_cost - self._left_cost < self._window_cost:
            request, _ = self._row.popitem(last=False)
            candidate = _Candidate(request, self._num_entered, self._entered_cost + self._overtaking_cost)
            self._window[request] = candidate
            bisect.insort(self._by_length, candidate, key=lambda each: each.length_order)
            self._num_entered += 1
            self._entered_cost += request.cost


class RunningBatch:
    """The requests in the batch, and what they use of the budget.

    The sources of all rows are padded to the longest of them; target positions are reserved for each row on its own.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._requests: dict[Request, None] = {}
        self._num_rows = 0
        self._reserved_tokens = 0
        self._longest_source: int | None = 0  # None: to be found anew

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def num_tokens(self) -> int:
        """Positions in use, padding and reservations included."""
        return self._num_rows * self._padded_source() + self._reserved_tokens

    def fits(self, request: Request) -> bool:
        """Whether the budget allows the request; it does for any request if nothing else runs."""
        if not self._requests:
            return True
        num_rows = self._num_rows + request.num_rows
        reserved_tokens = self._reserved_tokens + request.num_rows * request.reserved_tokens
        padded_source = max(self._padded_source(), request.source_length)
        return num_rows * padded_source + reserved_tokens <= self._max_batch_tokens

    def add(self, request: Request) -> None:
        """Let a request run."""
        self._longest_source = max(self._padded_source(), request.source_length)
        self._requests[request] = None
        self._num_rows += request.num_rows
        self._reserved_tokens += request.num_rows * request.reserved_tokens

    def remove(self, request: Request) -> bool:
        """Take a request out; False if it is not here."""
        if request not in self._requests:
            return False
        del self._requests[request]
        self._num_rows -= request.num_rows
        self._reserved_tokens -= request.num_rows * request.reserved_tokens
        if request.source_length == self._longest_source:
            self._longest_source = None
        return True

    def _padded_source(self) -> int:
        if self._longest_source is None:
            self._longest_source = max((request.source_length for request in self._requests), default=0)
        return self._longest_source


class Scheduler:
    """The requests that wait and the requests that run.

    Turns are start-time fair queuing (Goyal, Vin and Cheng 1996): a caller's tag is the virtual time at which its next
    request starts; the smallest tag has the turn, and moves on by the cost of what it took. The virtual time, at which
    new callers start, advances by the cost divided by the number of waiting callers, as in weighted fair queuing
    (Parekh and Gallager 1993): so even an endless row of new callers does not hold up an old one.

    Args:
        max_batch_tokens: budget of the running batch: the sum over its rows of the source, padded to the longest in
            the batch, and the reserved target positions. A request above the whole budget runs alone.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._window_cost = WINDOW_BATCHES * max_batch_tokens
        self._overtaking_cost = OVERTAKING_BATCHES * max_batch_tokens
        self._running = RunningBatch(max_batch_tokens)
        self._callers: dict[str | None, CallerQueue] = {}  # also those that had their share lately
        self._tags: list[tuple[float, int, CallerQueue]] = []  # a heap with one entry for each of them
        self._num_tags = 0
        self._virtual_time = 0.0
        self._num_waiting_callers = 0
        self._num_waiting = 0
        self._waiting_cost = 0
        self._next_deadline = math.inf
        self._changed = False

    def __len__(self) -> int:
        return self._num_waiting + len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that do not run yet."""
        return self._num_waiting

    @property
    def waiting_cost(self) -> int:
        """Token cost of all waiting requests."""
        return self._waiting_cost

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def running_tokens(self) -> int:
        """The part of the budget that is used."""
        return self._running.num_tokens

    def running_requests(self) -> list[Request]:
        """The requests in the batch."""
        return list(self._running)

    def requests(self) -> list[Request]:
        """Every request, running ones first."""
        return [*self._running, *(request for queue in self._callers.values() for request in queue)]

    def add(self, request: Request) -> None:
        """Let a request wait."""
        queue = self._callers.get(request.caller)
        if queue is None:
            queue = CallerQueue(request.caller, self._window_cost, self._overtaking_cost)
            self._callers[request.caller] = queue
            self._push_tag(self._virtual_time, queue)
        self._num_waiting_callers += not queue
        queue.add(request)
        self._num_waiting += 1
        self._waiting_cost += request.cost
        self._note_deadline(request)
        self._changed = True

    def remove(self, request: Request) -> bool:
        """Forget a request, waiting or running: it ended. False if it is not here."""
        if not self._running.remove(request):
            queue = self._callers.get(request.caller)
            if queue is None or not self._remove_waiting(queue, request):
                return False
        self._changed = True
        return True

    def expire(self, now: float) -> list[Request]:
        """Remove and return the requests whose deadline is at or before ``now`` (seconds of the engine's clock)."""
        if now < self._next_deadline:
            return []
        expired = [each for each in self.requests() if each.deadline is not None and each.deadline <= now]
        for request in expired:
            self.remove(request)
        self._next_deadline = math.inf
        for request in self.requests():
            self._note_deadline(request)
        return expired

    def select(self) -> list[Request]:
        """Move the waiting requests that run next into the batch and return them; at least one if nothing runs."""
        if not self._changed:
            return []  # the last answer still holds: nothing more fits
        self._changed = False
        selected: list[Request] = []
        passed: list[tuple[float, int, CallerQueue]] = []
        while self._tags and len(passed) < MAX_PASSED_CALLERS:
            tag, number, queue = heapq.heappop(self._tags)
            request = queue.find(self._running.fits)
            if request is not None:
                self._start(request, queue, tag)
                selected.append(request)
                for _, _, waiting_queue in passed:
                    waiting_queue.passed_cost += request.cost
            elif queue:
                passed.append((tag, number, queue))
                if queue.passed_cost >= self._overtaking_cost:
                    break  # nothing joins, so that the batch empties until its request fits
            else:
                # Only now is it forgotten that this caller had its share: all other tags have reached its own.
                self._virtual_time = max(self._virtual_time, tag)
                del self._callers[queue.caller]
        for entry in passed:
            heapq.heappush(self._tags, entry)
        return selected

    def _start(self, request: Request, queue: CallerQueue, tag: float) -> None:
        """Move a request into the batch, and let its caller pay for it with its next turn."""
        self._virtual_time = max(self._virtual_time, tag) + request.cost / self._num_waiting_callers
        queue.passed_cost = 0
        self._remove_waiting(queue, request)
        self._push_tag(tag + request.cost, queue)
        self._running.add(request)

    def _remove_waiting(self, queue: CallerQueue, request: Request) -> bool:
        if not queue.remove(request):
            return False
        self._num_waiting_callers -= not queue
        self._num_waiting -= 1
        self._waiting_cost -= request.cost
        return True

    def _push_tag(self, tag: float, queue: CallerQueue) -> None:
        self._num_tags += 1  # the older entry first where tags are equal; queues themselves are never compared
        heapq.heappush(self._tags, (tag, self._num_tags, queue))

    def _note_deadline(self, request: Request) -> None:
        """Keep a lower bound of all deadlines, so that nobody looks through the requests before one can have passed."""
        if request.deadline is not None:
            self._next_deadline = min(self._next_deadline, request.deadline)
