"""The running batch on its device: requests in, one step, hypotheses out; it decides nothing about who runs when."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch

from model.config import EngineConfig
from model.engine.request import Request
from model.errors import ConfigurationError
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError

if TYPE_CHECKING:
    from model.transformer import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Failure = tuple[Request, Exception]
"""A request that could not be decoded, and why."""


class Batch(Protocol):
    """What the runner needs of :class:`~model.generation.DecodingBatch`, where it is described."""

    @property
    def num_rows(self) -> int: ...

    @property
    def num_requests(self) -> int: ...

    def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None: ...

    def step(self) -> list[tuple[Request, list[Hypothesis]]]: ...

    def remove(self, key: Request) -> object: ...


class Runner:
    """Requests to batch rows and back; to be used by one thread only.

    Args:
        new_batch: makes an empty batch; called with the first requests, and with the first after :meth:`reset`.
        num_threads: intra-op threads of torch; 0 means as many as this process may use cores.
    """

    def __init__(self, new_batch: Callable[[], Batch], num_threads: int = 0) -> None:
        self._new_batch = new_batch
        self._num_threads = num_threads
        self._batch: Batch | None = None
        self._requests: dict[Request, None] = {}

    @property
    def num_rows(self) -> int:
        """Rows of the batch at this moment."""
        return 0 if self._batch is None else self._batch.num_rows

    @property
    def num_requests(self) -> int:
        """Requests in the batch."""
        return len(self._requests)

    @contextmanager
    def own_device(self) -> Iterator[None]:
        """Make the calling thread the one that computes; the batch is dropped at the end."""
        torch.set_num_threads(self._num_threads or usable_cores())  # a setting of the calling thread
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
        """Generate one token for every row.

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
            if is_fatal(error) or self._batch.num_requests != len(self._requests):
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


def is_fatal(error: BaseException) -> bool:
    """Whether the device is lost with this error: a CUDA context is unusable after any but an out-of-memory error."""
    return isinstance(error, torch.AcceleratorError)


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select_device(name: str) -> torch.device:
    """Return the device of an :class:`~model.config.EngineConfig`: ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigurationError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError("device", "must be auto, cpu, cuda or cuda:N", name) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError("device", "must be auto, cpu, cuda or cuda:N", name)
    num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
    if num_devices == 0 or (device.index or 0) >= num_devices:
        raise ConfigurationError("device", f"must be there; this machine has {num_devices} CUDA devices", name)
    return device


def place(model: Transformer, config: EngineConfig) -> Transformer:
    """Move a model, in place, to the device and number format of ``config``, ready for decoding.

    Raises:
        ConfigurationError: the device does not exist.
    """
    return model.to(device=select_device(config.device), dtype=DTYPES[config.dtype]).eval()
