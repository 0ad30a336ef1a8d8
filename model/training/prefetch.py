"""Batches put on the device ahead of the step that needs them; what is in them is not this file's business."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

import torch

from model.training.batching import Batch, BatchArrays, Position

Item = TypeVar("Item")
_DEPTH = 3
"""Steps that wait on the device."""


def on_device(
    steps: Iterable[tuple[list[BatchArrays], Position]], device: torch.device
) -> Generator[tuple[list[Batch], Position], None, None]:
    """Yield each step's batches on the device.

    On CUDA another thread makes and copies them ahead, out of pinned memory and on a stream of its own, so that a step
    waits for nothing; on the CPU they are made when they are asked for.
    """
    if device.type != "cuda":
        for arrays, position in steps:
            yield [each.batch() for each in arrays], position
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copied() -> Iterator[tuple[list[Batch], Position, torch.cuda.Event]]:
        for arrays, position in steps:
            with torch.cuda.stream(stream):
                batches = [each.batch().map(torch.Tensor.pin_memory).to(device) for each in arrays]
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(stream)
            yield batches, position, event

    with contextlib.closing(Ahead(copied(), _DEPTH)) as ahead:
        for batches, position, event in ahead:
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            for batch in batches:
                for tensor in batch.tensors:
                    if tensor is not None:
                        tensor.record_stream(current)  # its memory is not reused before the step is through with it
            yield batches, position


class Ahead(Generic[Item]):
    """An iterator that a thread of its own runs ahead of its reader by up to ``depth`` items."""

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self._items = items
        self._ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dragoman-prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in order; an error of theirs is raised in its place."""
        while True:
            found = self._ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found[0]

    def close(self) -> None:
        """End the thread, and the iterator in it."""
        self._closed.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.05)  # a thread that waits for room finds it, and sees the end
        self._thread.join()

    def _run(self) -> None:
        try:
            for item in self._items:
                self._ready.put((item,))
                if self._closed.is_set():
                    break
            end: BaseException | None = None
        except BaseException as error:
            end = error
        finally:
            if hasattr(self._items, "close"):
                self._items.close()
        self._ready.put(end)
