"""The slots of one beam width: requests take free ones, are moved together as others leave, and are read at their end.

Host-side bookkeeping around ``state.py`` and ``search.py``. It knows how long every slot is without asking the device,
because running slots grow by one token a step.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from model.config import ModelConfig
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.records import num_wanted, read_hypotheses
from model.graphs.graphs import Launcher, Reading
from model.graphs.network import GraphNetwork
from model.graphs.search import GraphSearch
from model.graphs.state import BROKEN, FINISHED, LENGTH, LOOKAHEAD, STATUS, Size, SlotState

Key = TypeVar("Key", bound=Hashable)
LEAST_LENGTH = 32
"""The smallest bucket of columns and source positions; the next ones are twice as large each."""

LEAST_SLOTS = 8
"""Slots that a lane has at first; a step for fewer is computed for fewer."""


def bucket(number: int, least: int = 1, most: int | None = None) -> int:
    """Return the bucket for ``number``: the smallest of ``least``, twice that, and so on, but not above ``most``."""
    size = least
    while size < number:
        size *= 2
    return size if most is None else min(size, most)


def greatest_bucket(length: int) -> int:
    """Return the last bucket of lengths, which need not hold more than ``length``."""
    return -(-length // LEAST_LENGTH) * LEAST_LENGTH


@dataclass(eq=False)
class _Occupant(Generic[Key]):
    """One request in a slot."""

    key: Key
    item: GenerationInput
    joined_at: int
    """Steps that the lane had taken."""


class Lane(Generic[Key]):
    """Requests with the same beam size; everything is called in the launcher's decoding context."""

    def __init__(self, network: GraphNetwork, search: GraphSearch, launcher: Launcher, num_beams: int) -> None:
        self._network, self._search, self._launcher = network, search, launcher
        self._num_beams = num_beams
        self._state = SlotState.allocate(network, num_beams, Size(LEAST_SLOTS, LEAST_LENGTH, LEAST_LENGTH))
        self._occupants: dict[int, _Occupant[Key]] = {}
        self._slots: dict[Key, int] = {}
        self._num_steps = 0
        self._needed = Size(0, 0, 0)
        self._oldest = 0
        self._readings: list[Reading] = []

    @property
    def num_requests(self) -> int:
        """Requests in slots."""
        return len(self._occupants)

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def join(self, items: Sequence[tuple[Key, GenerationInput]], cross: Tensor, cross_mask: Tensor) -> None:
        """Let requests take free slots.

        Args:
            items: J of them, each with this lane's beam size.
            cross: (J, S, layers, 2, H, head_dim) as :meth:`GraphNetwork.encode` returns it; S may be that of longer
                sources which were encoded with them.
            cross_mask: (J, S).
        """
        self._reserve(items)
        free = [slot for slot in range(self._state.size.slots) if slot not in self._occupants][: len(items)]
        columns, width = self._state.size.columns, min(cross.shape[1], self._state.size.source)
        cross, cross_mask = cross.narrow(1, 0, width), cross_mask.narrow(1, 0, width)
        settings = torch.tensor([_settings(item, self._network.config) for _, item in items])
        powers = torch.stack([_powers(item.config.length_penalty, columns + LOOKAHEAD) for _, item in items])
        upload = self._launcher.upload
        self._state.occupy(self._indices(free), upload(settings), upload(powers), cross, cross_mask)
        self._state.tokens.index_fill_(0, self._indices(free), self._network.config.decoder_start_id)
        for slot, (key, item) in zip(free, items, strict=True):
            self._occupants[slot] = _Occupant(key, item, self._num_steps)
            self._slots[key] = slot
        self._measure()

    def launch(self) -> None:
        """Start one step for all slots, without waiting for it."""
        if bucket(len(self._occupants)) < bucket(self._needed.slots):
            self._move_together()
        size = self._state.size
        step_size = Size(
            bucket(self._needed.slots),
            bucket(self._num_steps - self._oldest + 1, LEAST_LENGTH, size.columns),
            bucket(self._needed.source, LEAST_LENGTH, size.source),
        )
        state, search = self._state, self._search
        self._launcher.run((self._num_beams, step_size), lambda: search.step(state, step_size))
        self._num_steps += 1
        progress = state.progress.narrow(0, 0, step_size.slots)
        self._readings = [*self._readings[-1:], self._launcher.read(progress)]

    def saw_an_end(self) -> bool:
        """Whether a request had finished with the step before the latest; the device goes on with the latest."""
        return len(self._readings) > 1 and bool((self._readings[0].wait()[:, STATUS] >= FINISHED).any())

    def collect(self) -> tuple[list[tuple[Key, list[Hypothesis]]], list[Key]]:
        """Wait for the latest step, and let the requests leave that finished, or for which the network broke.

        Returns:
            The finished ones with their hypotheses, and the others.
        """
        if not self._readings:
            return [], []
        progress = self._readings[-1].wait().tolist()
        self._readings = []
        done = [slot for slot in self._occupants if progress[slot][STATUS] >= FINISHED]
        broken = [slot for slot in done if progress[slot][STATUS] == BROKEN]
        finished = [slot for slot in done if progress[slot][STATUS] == FINISHED]
        results: list[tuple[Key, list[Hypothesis]]] = []
        if finished:
            lengths = [progress[slot][LENGTH] for slot in finished]
            results = self._read(finished, lengths)
        failed = [self._occupants[slot].key for slot in broken]
        if broken:
            self._state.wipe(self._indices(broken))
        if done:
            self._free(done)
        return results, failed

    def remove(self, key: Key) -> None:
        """Let a request, which is here, leave without a result."""
        self._free([self._slots[key]])

    def _read(self, slots: Sequence[int], lengths: Sequence[int]) -> list[tuple[Key, list[Hypothesis]]]:
        """Return the hypotheses of finished slots, which have so many steps recorded."""
        records = self._state.records.index_select(0, self._indices(slots)).narrow(1, 0, max(lengths))
        host = self._launcher.read(records).wait()  # (slots, length, K, NUMBERS)
        results: list[tuple[Key, list[Hypothesis]]] = []
        for record, slot, length in zip(host, slots, lengths, strict=True):
            occupant = self._occupants[slot]
            integers, numbers = record[:length, :, :3], record[:length, :, 3:].contiguous().view(torch.float32)
            eos_id = self._network.config.eos_id
            found = read_hypotheses(integers.tolist(), numbers.tolist(), occupant.item.config, eos_id)
            results.append((occupant.key, found))
        return results

    def _free(self, slots: Sequence[int]) -> None:
        self._state.free(self._indices(slots))
        for slot in slots:
            del self._slots[self._occupants.pop(slot).key]
        self._measure()

    def _reserve(self, items: Sequence[tuple[Key, GenerationInput]]) -> None:
        """Make room for requests; memory that was made is kept."""
        config, old = self._network.config, self._state.size
        most = greatest_bucket(config.max_target_length), greatest_bucket(config.max_source_length)
        size = Size(
            max(old.slots, bucket(len(self._occupants) + len(items))),
            max(old.columns, bucket(max(item.token_limit(config) for _, item in items), LEAST_LENGTH, most[0])),
            max(old.source, bucket(max(len(item.source_ids) for _, item in items), LEAST_LENGTH, most[1])),
        )
        if size != old:
            self._launcher.forget(self._num_beams)
            self._state = self._state.grow(self._network, size)

    def _move_together(self) -> None:
        """Let the first slots be the occupied ones."""
        count = len(self._occupants)
        places = [slot for slot in range(count) if slot not in self._occupants]
        slots = [slot for slot in self._occupants if slot >= count]
        self._state.move(self._indices(slots), self._indices(places))
        for slot, place in zip(slots, places, strict=True):
            occupant = self._occupants.pop(slot)
            self._occupants[place] = occupant
            self._slots[occupant.key] = place
        self._measure()

    def _measure(self) -> None:
        """Note what the next step needs."""
        occupants = self._occupants.values()
        self._oldest = min((occupant.joined_at for occupant in occupants), default=self._num_steps)
        longest_source = max((len(occupant.item.source_ids) for occupant in occupants), default=0)
        self._needed = Size(max(self._occupants, default=-1) + 1, 0, longest_source)

    def _indices(self, slots: Sequence[int]) -> Tensor:
        return self._launcher.upload(torch.tensor(slots, dtype=torch.long))


def _settings(item: GenerationInput, model: ModelConfig) -> tuple[int, int, int, int]:
    """Return what ``SlotState.settings`` holds of a request."""
    config, limit = item.config, item.token_limit(model)
    bound = limit if config.length_penalty > 0 else 0
    return limit, num_wanted(config), config.num_hypotheses, bound


@lru_cache(maxsize=64)
def _powers(length_penalty: float, count: int) -> Tensor:
    """Return 0, 1, 2 ... to the power of the penalty, computed as ``normalized_score`` does; (count,) float64."""
    powers = [1.0] + [float(length**length_penalty) for length in range(1, count)]
    return torch.tensor(powers, dtype=torch.float64)
