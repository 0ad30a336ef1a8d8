"""The running batch over compiled loops: requests join and leave between steps; the loops themselves are search.py's.

Requests that ask for greedy or beam search run in compiled code from token to token. Those with rarer options
(sampling, prefixes, repetition control, banned tokens) have their logits computed by the same code, and are searched by
``model.generation``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.config import MAX_BEAM_SIZE
from model.generation.decoding_batch import DecodingBatch, NonFiniteLogitsError
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.records import is_common, num_wanted, read_hypotheses
from model.generation.shortlist import Shortlist
from model.kernels.linear import LINEAR, PackedLinear
from model.kernels.network import encode, new_workspace
from model.kernels.packing import PackedNetwork
from model.kernels.rows import KernelRows
from model.kernels.search import (
    BROKEN,
    FREE,
    NEVER,
    RUNNING,
    SLOT,
    SearchState,
    new_search_work,
    search,
)

Key = TypeVar("Key", bound=Hashable)
MAX_STEPS = 32
"""Steps of one call when nothing interrupts it: long enough that the call's own cost does not count."""
ENCODED_TOKENS = 1024
"""Source tokens that are encoded together: enough to read the weights rarely, few enough to stay in the cache."""
KEPT_BYTES = 64 * 2**20
"""Memory of finished requests that is kept for the next ones."""


@dataclass(eq=False)
class _Running(Generic[Key]):
    """One request in a slot, and the memory that the slot points to."""

    key: Key
    item: GenerationInput
    limit: int
    cross: NDArray[np.float32]
    keys_values: NDArray[np.float32]
    ancestry: NDArray[np.int32]
    """(K, limit)."""
    records: NDArray[np.int32]
    """(limit, K, 3)."""
    log_probs: NDArray[np.float32]
    """(limit, K, 2)."""
    candidates: NDArray[np.int32]
    """The short-list, or nothing."""
    output: PackedLinear
    """The output projection of the short-list, or the whole one."""


class KernelBatch(Generic[Key]):
    """Implements the engine's ``Batch``; a request's result is the same to the bit whatever else runs.

    To be used by one thread, except for :meth:`interrupt`. Several batches, each with its own thread, can share a
    network.
    """

    def __init__(
        self, network: PackedNetwork, always_banned: Sequence[int] = (), shortlist: Shortlist | None = None
    ) -> None:
        """Start empty.

        Args:
            network: computes the logits.
            always_banned: tokens that are never generated, except in a target prefix.
            shortlist: says for which tokens logits are computed; only greedy and beam search without rarer options
                follow it.
        """
        self._network = network
        self._shortlist = shortlist
        self._config = network.config
        self._banned = tuple(sorted(set(always_banned)))
        self._interrupt = np.zeros(1, np.int32)
        self._rare: DecodingBatch[Key] = DecodingBatch(self._config, KernelRows(network), always_banned=self._banned)
        self._undelivered: list[tuple[Key, list[Hypothesis]]] = []
        self._running: dict[int, _Running[Key]] = {}
        self._slots_of: dict[Key, int] = {}
        self._pool = _Pool(KEPT_BYTES)
        self._steps = 0
        self._state = self._new_state(8)
        self._encoder_work = new_workspace(self._config, 1)
        self._work = new_workspace(self._config, 8)
        self._search_work = new_search_work(self._config, 8)

    @property
    def num_requests(self) -> int:
        """Requests whose result has not been returned yet."""
        return len(self._running) + len(self._undelivered) + self._rare.num_requests

    @property
    def num_rows(self) -> int:
        """Rows that the next step computes."""
        return int(sum(self._state.slots["num_live"][list(self._running)])) + self._rare.num_rows

    @property
    def num_steps(self) -> int:
        """Decoding steps since the start."""
        return self._steps

    def add(self, items: Sequence[tuple[Key, GenerationInput]]) -> None:
        """Encode new requests and let them join.

        Raises:
            InvalidRequestError: an input does not fit the model; then none of them has joined.
        """
        for _, item in items:
            item.validate(self._config)
        keys = [*self._slots_of, *(key for key, _ in (*self._undelivered, *items))]
        assert len(set(keys)) == len(keys), "every request of a batch needs a key of its own"
        common = [(key, item) for key, item in items if is_common(item.config)]
        self._rare.add([(key, item) for key, item in items if not is_common(item.config)])
        started: list[tuple[Key, GenerationInput]] = []
        num_tokens = 0
        for key, item in common:
            if started and num_tokens + len(item.source_ids) > ENCODED_TOKENS:
                self._start(started)
                started, num_tokens = [], 0
            started.append((key, item))
            num_tokens += len(item.source_ids)
        if started:
            self._start(started)

    def step(self) -> list[tuple[Key, list[Hypothesis]]]:
        """Give every request a token, or many until one finishes or :meth:`interrupt` is called; return the finished.

        Raises:
            NonFiniteLogitsError: for some requests, which have left. The others go on; what finished in this step is
                returned by the next.
        """
        finished, self._undelivered = self._undelivered, []
        broken: list[Hashable] = []
        steps = 0
        if self._running:
            steps = self._search(1 if self._rare.num_requests else MAX_STEPS)
            states = self._state.slots["state"]
            for index in [each for each in self._running if states[each] != RUNNING]:
                if states[index] == BROKEN:
                    broken.append(self._running[index].key)
                else:
                    finished.append((self._running[index].key, self._hypotheses(index)))
                self._free(index)
        if self._rare.num_requests:
            steps = max(steps, 1)
            try:
                finished += self._rare.step()
            except NonFiniteLogitsError as error:
                broken += error.keys
        self._steps += steps
        self._interrupt[0] = 0
        if broken:
            self._undelivered = finished
            raise NonFiniteLogitsError(broken)
        return finished

    def interrupt(self) -> None:
        """Let a step that is under way return before its next token; from any thread."""
        self._interrupt[0] = 1

    def remove(self, key: Key) -> None:
        """Let a request leave without a result; one that is not here has already left."""
        if key in self._slots_of:
            self._free(self._slots_of[key])
        self._undelivered = [result for result in self._undelivered if result[0] != key]
        self._rare.remove(key)

    def _search(self, max_steps: int) -> int:
        """Run the compiled loop, and return the number of its steps."""
        active = np.array(list(self._running), np.int64)
        self._reserve_rows(int(sum(self._state.slots["num_beams"][active])))
        steps: int = search(
            self._network.weights, self._work, self._state, self._search_work, active, self._config.eos_id, max_steps
        )
        return steps

    def _start(self, items: Sequence[tuple[Key, GenerationInput]]) -> None:
        """Encode sources together, and give each a slot."""
        lengths = np.array([len(item.source_ids) for _, item in items], np.int64)
        token_ids = np.array([token for _, item in items for token in item.source_ids], np.int64)
        if len(token_ids) > len(self._encoder_work.states):
            self._encoder_work = new_workspace(self._config, max(len(token_ids), ENCODED_TOKENS))
        running = [self._allocate(key, item) for key, item in items]
        addresses = np.array([each.cross.ctypes.data for each in running], np.int64)
        encode(self._network.weights, self._encoder_work, token_ids, lengths, addresses)
        for each in running:
            self._occupy(each)

    def _allocate(self, key: Key, item: GenerationInput) -> _Running[Key]:
        config = self._config
        limit, num_beams = item.token_limit(config), item.config.beam_size
        width = 2 * config.num_decoder_layers * config.num_heads * config.width_per_head
        candidates = np.empty(0, np.int64)
        if self._shortlist is not None:
            candidates = np.setdiff1d(self._shortlist.candidates(item.source_ids), self._banned)
        return _Running(
            key,
            item,
            limit,
            cross=self._pool.take(width * len(item.source_ids)),
            keys_values=self._pool.take(width * limit * num_beams),
            ancestry=np.zeros((num_beams, limit), np.int32),
            records=np.empty((limit, num_beams, 3), np.int32),
            log_probs=np.empty((limit, num_beams, 2), np.float32),
            candidates=candidates.astype(np.int32),
            output=self._network.output.select(candidates) if len(candidates) else self._network.output,
        )

    def _occupy(self, running: _Running[Key]) -> None:
        """Let a request run in a free slot."""
        free = np.flatnonzero(self._state.slots["state"] == FREE)
        if len(free) == 0:
            self._double_slots()
            free = np.flatnonzero(self._state.slots["state"] == FREE)
        index, config = int(free[0]), running.item.config
        num_beams = config.beam_size
        sizes = (
            num_beams,
            1,
            0,
            running.limit,
            len(running.item.source_ids),
            config.num_hypotheses,
            num_wanted(config),
            0,
            RUNNING,
        )
        arrays = (running.keys_values, running.cross, running.ancestry, running.records, running.log_probs)
        addresses = [array.ctypes.data for array in (*arrays, running.candidates)]
        self._state.slots[index] = (*sizes, config.length_penalty, *addresses, len(running.candidates))
        self._state.outputs[index] = running.output.record
        self._state.tokens[index, 0] = self._config.decoder_start_id
        self._state.totals[index, 0] = 0.0
        self._state.best_scores[index] = NEVER
        self._running[index] = running
        self._slots_of[running.key] = index

    def _free(self, index: int) -> None:
        running = self._running.pop(index)
        del self._slots_of[running.key]
        self._state.slots[index] = np.zeros((), SLOT)
        self._pool.give(running.cross)
        self._pool.give(running.keys_values)

    def _hypotheses(self, index: int) -> list[Hypothesis]:
        running, length = self._running[index], int(self._state.slots[index]["length"])
        records, log_probs = running.records[:length].tolist(), running.log_probs[:length].tolist()
        return read_hypotheses(records, log_probs, running.item.config, self._config.eos_id)

    def _new_state(self, num_slots: int) -> SearchState:
        return SearchState(
            slots=np.zeros(num_slots, SLOT),
            tokens=np.zeros((num_slots, MAX_BEAM_SIZE), np.int32),
            totals=np.zeros((num_slots, MAX_BEAM_SIZE), np.float64),
            best_scores=np.full((num_slots, MAX_BEAM_SIZE), NEVER),
            outputs=np.zeros(num_slots, LINEAR),
            banned=np.array(self._banned, np.int64),
            interrupt=self._interrupt,
        )

    def _double_slots(self) -> None:
        before, count = self._state, len(self._state.slots)
        self._state = self._new_state(2 * count)
        self._state.slots[:count] = before.slots
        self._state.tokens[:count] = before.tokens
        self._state.totals[:count] = before.totals
        self._state.best_scores[:count] = before.best_scores
        self._state.outputs[:count] = before.outputs

    def _reserve_rows(self, num_rows: int) -> None:
        """Make room to compute rows."""
        if num_rows <= len(self._search_work.rows):
            return
        num_rows = max(num_rows, 2 * len(self._search_work.rows))
        self._work = new_workspace(self._config, num_rows)
        self._search_work = new_search_work(self._config, num_rows)


class _Pool:
    """Memory of finished requests, for the next ones: fresh memory costs a page fault for every 4 KiB."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._free: dict[int, list[NDArray[np.float32]]] = defaultdict(list)

    def take(self, size: int) -> NDArray[np.float32]:
        """Return at least ``size`` numbers without meaning."""
        rounded = 1 << max(10, (size - 1).bit_length())
        if self._free[rounded]:
            array = self._free[rounded].pop()
            self._num_bytes -= array.nbytes
            return array
        return np.empty(rounded, np.float32)

    def give(self, array: NDArray[np.float32]) -> None:
        """Take back what :meth:`take` returned; it is let go of where enough is kept."""
        if self._num_bytes + array.nbytes <= self._max_bytes:
            self._num_bytes += array.nbytes
            self._free[len(array)].append(array)
