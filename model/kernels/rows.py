"""Rows of a running batch over compiled loops: logits for searches that run in Python; it searches nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.kernels.network import ROW, decode, encode, new_workspace
from model.kernels.packing import PackedNetwork, padded_width

CAPACITY = 32
"""Target positions that a row has memory for at first; doubled when they are filled."""


@dataclass(eq=False)
class _Row:
    """One hypothesis; its source's part may be shared with others."""

    source_length: int
    cross: NDArray[np.float32]
    keys_values: NDArray[np.float32]
    """(layers, 2, H, capacity, 1, head_dim)."""
    position: int = 0


class KernelRows:
    """Implements the ``Rows`` of :class:`~model.generation.DecodingBatch`."""

    def __init__(self, network: PackedNetwork) -> None:
        self._network = network
        self._config = network.config
        self._rows: list[_Row] = []
        self._work = new_workspace(network.config, 1)
        self._ancestry = np.zeros((1, network.config.max_target_length), np.int32)  # a row descends from itself

    @property
    def num_rows(self) -> int:
        """Rows at this moment."""
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where logits are."""
        return torch.device("cpu")

    def append(self, sources: Sequence[Sequence[int]]) -> None:
        """Encode sources, and add a row without target positions for each."""
        layers, heads = self._config.num_decoder_layers, self._config.num_heads
        dim = self._config.width_per_head
        for source in sources:
            cross = np.empty((layers, 2, heads, len(source), dim), np.float32)
            self._reserve(len(source))
            encode(
                self._network.weights,
                self._work,
                np.array(source, np.int64),
                np.array([len(source)], np.int64),
                np.array([cross.ctypes.data], np.int64),
            )
            keys_values = np.empty((layers, 2, heads, CAPACITY, 1, dim), np.float32)
            self._rows.append(_Row(len(source), cross, keys_values))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each row, and return the next token's logits (R, V) in float32."""
        self._reserve(len(tokens))
        records = np.zeros(len(tokens), ROW)
        for index, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            if row.position == row.keys_values.shape[3]:
                row.keys_values = np.concatenate([row.keys_values, np.empty_like(row.keys_values)], axis=3)
            addresses = (row.keys_values.ctypes.data, row.cross.ctypes.data, self._ancestry.ctypes.data)
            limit = row.keys_values.shape[3]
            records[index] = (token, row.position, 0, 1, limit, row.source_length, *addresses)
            row.position += 1
        logits = np.empty((len(tokens), padded_width(self._config.vocab_size)), np.float32)
        decode(self._network.weights, self._work, records, len(records), logits)
        return torch.from_numpy(logits)[:, : self._config.vocab_size]

    def select(self, rows: Sequence[int]) -> None:
        """Keep, repeat or reorder rows: new row i is old row ``rows[i]``."""
        taken: set[int] = set()
        selected: list[_Row] = []
        for index in rows:
            row = self._rows[index]
            if index in taken:
                row = _Row(row.source_length, row.cross, row.keys_values.copy(), row.position)
            taken.add(index)
            selected.append(row)
        self._rows = selected

    def _reserve(self, num_rows: int) -> None:
        if num_rows > len(self._work.states):
            self._work = new_workspace(self._config, 2 * num_rows)
