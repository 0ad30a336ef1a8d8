"""How the loops of this room are compiled, and where their machine code is kept from run to run."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import njit, types

from model.generation import records

FUSED = frozenset({"contract", "nsz"})
"""Products may be fused into sums, but nothing is reordered."""
SUMS = FUSED | {"reassoc"}
"""Sums may be taken in vector lanes and products fused into them; infinities and NaN keep their meaning."""
ORDERED = SUMS | {"nnan"}
"""Where NaN cannot matter, such as finding a maximum that is checked later."""

_logger = logging.getLogger(__name__)
_entries: list[Any] = []


def compiled(fast: frozenset[str] = frozenset()) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: machine code for this processor, made when the function is first called.

    Args:
        fast: liberties with floating point numbers, such as SUMS.
    """
    return njit(error_model="numpy", fastmath=set(fast))  # numpy's: divisions give infinity, so loops have no branches


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that the interpreter calls: without its lock, kept on disk by :func:`keep_machine_code`."""
    dispatcher = njit(error_model="numpy", nogil=True)(function)
    _entries.append(dispatcher)
    return dispatcher


def address_of(function: Callable[..., None], num_arguments: int) -> int:
    """Compile a function of 64-bit integers that returns nothing, and return its address."""
    signature = types.void(*[types.int64] * num_arguments)
    directory = cache_directory()
    with _numba_cache(directory):
        address = numba.cfunc(signature, cache=directory is not None)(function).address
    assert address is not None, "numba compiles a function that has a signature at once"
    return address


@functools.cache
def keep_machine_code() -> None:
    """Let entries be loaded from disk, and written there once they are compiled, which takes many seconds."""
    directory = cache_directory()
    if directory is None:
        return
    with _numba_cache(directory):
        for dispatcher in _entries:
            dispatcher.enable_caching()


@functools.cache
def cache_directory() -> Path | None:
    """Return the folder of the machine code, or None, with a warning, where it cannot be written.

    It lies below NUMBA_CACHE_DIR, XDG_CACHE_HOME or ~/.cache. Its name has a digest of the sources and of the
    compiler's version, because numba itself looks for changes only in the file of each entry.
    """
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in (*sorted(Path(__file__).parent.glob("*.py")), Path(records.__file__)):
        digest.update(source.read_bytes())
    directory = Path(base).expanduser() / "dragoman" / f"kernels-{digest.hexdigest()[:16]}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        _logger.warning("cannot write %s, so the decoder is compiled at every start", directory)
        return None
    return directory


@contextmanager
def _numba_cache(directory: Path | None) -> Iterator[None]:
    """Let functions that get a cache meanwhile have it in ``directory``."""
    before = getattr(numba.config, "CACHE_DIR")  # noqa: B009 - set by numba when it is imported, unknown to its types
    if directory is not None:
        setattr(numba.config, "CACHE_DIR", str(directory))  # noqa: B010
    try:
        yield
    finally:
        setattr(numba.config, "CACHE_DIR", before)  # noqa: B010
