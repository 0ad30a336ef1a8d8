"""Which waiting requests run next under the token budget; plain Python: no torch, no threads, no clock.

Callers take turns, so that each gets the same share of the device. One caller's requests go in chunks by arrival, and
in a chunk by length: longest with longest, so that padding is small. A caller whose request does not fit is passed by
others, but only for so long: then nothing goes before it. So every request runs after a bounded amount of other work.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.engine.request import Request

CHUNK_BATCHES = 8.0
"""Cost of a chunk of a caller's row, in full batches: more is less padding, less keeps closer to arrival.

With the lengths of everyday sentences, padding adds 45% to what the batch holds without chunks, 22% with 2, 12% with 4,
6% with 8 and 3% with 16.
"""
PASSING_BATCHES = 1.0
"""How much may pass a caller whose turn it is but whose request does not fit, in full batches."""
MAX_PASSED_CALLERS = 16
"""How many callers are passed in one selection, which bounds its time."""


class CallerQueue:
    """One caller's waiting requests: a row by arrival, served chunk after chunk, and each chunk sorted by length.

    Chunks go from long to short and from short to long in turn, so that neighbours are alike at their borders too.
    No request is overtaken by more than its chunk. (Always the longest first, with those that waited too long put in
    between, pads nearly as much as no order at all: soon most have waited too long.)
    """

    def __init__(self, caller: str | None, chunk_cost: float) -> None:
        self.caller = caller
        self.passed_cost = 0
        """Cost of other callers' requests that ran although it was this caller's turn."""
        self._chunk_cost = chunk_cost
        self._row: OrderedDict[Request, None] = OrderedDict()
        self._chunk: list[Request] = []  # the last one goes next
        self._falling = False

    def __len__(self) -> int:
        return len(self._chunk) + len(self._row)

    def __iter__(self) -> Iterator[Request]:
        yield from reversed(self._chunk)
        yield from self._row

    def add(self, request: Request) -> None:
        """Append a request to the row."""
        self._row[request] = None

    def remove(self, request: Request) -> bool:
        """Take a request out; False if it is not here."""
        if request in self._row:
            del self._row[request]
        elif request in self._chunk:
            self._chunk.remove(request)
        else:
            return False
        return True

    def first(self) -> Request:
        """Return the request that goes next, which stays here; the queue must not be empty."""
        if not self._chunk:
            self._take_chunk()
        return self._chunk[-1]

    def remove_first(self) -> None:
        """Take out the request that :meth:`first` returned."""
        self._chunk.pop()

    def _take_chunk(self) -> None:
        cost = 0
        while self._row and cost < self._chunk_cost:
            request, _ = self._row.popitem(last=False)
            self._chunk.append(request)
            cost += request.cost
        self._falling = not self._falling
        self._chunk.reverse()  # among equals, the first to come is the first to go
        self._chunk.sort(key=lambda each: (each.source_length, each.reserved_tokens), reverse=not self._falling)


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
        self._chunk_cost = CHUNK_BATCHES * max_batch_tokens
        self._max_passed_cost = PASSING_BATCHES * max_batch_tokens
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
            queue = CallerQueue(request.caller, self._chunk_cost)
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
            if queue is None or not queue.remove(request):
                return False
            self._count_out(request, queue)
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
            if not queue and not passed:
                # Only now is it forgotten that this caller had its share: all other tags have reached its own.
                self._virtual_time = max(self._virtual_time, tag)
                del self._callers[queue.caller]
            elif queue and self._running.fits(request := queue.first()):
                self._start(request, queue, tag)
                selected.append(request)
                for _, _, waiting_queue in passed:
                    waiting_queue.passed_cost += request.cost
            else:
                passed.append((tag, number, queue))
                if queue and queue.passed_cost >= self._max_passed_cost:
                    break  # nothing joins, so that the batch empties until its request fits
        for entry in passed:
            heapq.heappush(self._tags, entry)
        return selected

    def _start(self, request: Request, queue: CallerQueue, tag: float) -> None:
        """Move the first request of a caller into the batch, and let the caller pay for it with its next turn."""
        self._virtual_time = max(self._virtual_time, tag) + request.cost / self._num_waiting_callers
        queue.passed_cost = 0
        queue.remove_first()
        self._count_out(request, queue)
        self._push_tag(tag + request.cost, queue)
        self._running.add(request)

    def _count_out(self, request: Request, queue: CallerQueue) -> None:
        """A request has left its queue."""
        self._num_waiting_callers -= not queue
        self._num_waiting -= 1
        self._waiting_cost -= request.cost

    def _push_tag(self, tag: float, queue: CallerQueue) -> None:
        self._num_tags += 1  # the older entry first where tags are equal; queues themselves are never compared
        heapq.heappush(self._tags, (tag, self._num_tags, queue))

    def _note_deadline(self, request: Request) -> None:
        """Keep a lower bound of all deadlines, so that nobody looks through the requests before one can have passed."""
        if request.deadline is not None:
            self._next_deadline = min(self._next_deadline, request.deadline)
