"""The circumstances that make a measured number comparable: machine, versions, threads; it measures nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("dragoman", "torch", "numpy", "sentencepiece")
"""Packages whose version changes speed or results."""


def circumstances() -> dict[str, str]:
    """Return what to print beside a measurement, in the order to print it; imports torch."""
    import torch

    from model.engine.cores import usable_cores

    found = {
        "machine": f"{processor_name()}, {usable_cores()} usable cores, {memory_gib():.0f} GiB memory",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS),
        "threads": f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} between operations",
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        found["accelerator"] = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return found


def processor_name() -> str:
    """Return the processor's name as the system gives it, or its architecture where it gives none."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Return the machine's memory in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def version(distribution: str) -> str:
    """Return an installed distribution's version, or "not installed"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
