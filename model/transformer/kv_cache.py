"""Keys and values that decoding reuses: of the target so far, and of the source; it computes nothing itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class KVCache:
    """Pre-allocated self-attention keys and values, and the cross-attention's, for R rows that each have own lengths.

    Rows may join at different times, so each has its own number of filled target positions. Space for target positions
    grows by doubling; between two growths a step writes in place.

    Attributes:
        lengths: (R,) filled target positions of each row.
        longest: the largest of them, known to the host.
        source_mask: (R, S) boolean, True for tokens and False for padding.
    """

    def __init__(self, cross_keys: Tensor, cross_values: Tensor, source_mask: Tensor, capacity: int = 32) -> None:
        """Start rows without target positions.

        Args:
            cross_keys: (num_layers, R, H, S, head_dim) keys of the encoder output.
            cross_values: the values, of the same shape.
            source_mask: (R, S).
            capacity: target positions to allocate.
        """
        num_layers, num_rows, num_heads, _, head_dim = cross_keys.shape
        self.cross_keys = cross_keys
        self.cross_values = cross_values
        self.source_mask = source_mask
        self.self_keys = cross_keys.new_zeros(num_layers, num_rows, num_heads, capacity, head_dim)
        self.self_values = torch.zeros_like(self.self_keys)
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=cross_keys.device)
        self.longest = 0
        self._row_index = torch.arange(num_rows, device=cross_keys.device)

    @property
    def num_rows(self) -> int:
        """R."""
        return self.self_keys.shape[1]

    @property
    def capacity(self) -> int:
        """Target positions allocated for each row."""
        return self.self_keys.shape[3]

    def reserve(self, positions: int) -> None:
        """Make room for at least ``positions`` target positions in each row."""
        if positions > self.capacity:
            self._grow(max(positions, 2 * self.capacity))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write one position of each row for one layer, and return all that the layer may attend to.

        Args:
            layer: index of the decoder layer.
            keys: (R, H, 1, head_dim).
            values: (R, H, 1, head_dim).

        Returns:
            Keys and values (R, H, longest + 1, head_dim), views of the cache.
        """
        self.self_keys[layer][self._row_index, :, self.lengths] = keys[:, :, 0]
        self.self_values[layer][self._row_index, :, self.lengths] = values[:, :, 0]
        filled = self.longest + 1
        return self.self_keys[layer, :, :, :filled], self.self_values[layer, :, :, :filled]

    def self_mask(self) -> Tensor:
        """Return (R, longest + 1): True for filled positions and the one that the current step writes."""
        positions = torch.arange(self.longest + 1, device=self.lengths.device)
        return positions[None, :] <= self.lengths[:, None]

    def advance(self) -> None:
        """Count the position that every layer has appended."""
        self.lengths = self.lengths + 1
        self.longest += 1

    def select_rows(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows: new row i is old row ``rows[i]``; (R',) indices."""
        self.select_beams(rows)
        self.cross_keys = self.cross_keys.index_select(1, rows)
        self.cross_values = self.cross_values.index_select(1, rows)
        self.source_mask = self.source_mask.index_select(0, rows)
        self._row_index = torch.arange(len(rows), device=rows.device)
        self.longest = int(self.lengths.max()) if len(rows) else 0

    def select_beams(self, rows: Tensor) -> None:
        """Reorder rows among rows of the same source, so that the cross-attention's part stays as it is; (R,)."""
        self.self_keys = self.self_keys.index_select(1, rows)
        self.self_values = self.self_values.index_select(1, rows)
        self.lengths = self.lengths.index_select(0, rows)

    def extend(self, other: KVCache) -> None:
        """Add the other cache's rows behind these; shorter sources are padded and masked."""
        capacity = max(self.capacity, other.capacity)
        self._grow(capacity)
        other._grow(capacity)
        self.self_keys = torch.cat([self.self_keys, other.self_keys], dim=1)
        self.self_values = torch.cat([self.self_values, other.self_values], dim=1)
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.longest = max(self.longest, other.longest)
        source_length = max(self.source_mask.shape[1], other.source_mask.shape[1])
        self._pad_source(source_length)
        other._pad_source(source_length)
        self.cross_keys = torch.cat([self.cross_keys, other.cross_keys], dim=1)
        self.cross_values = torch.cat([self.cross_values, other.cross_values], dim=1)
        self.source_mask = torch.cat([self.source_mask, other.source_mask])
        self._row_index = torch.arange(self.num_rows, device=self.lengths.device)

    def _grow(self, capacity: int) -> None:
        extra = capacity - self.capacity
        if extra > 0:
            self.self_keys = F.pad(self.self_keys, (0, 0, 0, extra))
            self.self_values = F.pad(self.self_values, (0, 0, 0, extra))

    def _pad_source(self, source_length: int) -> None:
        extra = source_length - self.source_mask.shape[1]
        if extra > 0:
            self.cross_keys = F.pad(self.cross_keys, (0, 0, 0, extra))
            self.cross_values = F.pad(self.cross_values, (0, 0, 0, extra))
            self.source_mask = F.pad(self.source_mask, (0, extra))
