"""Usable cores against written-out trees of /proc and /sys/fs/cgroup, as kernels and container runtimes make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.engine import cores
from model.engine.cores import allowed_cores, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity allows eight cores."""
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)


def write(root: Path, files: dict[str, str]) -> None:
    """Write files below a root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="ascii")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8, id="no cgroups"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 8, id="no limit"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2, id="version 2"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 2, id="rounded up"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "1000 100000\n"}, 1, id="at least one"),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "9900000 100000\n"}, 8, id="affinity"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b/c\n",
                "sys/fs/cgroup/a/b/c/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "500000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/d/cpu.max": "100000 100000\n",
            },
            3,
            id="the tightest of the groups above",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/system/docker-1\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"},
            4,
            id="a container that sees its own group as the root",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"},
            4,
            id="outside the namespace",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../a\n", "sys/fs/cpu.max": "100000 100000\n", "a/cpu.max": "100000 100000\n"},
            8,
            id="never above the mount",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "7:memory:/m\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "50000\n",
                "sys/fs/cgroup/memory/m/cpu.cfs_quota_us": "1000\n",
                "sys/fs/cgroup/memory/m/cpu.cfs_period_us": "1000\n",
            },
            5,
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "120000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
            id="version 1 mounted by its first name",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "2:cpuacct:/x\n3:cpuset:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            8,
            id="other controllers with cpu in their names",
        ),
        pytest.param(
            {"proc/self/cgroup": "nonsense\n0::/a\n", "sys/fs/cgroup/a/cpu.max": "few 0\n"}, 8, id="unreadable"
        ),
        pytest.param({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "1000 0\n"}, 8, id="no period"),
    ],
)
def test_usable_cores(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    write(tmp_path, files)
    assert usable_cores(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_is_respected(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    assert allowed_cores() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert allowed_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores(tmp_path) == 8  # as the fixture says


def test_this_process_may_use_some_of_the_cores_there_are() -> None:
    assert 1 <= usable_cores() <= max(8, os.cpu_count() or 1)
