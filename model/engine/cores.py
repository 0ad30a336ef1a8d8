"""How many processor cores this process may use: affinity and cgroup limits; it sets neither."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may keep busy, at least 1.

    That is the smaller of two limits: the cores that its affinity allows, and the processor time that its cgroups
    allow (cpu.max of version 2; cpu.cfs_quota_us over cpu.cfs_period_us of version 1), rounded up to whole cores. Each
    group above its own may limit it too.

    Args:
        root: where /proc and /sys/fs/cgroup are; for tests.
    """
    limit = min(_quotas(root), default=math.inf)
    cores = allowed_cores()
    return cores if limit == math.inf else max(1, min(cores, math.ceil(limit)))


def allowed_cores() -> int:
    """Return how many cores the scheduler of the operating system may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the limit, in cores, of every cgroup that has one, from the process's own up to the root's.

    In a container without a cgroup namespace the paths name groups that cannot be seen from inside; there the walk
    ends at the mounted root, which is the container's own group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # A path outside the namespace begins with /..; what is left of it is not there, and the walk goes on upwards.
        group = PurePosixPath(os.path.normpath("/" + path.lstrip("/"))).relative_to("/")
        if hierarchy == "0" and not controllers:
            for folder in (mount / group, *_above(mount, group)):
                yield from _ratio(*_read(folder / "cpu.max").split())
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((controllers, "cpu")):
                for folder in (mount / name / group, *_above(mount / name, group)):
                    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
                    yield from _ratio(quota.strip(), period.strip())


def _above(mount: Path, group: PurePosixPath) -> list[Path]:
    return [mount / parent for parent in group.parents]


def _ratio(quota: str = "", period: str = "", *_: str) -> Iterator[float]:
    """Yield quota over period, or nothing where there is no limit: "max", -1, or no such file."""
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    """Return a small file's text, or nothing where it is not there or may not be read."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
