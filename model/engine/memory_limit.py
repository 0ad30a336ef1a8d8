"""How much memory this process may use: the machine's, or what its cgroups allow; it sets neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def memory_limit(root: Path = ROOT) -> int:
    """Return the bytes of memory that this process may use.

    That is the smallest of the machine's memory and the limits of the process' cgroups (memory.max of version 2,
    memory.limit_in_bytes of version 1), for each group above its own may limit it too.

    Args:
        root: where /proc and /sys/fs/cgroup are; for tests.
    """
    return min((machine_memory(), *_limits(root)))


def machine_memory() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits(root: Path) -> Iterator[int]:
    """Yield the limit of every cgroup that has one, from the process' own up to the mounted root."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # A path outside the namespace begins with /..; what is left of it is not there, and the walk goes on upwards.
        group = PurePosixPath(os.path.normpath("/" + path.lstrip("/"))).relative_to("/")
        if hierarchy == "0" and not controllers:
            yield from _numbers(mount, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _numbers(mount / "memory", group, "memory.limit_in_bytes")


def _numbers(mount: Path, group: PurePosixPath, name: str) -> Iterator[int]:
    for folder in (mount / group, *(mount / parent for parent in group.parents)):
        text = _read(folder / name).strip()
        if text.isdecimal():  # version 2 writes "max" where there is no limit, version 1 an enormous number
            yield int(text)


def _read(path: Path) -> str:
    """Return a small file's text, or nothing where it is not there or may not be read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
