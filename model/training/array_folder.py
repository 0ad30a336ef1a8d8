"""Named arrays in a folder, read as memory maps, written whole or not at all; what they mean is their owner's business.

Maps cost no memory of their own: all processes that read a folder share the pages that the system keeps of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_FACTS_FILE = "facts.json"


def write_arrays(folder: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Write arrays with plain facts about them; an earlier folder is replaced."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(temporary / f"{name}.npy", array, allow_pickle=False)
    shown = {"arrays": {name: len(array) for name, array in arrays.items()}, "facts": dict(facts)}
    (temporary / _FACTS_FILE).write_text(json.dumps(shown), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def read_arrays(folder: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Return what was written, the arrays mapped; None where there is nothing, or nothing that can be read."""
    try:
        shown = json.loads((folder / _FACTS_FILE).read_text(encoding="utf-8"))
        arrays = {}
        for name, length in shown["arrays"].items():
            # A file that is too short for its header is refused when it is mapped; no array of length 0 can be.
            array = np.load(folder / f"{name}.npy", mmap_mode="r" if length else None, allow_pickle=False)
            if len(array) != length:
                return None
            arrays[name] = array
        return arrays, shown["facts"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
