"""A worker's batch on its device: requests in, steps, hypotheses out; it decides nothing about who runs when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from model.engine.device import is_fatal, is_out_of_memory
from model.engine.request import Request
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError

Failure = tuple[Request, Exception]
"""A request that could not be decoded, and why."""


class Batch(Protocol):
    """What the runner needs of a running batch, such as :class:`~model.generation.DecodingBatch`.

    ``step`` generates one or more tokens for every row. It returns as soon as a request is complete or ``interrupt``,
    which any thread may call, was called, and in any case after a bounded number of tokens. Several batches over the
    same weights step at the same time, each in a thread of its own.
    """

    @property
    def num_rows(self) -> int: ...

    @property
    def num_requests(self) -> int: ...

    @property
    def num_steps(self) -> int: ...

    def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None: ...

    def step(self) -> list[tuple[Request, list[Hypothesis]]]: ...

    def interrupt(self) -> None: ...

    def remove(self, key: Request) -> object: ...


class Runner:
    """Requests to batch rows and back; to be used by one thread only, except for :meth:`interrupt`.

    Args:
        new_batch: makes an empty batch; called with the first requests, and with the first after :meth:`reset`.
        num_threads: intra-op threads of torch.
        release_memory: gives the device its unused memory back.
    """

    def __init__(
        self, new_batch: Callable[[], Batch], num_threads: int = 1, release_memory: Callable[[], None] = lambda: None
    ) -> None:
        self._new_batch = new_batch
        self._num_threads = num_threads
        self.release_memory = release_memory
        self._batch: Batch | None = None
        self._requests: dict[Request, None] = {}

    @property
    def num_rows(self) -> int:
        """Rows of the batch at this moment."""
        return 0 if self._batch is None else self._batch.num_rows

    @property
    def max_rows(self) -> int:
        """Rows when all beams have fanned out, which they do with their first token."""
        return sum(request.num_rows for request in self._requests)

    @property
    def num_steps(self) -> int:
        """Decoding steps of the batch since it was made."""
        return 0 if self._batch is None else self._batch.num_steps

    @property
    def requests(self) -> list[Request]:
        """The requests in the batch."""
        return list(self._requests)

    @property
    def num_requests(self) -> int:
        """How many they are."""
        return len(self._requests)

    @contextmanager
    def own_device(self) -> Iterator[None]:
        """Make the calling thread the one that computes; the batch is dropped at the end."""
        torch.set_num_threads(self._num_threads)  # a setting of the calling thread
        try:
            with torch.inference_mode():
                yield
        finally:
            self.reset()

    def admit(self, requests: Sequence[Request]) -> list[Failure]:
        """Encode the sources and let the requests join the batch.

        Sources that cannot be encoded together are tried one by one, so that only the guilty ones fail.

        Returns:
            The requests that failed; all others are in the batch.

        Raises:
            Exception: something broke that concerns the whole batch; :meth:`reset` it.
        """
        failures: list[Failure] = []
        for group in group_by_length(requests):
            failure = self._try_to_add(group)
            if failure is not None and len(group) > 1:
                alone = ((request, self._try_to_add([request])) for request in group)
                failures += [(request, error) for request, error in alone if error is not None]
            elif failure is not None:
                failures.append((group[0], failure))
        return failures

    def step(self) -> tuple[list[tuple[Request, list[Hypothesis]]], list[Failure]]:
        """Generate one or more tokens for every row.

        Returns:
            The requests that are complete, and those that failed alone; both have left the batch.

        Raises:
            Exception: something broke that concerns the whole batch; :meth:`reset` it.
        """
        assert self._batch is not None, "a step needs requests"
        finished: list[tuple[Request, list[Hypothesis]]] = []
        failures: list[Failure] = []
        try:
            finished = self._batch.step()
        except NonFiniteLogitsError as error:
            failures = [(request, error) for request in self._requests if request in error.keys]
        for request, _ in [*finished, *failures]:
            del self._requests[request]
        return finished, failures

    def interrupt(self) -> None:
        """Let a step that is under way return before its next token; may be called from any thread."""
        batch = self._batch
        if batch is not None:
            batch.interrupt()

    def remove(self, request: Request) -> None:
        """Take a request out of the batch, if it is there."""
        if self._batch is not None and request in self._requests:
            del self._requests[request]
            self._batch.remove(request)

    def reset(self) -> None:
        """Let go of the batch, its memory and its requests."""
        self._requests.clear()
        self._batch = None

    def _try_to_add(self, requests: Sequence[Request]) -> Exception | None:
        """Let requests join; returns the error if they cannot, raises it if the batch is no longer what it was."""
        if self._batch is None:
            self._batch = self._new_batch()
        try:
            self._batch.add([(request, GenerationInput(request.source_ids, request.config)) for request in requests])
        except Exception as error:
            if is_fatal(error) or is_out_of_memory(error) or self._batch.num_requests != len(self._requests):
                raise
            return error
        self._requests.update(dict.fromkeys(requests))
        return None


def group_by_length(requests: Sequence[Request]) -> list[list[Request]]:
    """Split requests into groups, longest first, in which no source is shorter than half of the longest.

    The encoder pads a group to its longest source, and its cost grows at least linearly in that.
    """
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda each: -each.source_length):
        if groups and 2 * request.source_length >= groups[-1][0].source_length:
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups
