"""Which waiting requests run next, and on which worker, under a token budget; no torch, no threads, no clock.

Callers take turns, so that each gets the same share of the device. One caller's requests go in chunks by arrival, and
in a chunk by length: longest with longest, so that padding is small. A caller whose request does not fit is passed by
others, but only for so long: then one worker takes nothing else. So every request runs after a bounded amount of other
work. Each request goes to the worker that has the least to do among those with room for it: an idle one first, a burst
is spread evenly, and the end of a long list too.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
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
REFILLED_BELOW = 0.5
"""Part of its budget below which a batch that was full takes new requests again.

Encoding drives the decoder's weights and the rows' keys and values out of the processor's cache, and steps are slow
until they are back: to refill one row at a time costs a fifth of the throughput.
"""
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
        self.reserved_worker: int | None = None
        """The worker that empties its batch for this caller's first request, once enough has passed it."""
        self.chunk_cost = chunk_cost
        """The next chunk is complete when it costs so much."""
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

    def put_back(self, requests: Sequence[Request]) -> None:
        """Let requests that were taken out go next again, the first of them first."""
        self._chunk.extend(reversed(requests))

    def _take_chunk(self) -> None:
        cost = 0
        while self._row and cost < self.chunk_cost:
            request, _ = self._row.popitem(last=False)
            self._chunk.append(request)
            cost += request.cost
        self._falling = not self._falling
        self._chunk.reverse()  # among equals, the first to come is the first to go
        self._chunk.sort(key=lambda each: (each.source_length, each.reserved_tokens), reverse=not self._falling)


class RunningBatch:
    """The requests in one worker's batch, and what they use of its budget.

    The sources of all rows are padded to the longest of them; target positions are reserved for each row on its own.
    """

    def __init__(self) -> None:
        self._requests: dict[Request, None] = {}
        self._num_rows = 0
        self._reserved_tokens = 0
        self._longest_source: int | None = 0  # None: to be found anew
        self._draining = False

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    @property
    def num_tokens(self) -> int:
        """Positions in use, padding and reservations included."""
        return self._num_rows * self._padded_source() + self._reserved_tokens

    def fits(self, request: Request, max_batch_tokens: int) -> bool:
        """Whether the budget allows the request; it does for any request if nothing else runs.

        A batch that was too full for a request takes none until it is half empty: then several are encoded together.
        """
        if not self._requests:
            self._draining = False
            return True
        if self._draining and self.num_tokens > REFILLED_BELOW * max_batch_tokens:
            return False
        num_rows = self._num_rows + request.num_rows
        reserved_tokens = self._reserved_tokens + request.num_rows * request.reserved_tokens
        padded_source = max(self._padded_source(), request.source_length)
        if num_rows * padded_source + reserved_tokens <= max_batch_tokens:
            self._draining = False
            return True
        # One that would not fit then either is no reason: others pass it.
        self._draining = request.cost <= (1 - REFILLED_BELOW) * max_batch_tokens
        return False

    def add(self, request: Request) -> None:
        """Let a request run."""
        self._longest_source = max(self._padded_source(), request.source_length)
        self._requests[request] = None
        self._num_rows += request.num_rows
        self._reserved_tokens += request.num_rows * request.reserved_tokens

    def remove(self, request: Request) -> None:
        """Take out a request that is here."""
        del self._requests[request]
        self._num_rows -= request.num_rows
        self._reserved_tokens -= request.num_rows * request.reserved_tokens
        if request.source_length == self._longest_source:
            self._longest_source = None

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
        max_batch_tokens: budget of each worker's batch: the sum over its rows of the source, padded to the longest in
            the batch, and the reserved target positions. A request above the whole budget runs alone.
        num_workers: batches that run side by side.
    """

    def __init__(self, max_batch_tokens: int, num_workers: int = 1) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._batches = [RunningBatch() for _ in range(num_workers)]
        self._workers: dict[Request, int] = {}  # of the requests that run
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
        return self._num_waiting + self.num_running

    @property
    def num_workers(self) -> int:
        """Batches that run side by side."""
        return len(self._batches)

    @property
    def max_batch_tokens(self) -> int:
        """Budget of each worker's batch."""
        return self._max_batch_tokens

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
        """Requests in the batches."""
        return len(self._workers)

    @property
    def next_deadline(self) -> float:
        """A time before which no deadline passes; infinity if there is none."""
        return self._next_deadline

    def running_tokens(self, worker: int = 0) -> int:
        """Return the part of a worker's budget that is used."""
        return self._batches[worker].num_tokens

    def running_requests(self, worker: int = 0) -> list[Request]:
        """Return the requests in a worker's batch."""
        return list(self._batches[worker])

    def is_busy(self, worker: int) -> bool:
        """Say whether there is a request in a worker's batch."""
        return len(self._batches[worker]) > 0

    def worker_of(self, request: Request) -> int | None:
        """Return the worker that runs a request, None for one that does not run."""
        return self._workers.get(request)

    def requests(self) -> list[Request]:
        """Return every request, running ones first."""
        return [*self._workers, *(request for queue in self._callers.values() for request in queue)]

    def add(self, request: Request) -> None:
        """Let a request wait."""
        queue = self._queue_of(request)
        self._count_in([request], queue)
        queue.add(request)
        self._note_deadline(request)

    def remove(self, request: Request) -> bool:
        """Forget a request, waiting or running: it ended. False if it is not here."""
        worker = self._workers.pop(request, None)
        if worker is not None:
            self._batches[worker].remove(request)
        else:
            queue = self._callers.get(request.caller)
            if queue is None or not queue.remove(request):
                return False
            self._count_out(request, queue)
        self._changed = True
        return True

    def expire(self, now: float) -> list[tuple[Request, int | None]]:
        """Remove the requests whose deadline is at or before ``now`` (seconds of the engine's clock).

        Returns:
            Each of them with the worker that ran it, None for those that waited.
        """
        if now < self._next_deadline:
            return []
        expired = [each for each in self.requests() if each.deadline is not None and each.deadline <= now]
        workers = [self.worker_of(request) for request in expired]
        for request in expired:
            self.remove(request)
        self._next_deadline = math.inf
        for request in self.requests():
            self._note_deadline(request)
        return list(zip(expired, workers, strict=True))

    def select(self) -> list[tuple[Request, int]]:
        """Move the waiting requests that run next into batches.

        Returns:
            Each of them with its worker. No batch stays empty while a request waits.
        """
        if not self._changed:
            return []  # the last answer still holds: nothing more fits
        self._changed = False
        selected: list[tuple[Request, int]] = []
        passed: list[tuple[float, int, CallerQueue]] = []
        reserved: set[int] = set()  # workers that take nothing more in this selection
        while self._tags and len(passed) < MAX_PASSED_CALLERS and len(reserved) < len(self._batches):
            tag, number, queue = heapq.heappop(self._tags)
            if not queue and not passed:
                # Only now is it forgotten that this caller had its share: all other tags have reached its own.
                self._virtual_time = max(self._virtual_time, tag)
                del self._callers[queue.caller]
                continue
            worker = self._worker_for(queue.first(), reserved) if queue else None
            if worker is not None:
                selected.append((self._start(queue, tag, worker), worker))
                for _, _, waiting_queue in passed:
                    waiting_queue.passed_cost += selected[-1][0].cost
            else:
                passed.append((tag, number, queue))
                if queue and queue.passed_cost >= self._max_passed_cost:
                    reserved.add(self._reserve(queue, reserved))
        for entry in passed:
            heapq.heappush(self._tags, entry)
        return selected

    def requeue(self, worker: int) -> list[Request]:
        """Let all requests of a worker's batch wait again, and return them.

        They are the next of their callers, in the order in which they had started, and their callers get back the turns
        that they paid for them.
        """
        batch = self._batches[worker]
        requests = list(batch)
        by_queue: dict[CallerQueue, list[Request]] = {}
        for request in requests:
            batch.remove(request)
            del self._workers[request]
            by_queue.setdefault(self._queue_of(request), []).append(request)
        refunds: dict[CallerQueue, int] = {}
        for queue, own in by_queue.items():
            self._count_in(own, queue)
            queue.put_back(own)
            refunds[queue] = sum(request.cost for request in own)
        # The virtual time stays: for those who come new in between, it is as if these requests had run.
        self._tags = [(tag - refunds.get(queue, 0), number, queue) for tag, number, queue in self._tags]
        heapq.heapify(self._tags)
        return requests

    def halve_budget(self, worker: int) -> bool:
        """Halve the budget of all workers, because the batch of this one was too much for the device.

        It stays large enough for the largest request of that batch. A batch that is larger than the budget, because it
        was put together before another worker halved it, is no reason to halve it again.

        Returns:
            Whether the budget changed.
        """
        batch, before = self._batches[worker], self._max_batch_tokens
        if len(batch) > 1 and batch.num_tokens <= before:
            self._max_batch_tokens = max(before // 2, *(request.cost for request in batch))
            for queue in self._callers.values():
                queue.chunk_cost = self._chunk_cost
        return self._max_batch_tokens < before

    @property
    def _chunk_cost(self) -> float:
        return CHUNK_BATCHES * self._max_batch_tokens

    @property
    def _max_passed_cost(self) -> float:
        return PASSING_BATCHES * self._max_batch_tokens * len(self._batches)

    def _worker_for(self, request: Request, reserved: set[int]) -> int | None:
        """Return the worker with the least to do among those that have room, None if there is none."""
        free = [
            (batch.num_tokens, worker)
            for worker, batch in enumerate(self._batches)
            if worker not in reserved and batch.fits(request, self._max_batch_tokens)
        ]
        return min(free)[1] if free else None

    def _reserve(self, queue: CallerQueue, reserved: set[int]) -> int:
        """Return the worker that takes nothing else before the first request of this caller: it empties the soonest."""
        if queue.reserved_worker is None or queue.reserved_worker in reserved:
            free = [worker for worker in range(len(self._batches)) if worker not in reserved]
            queue.reserved_worker = min(free, key=lambda worker: self._batches[worker].num_tokens)
        return queue.reserved_worker

    def _start(self, queue: CallerQueue, tag: float, worker: int) -> Request:
        """Move the first request of a caller into a batch, and let the caller pay for it with its next turn."""
        request = queue.first()
        self._virtual_time = max(self._virtual_time, tag) + request.cost / self._num_waiting_callers
        queue.passed_cost = 0
        queue.reserved_worker = None
        queue.remove_first()
        self._count_out(request, queue)
        self._push_tag(tag + request.cost, queue)
        self._batches[worker].add(request)
        self._workers[request] = worker
        return request

    def _queue_of(self, request: Request) -> CallerQueue:
        """Return the queue of the request's caller, a new one with its own tag where there is none."""
        queue = self._callers.get(request.caller)
        if queue is None:
            queue = CallerQueue(request.caller, self._chunk_cost)
            self._callers[request.caller] = queue
            self._push_tag(self._virtual_time, queue)
        return queue

    def _count_in(self, requests: Sequence[Request], queue: CallerQueue) -> None:
        """Requests are about to enter a queue."""
        self._num_waiting_callers += not queue
        self._num_waiting += len(requests)
        self._waiting_cost += sum(request.cost for request in requests)
        self._changed = True

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
