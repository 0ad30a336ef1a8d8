"""The rows of a running batch: from tokens to logits, one row a hypothesis; which tokens win is not decided here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.transformer import KVCache, Transformer


class Rows(Protocol):
    """Hypotheses as the network sees them; what computes the logits is the implementation's business."""

    @property
    def num_rows(self) -> int:
        """Rows at this moment."""

    @property
    def device(self) -> torch.device:
        """Where logits are."""

    def append(self, sources: Sequence[Sequence[int]]) -> None:
        """Encode sources, and add a row without target positions for each, behind the others."""

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed one token to each row, and return the next token's logits (R, V) in float32, the caller's to change."""

    def select(self, rows: Sequence[int]) -> None:
        """Keep, repeat or reorder rows: new row i is old row ``rows[i]``."""


class NetworkRows:
    """Implements :class:`Rows` with the network itself and its cache; the reference for all others."""

    def __init__(self, model: Transformer) -> None:
        """Take a network in evaluation mode, on its device."""
        assert not model.training, "decoding needs model.eval(), otherwise dropout is active"
        self.device = next(model.parameters()).device
        self._model = model
        self._cache: KVCache | None = None
        self._sources: list[int] = []  # for each row, a number of its source
        self._num_sources = 0

    @property
    def num_rows(self) -> int:
        """See :class:`Rows`."""
        return len(self._sources)

    def append(self, sources: Sequence[Sequence[int]]) -> None:
        """See :class:`Rows`; sources are padded to the longest of them."""
        longest = max(map(len, sources))
        pad_id = self._model.config.pad_id
        source_ids = torch.tensor([[*ids, *[pad_id] * (longest - len(ids))] for ids in sources], device=self.device)
        lengths = torch.tensor([len(ids) for ids in sources], device=self.device)
        source_mask = torch.arange(longest, device=self.device) < lengths[:, None]  # (B, S) True = token
        with torch.inference_mode():
            cache = self._model.start_cache(self._model.encode(source_ids, source_mask), source_mask)
            if self._cache is None:
                self._cache = cache
            else:
                self._cache.extend(cache)
        self._sources += range(self._num_sources, self._num_sources + len(sources))
        self._num_sources += len(sources)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """See :class:`Rows`."""
        assert self._cache is not None
        with torch.inference_mode():
            return self._model.decode_step(torch.tensor(tokens, device=self.device), self._cache).float()

    def select(self, rows: Sequence[int]) -> None:
        """See :class:`Rows`."""
        assert self._cache is not None
        before, self._sources = self._sources, [self._sources[row] for row in rows]
        if not rows:
            self._cache = None
            return
        if list(rows) == list(range(len(before))):
            return
        indices = torch.tensor(rows, device=self.device)
        with torch.inference_mode():
            if before == self._sources:
                self._cache.select_beams(indices)
            else:
                self._cache.select_rows(indices)
