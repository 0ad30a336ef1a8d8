"""A function for worker processes of tests, in a file of its own so that they need not import torch."""

from __future__ import annotations

import os


class Halved:
    """Returns the half of even numbers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, number: int) -> tuple[str, int, int]:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return self.name, number // 2, os.getpid()
