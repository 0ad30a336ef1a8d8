"""How steps get to the device: captured in CUDA graphs and repeated, or called; the one place where the two differ.

On CUDA, decoding and encoding have a stream each, so that a new source is encoded while the batch goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

MASKED_ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels that take any mask, and choose nothing at run time that a graph could not repeat."""

CAPTURING = threading.Lock()
"""Only one capture may be under way in a process."""


class Mark(Protocol):
    """A point in the device's work."""

    def is_reached(self) -> bool:
        """Whether everything before it is done."""

    def let_decoding_wait(self) -> None:
        """Let the device decode on only behind it; the caller does not wait."""


class Reading(Protocol):
    """A copy for the host, on its way."""

    def wait(self) -> Tensor:
        """Return it, when it is there."""


class Launcher(Protocol):
    """Runs the steps of one batch."""

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run a step, which may be repeated as it was at first whenever the key is the same."""

    def forget(self, owner: Hashable) -> None:
        """Forget steps whose keys, which are tuples, begin with ``owner``: their tensors are about to change place."""

    def decoding(self) -> AbstractContextManager[object]:
        """Return the context in which steps are run and their state is changed."""

    def encoding(self) -> AbstractContextManager[object]:
        """Return the context in which sources are encoded."""

    def upload(self, tensor: Tensor) -> Tensor:
        """Return a copy on the device, from the CPU."""

    def read(self, tensor: Tensor) -> Reading:
        """Begin to copy a tensor to the CPU, as it is at this point of the device's work."""

    def mark(self, *tensors: Tensor) -> Mark:
        """Mark this point of the encoding, whose results are ``tensors``."""


class DirectLauncher:
    """Implements :class:`Launcher` without streams and graphs: every step is called."""

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Call the step."""
        del key
        step()

    def forget(self, owner: Hashable) -> None:
        """Nothing was remembered."""

    def decoding(self) -> AbstractContextManager[object]:
        """Nothing to set."""
        return nullcontext()

    def encoding(self) -> AbstractContextManager[object]:
        """Nothing to set."""
        return nullcontext()

    def upload(self, tensor: Tensor) -> Tensor:
        """It is there already."""
        return tensor

    def read(self, tensor: Tensor) -> Reading:
        """Copy at once, so that it shows this point even when it is looked at later."""
        return _DoneReading(tensor.clone())

    def mark(self, *tensors: Tensor) -> Mark:
        """Everything is done."""
        del tensors
        return _DoneMark()


class _DoneReading:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def wait(self) -> Tensor:
        return self._tensor


class _DoneMark:
    def is_reached(self) -> bool:
        return True

    def let_decoding_wait(self) -> None:
        pass


class GraphLauncher:
    """Implements :class:`Launcher` with CUDA graphs.

    The first step with a key is called, which also lets libraries set themselves up; with the second, the step is
    captured; from then on the capture is replayed. All graphs share one pool of memory for what is inside a step: they
    never run at the same time, and leave nothing there for each other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._decoding: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._encoding: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        for stream in (self._decoding, self._encoding):
            stream.wait_stream(torch.cuda.current_stream(device))  # the weights may still be on their way
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Call, capture or replay the step; inside :meth:`decoding`."""
        if key not in self._graphs:
            step()
            self._graphs[key] = None
            return
        graph = self._graphs[key]
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            # Other workers' threads may use the device meanwhile, but not capture.
            capture = torch.cuda.graph(graph, self._pool, self._decoding, capture_error_mode="thread_local")
            with CAPTURING, capture:
                step()
            self._graphs[key] = graph
        graph.replay()

    def forget(self, owner: Hashable) -> None:
        """Let go of graphs, when they have run."""
        mine = [key for key in self._graphs if isinstance(key, tuple) and key[0] == owner]
        if mine:
            self._decoding.synchronize()
        for key in mine:
            del self._graphs[key]
        if not any(self._graphs.values()):
            self._pool = torch.cuda.graph_pool_handle()  # a pool that no graph uses any more must not be used again

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Use the stream of decoding."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._decoding), sdpa_kernel(MASKED_ATTENTION):
            yield

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Use the stream of encoding."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._encoding), sdpa_kernel(MASKED_ATTENTION):
            yield

    def upload(self, tensor: Tensor) -> Tensor:
        """Copy from pinned memory, so that the host does not wait."""
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def read(self, tensor: Tensor) -> Reading:
        """Copy to pinned memory, so that the host waits only when it looks."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._decoding)
        return _EventReading(host, event)

    def mark(self, *tensors: Tensor) -> Mark:
        """Record an event, and keep the tensors' memory until decoding has used them."""
        for tensor in tensors:
            tensor.record_stream(self._decoding)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._encoding)
        return _EventMark(event, self._decoding)


class _EventReading:
    def __init__(self, host: Tensor, event: torch.cuda.Event) -> None:
        self._host, self._event = host, event

    def wait(self) -> Tensor:
        self._event.synchronize()
        return self._host


class _EventMark:
    def __init__(self, event: torch.cuda.Event, decoding: torch.cuda.Stream) -> None:
        self._event, self._decoding = event, decoding

    def is_reached(self) -> bool:
        return bool(self._event.query())  # type: ignore[no-untyped-call]

    def let_decoding_wait(self) -> None:
        self._decoding.wait_event(self._event)


def new_launcher(device: torch.device) -> Launcher:
    """Return what runs steps on a device."""
    return GraphLauncher(device) if device.type == "cuda" else DirectLauncher()
