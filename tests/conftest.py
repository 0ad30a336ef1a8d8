"""One thread for each matrix product: the tests' networks are tiny, and several of them run at the same time."""

from __future__ import annotations

import os

# Read when torch is first imported, which is after this file.
os.environ.setdefault("OMP_NUM_THREADS", "1")
