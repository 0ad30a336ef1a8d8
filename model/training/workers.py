"""Worker processes that map a stream of inputs, in order and with bounded read-ahead; what they compute is not theirs.

A worker is a fresh process: it inherits neither threads nor a device. It ends with the process that started it, however
that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar

Input = TypeVar("Input")
Result = TypeVar("Result")

_function: Callable[[Any], Any] | None = None
"""What this process maps with, if it is a worker."""


def mapped(
    make: Callable[..., Callable[[Input], Result]],
    arguments: tuple[Any, ...],
    inputs: Iterable[Input],
    num_workers: int,
) -> Iterator[tuple[Input, Result]]:
    """Yield each input with what ``make(*arguments)`` gives for it.

    Args:
        make: a function or class of a module, called once in every worker.
        arguments: its arguments, small ones: each worker gets a copy.
        inputs: read ahead by two for each worker.
        num_workers: processes beside this one; 0 computes here, when asked.
    """
    if not num_workers:
        function = make(*arguments)
        for each in inputs:
            yield each, function(each)
        return
    with _pool(make, arguments, num_workers) as pool:
        waiting: deque[tuple[Input, Future[Result]]] = deque()
        for each in inputs:
            waiting.append((each, pool.submit(_call, each)))
            if len(waiting) > 2 * num_workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


@contextlib.contextmanager
def _pool(make: Callable[..., Any], arguments: tuple[Any, ...], num_workers: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), _start, (make, arguments))
    try:
        yield pool
    finally:
        # What was read ahead is not wanted any more, but the processes must be gone when this returns.
        pool.shutdown(wait=True, cancel_futures=True)


def _start(make: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    """Prepare a worker."""
    global _function
    # Terminals and supervisors signal all processes of a group; the main one decides what becomes of it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _function = make(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(each: Any) -> Any:
    assert _function is not None
    return _function(each)
