"""What decoding remembers of all slots, in tensors of fixed size on the device; it does not know who runs in which.

Every tensor begins with the slots, so that slots can be moved, and a step for the first N slots is one on views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.graphs.network import GraphNetwork

FREE, RUNNING, FINISHED, BROKEN = 0, 1, 2, 3
"""States of a slot; BROKEN means that the network computed no finite numbers."""
STATUS, LENGTH, NUM_ENDED = 0, 1, 2
"""What ``progress`` holds: one of the states, tokens that each beam has, and how many hypotheses have ended."""
LIMIT, WANTED, NUM_BEST, BOUND = 0, 1, 2, 3
"""What ``settings`` holds: most tokens of a hypothesis; ended hypotheses with which the search is over; how many are
returned; and the length at which a live hypothesis could have its best score, 0 for the next one."""
LOOKAHEAD = 3
"""Lengths beyond C - 1 whose powers are looked up: C, the next one, and in slots that have finished one more."""
NUMBERS = 5
"""Numbers of a record: three integers and the bits of two float32, see ``model.generation.records``."""


class Size(NamedTuple):
    """How large a state, or the part of it that a step looks at, is."""

    slots: int
    columns: int
    source: int


@dataclass(frozen=True)
class SlotState:
    """N slots of K beams and C columns, for sources of up to S tokens.

    Behind the C columns is a spare one, into which slots write that do not run. All memory is zero at first, because
    what is masked is still multiplied by 0, and must be finite.
    """

    size: Size
    num_beams: int
    caches: tuple[Tensor, ...]
    """For each layer (N, entries, 2, H, head_dim): beam k's key and value of column c are entry ``c * K + k``."""
    cross: Tensor
    """(N, S, layers, 2, H, head_dim)."""
    cross_mask: Tensor
    """(N, S): 0 for tokens of the source, minus infinity for others."""
    ancestry: Tensor
    """(N, K, entries): 0 for the entries that a beam descends from, minus infinity for all others."""
    tokens: Tensor
    """(N, K) each beam's newest token."""
    totals: Tensor
    """(N, K) float64: each beam's summed log-probability, falling; minus infinity where there is no beam."""
    best_scores: Tensor
    """(N, K) float64: the greatest scores of what has ended, falling; minus infinity where there are fewer."""
    progress: Tensor
    """(N, 3): STATUS, LENGTH, NUM_ENDED."""
    settings: Tensor
    """(N, 4): LIMIT, WANTED, NUM_BEST, BOUND."""
    powers: Tensor
    """(N, C + LOOKAHEAD) float64: each length to the power of the length penalty."""
    records: Tensor
    """(N, C + 1, K, NUMBERS) int32."""
    beams: Tensor
    """(K,) 0, 1, ... K - 1."""
    first_entries: Tensor
    """(N, K) each beam's entry of column 0, counted over all slots."""
    first_records: Tensor
    """(N,) each slot's record of column 0, counted over all slots."""

    @classmethod
    def allocate(cls, network: GraphNetwork, num_beams: int, size: Size) -> SlotState:
        """Return free slots."""
        config, device = network.config, network.device
        heads = (config.num_heads, config.width_per_head)
        # Filled up to eight entries, so that rows of the mask begin where the attention's kernels like it.
        entries = size.columns * num_beams + -(-num_beams // 8) * 8

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        beams, slots = torch.arange(num_beams, device=device), torch.arange(size.slots, device=device)
        layers = config.num_decoder_layers
        return cls(
            size,
            num_beams,
            caches=tuple(zeros(size.slots, entries, 2, *heads, dtype=network.dtype) for _ in range(layers)),
            cross=zeros(size.slots, size.source, layers, 2, *heads, dtype=network.dtype),
            cross_mask=zeros(size.slots, size.source, dtype=network.dtype),
            ancestry=zeros(size.slots, num_beams, entries, dtype=network.dtype),
            tokens=zeros(size.slots, num_beams),
            totals=zeros(size.slots, num_beams, dtype=torch.float64),
            best_scores=zeros(size.slots, num_beams, dtype=torch.float64),
            progress=zeros(size.slots, 3),
            settings=zeros(size.slots, 4),
            powers=zeros(size.slots, size.columns + LOOKAHEAD, dtype=torch.float64) + 1.0,
            records=zeros(size.slots, size.columns + 1, num_beams, NUMBERS, dtype=torch.int32),
            beams=beams,
            first_entries=slots[:, None] * entries + beams,
            first_records=slots * (size.columns + 1),
        )

    def grow(self, network: GraphNetwork, size: Size) -> SlotState:
        """Return a larger state with the same slots in it."""
        grown = SlotState.allocate(network, self.num_beams, size)
        grown.ancestry[: self.size.slots] = -math.inf
        grown.cross_mask[: self.size.slots] = -math.inf
        for (old, axis, extent), (new, _, _) in zip(self._parts(), grown._parts(), strict=True):
            new.narrow(0, 0, self.size.slots).narrow(axis, 0, extent).copy_(old.narrow(axis, 0, extent))
        return grown

    def occupy(self, slots: Tensor, settings: Tensor, powers: Tensor, cross: Tensor, cross_mask: Tensor) -> None:
        """Let J sources run in free slots (J,) from the start; beam 0 is the only one at first.

        Args:
            slots: (J,).
            settings: (J, 4) as in the state.
            powers: (J, C + LOOKAHEAD).
            cross: (J, up to S, layers, 2, H, head_dim).
            cross_mask: (J, as many).
        """
        length = cross.shape[1]
        self.cross.narrow(1, 0, length).index_copy_(0, slots, cross)
        self.cross_mask.index_fill_(0, slots, -math.inf).narrow(1, 0, length).index_copy_(0, slots, cross_mask)
        self.ancestry.index_fill_(0, slots, -math.inf)
        self.totals.index_fill_(0, slots, -math.inf).narrow(1, 0, 1).index_fill_(0, slots, 0.0)
        self.best_scores.index_fill_(0, slots, -math.inf)
        self.progress.index_fill_(0, slots, 0).narrow(1, STATUS, 1).index_fill_(0, slots, RUNNING)
        self.settings.index_copy_(0, slots, settings)
        self.powers.index_copy_(0, slots, powers)

    def free(self, slots: Tensor) -> None:
        """Let slots (J,) run no more."""
        self.progress.index_fill_(0, slots, FREE)

    def wipe(self, slots: Tensor) -> None:
        """Take numbers that are not finite out of slots (J,)."""
        for tensor in (*self.caches, self.cross):
            tensor.index_fill_(0, slots, 0.0)

    def move(self, slots: Tensor, places: Tensor) -> None:
        """Let what runs in ``slots`` (J,) go on in the free slots ``places`` (J,)."""
        for tensor, _, _ in self._parts():
            tensor.index_copy_(0, places, tensor.index_select(0, slots))
        self.free(slots)

    def _parts(self) -> list[tuple[Tensor, int, int]]:
        """Return the slots' tensors, with the axis along which each may grow and its extent, spare column left out."""
        size, beams = self.size, self.num_beams
        growing = [(cache, 1, size.columns * beams) for cache in self.caches]
        growing += [(self.cross, 1, size.source), (self.cross_mask, 1, size.source)]
        growing += [(self.ancestry, 2, size.columns * beams), (self.records, 1, size.columns)]
        growing.append((self.powers, 1, size.columns + LOOKAHEAD))
        fixed = (self.tokens, self.totals, self.best_scores, self.progress, self.settings)
        return growing + [(tensor, 1, tensor.shape[1]) for tensor in fixed]
