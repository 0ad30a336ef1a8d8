"""The running batch over graphs: requests are encoded, join the slots of their beam width, and leave between steps.

Requests that ask for greedy or beam search run here. Those with rarer options (sampling, prefixes, repetition control,
banned tokens, very wide beams) are searched by ``model.generation`` over the network itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import torch
from torch import Tensor

from model.generation.decoding_batch import DecodingBatch, NonFiniteLogitsError, plain_batch
from model.generation.generation_input import GenerationInput
from model.generation.hypothesis import Hypothesis
from model.generation.records import is_common
from model.graphs.graphs import Launcher, Mark, new_launcher
from model.graphs.lane import Lane
from model.graphs.network import GraphNetwork
from model.graphs.search import GraphSearch
from model.transformer import Transformer

Key = TypeVar("Key", bound=Hashable)
Item = tuple[Key, GenerationInput]
Result = tuple[Key, list[Hypothesis]]
MAX_STEPS = 32
"""Steps of one call when nothing finishes and nothing interrupts it."""
WIDEST_BEAM = 32
"""Beams beyond it are rare, and their candidates too many for the device's sorting in one block."""
SOURCE_MULTIPLE = 8
"""Sources are padded to a multiple of it, where the model can take as much; attention kernels like it."""


@dataclass(eq=False)
class _Encoded(Generic[Key]):
    """Sources that were encoded together, and have not joined yet."""

    items: dict[Key, tuple[int, GenerationInput]]
    """With the row of each."""
    cross: Tensor
    cross_mask: Tensor
    mark: Mark
    """Behind it, both are there."""


class GraphBatch(Generic[Key]):
    """Implements the engine's ``Batch``; to be used by one thread, except for :meth:`interrupt`.

    Beam widths have slots of their own, since a step has the same number of beams everywhere. Memory that slots took is
    kept for the next requests until the batch is dropped.
    """

    def __init__(
        self,
        network: GraphNetwork,
        plain_model: Callable[[], Transformer],
        always_banned: Sequence[int] = (),
        launcher: Launcher | None = None,
    ) -> None:
        """Start empty.

        Args:
            network: may be shared with other batches.
            plain_model: returns the same network for rare options, on its device; called when the first one comes.
            always_banned: tokens that are never generated, except in a target prefix.
            launcher: runs the steps; the default is the device's.
        """
        assert all(0 <= token_id < network.config.vocab_size for token_id in always_banned), "no such token to ban"
        self._network, self._config, self._plain_model = network, network.config, plain_model
        self._banned = tuple(sorted(set(always_banned)))
        banned = torch.tensor(self._banned, dtype=torch.long, device=network.device)
        self._search = GraphSearch(network, banned)
        self._launcher = new_launcher(network.device) if launcher is None else launcher
        self._lanes: dict[int, Lane[Key]] = {}
        self._joining: list[_Encoded[Key]] = []
        self._rare: DecodingBatch[Key] | None = None
        self._undelivered: list[Result[Key]] = []
        self._interrupted = False
        self._num_steps = 0

    @property
    def num_requests(self) -> int:
        """Requests whose result has not been returned yet."""
        in_slots = sum(lane.num_requests for lane in self._lanes.values())
        joining = sum(len(encoded.items) for encoded in self._joining)
        rare = 0 if self._rare is None else self._rare.num_requests
        return in_slots + joining + rare + len(self._undelivered)

    @property
    def num_rows(self) -> int:
        """Rows of the network that belong to requests in the next step; padding is not counted."""
        rows = sum(num_beams * lane.num_requests for num_beams, lane in self._lanes.items())
        rows += sum(item.max_rows for encoded in self._joining for _, item in encoded.items.values())
        return rows + (0 if self._rare is None else self._rare.num_rows)

    @property
    def num_steps(self) -> int:
        """Decoding steps since the start."""
        return self._num_steps

    def add(self, items: Sequence[Item[Key]]) -> None:
        """Start to encode new requests, padded to the longest of them; they join as soon as that is done.

        Raises:
            InvalidRequestError: an input does not fit the model; then none of them has joined.
        """
        for _, item in items:
            item.validate(self._config)
        assert len({key for key, _ in items}) == len(items), "every request of a batch needs a key of its own"
        assert not any(self._has(key) for key, _ in items), "every request of a batch needs a key of its own"
        rare = [(key, item) for key, item in items if not _is_for_slots(item)]
        if rare:
            if self._rare is None:
                self._rare = plain_batch(self._plain_model(), self._banned)
            self._rare.add(rare)
        common = [(key, item) for key, item in items if _is_for_slots(item)]
        if common:
            self._joining.append(self._encode(common))

    def step(self) -> list[Result[Key]]:
        """Give every request tokens until one finishes or :meth:`interrupt` is called, and return the finished.

        Raises:
            NonFiniteLogitsError: for some requests, which have left. The others go on; what finished in this step is
                returned by the next. After any other exception, such as a lack of memory, the batch is of no more use.
        """
        finished, self._undelivered = self._undelivered, []
        broken: list[Hashable] = []
        some_rare = self._rare is not None and self._rare.num_requests > 0
        with torch.inference_mode(), self._launcher.decoding():
            steps = self._launch(1 if some_rare else MAX_STEPS)
            for lane in self._lanes.values():
                results, failed = lane.collect()
                finished += results
                broken += failed
        if self._rare is not None and some_rare:
            steps = max(steps, 1)
            try:
                finished += self._rare.step()
            except NonFiniteLogitsError as error:
                broken += error.keys
        self._num_steps += steps
        self._interrupted = False
        if broken:
            self._undelivered = finished
            raise NonFiniteLogitsError(broken)
        return finished

    def interrupt(self) -> None:
        """Let a step that is under way return before its next token; from any thread."""
        self._interrupted = True

    def remove(self, key: Key) -> None:
        """Let a request leave without a result; one that is not here has already left."""
        self._undelivered = [result for result in self._undelivered if result[0] != key]
        for encoded in self._joining:
            encoded.items.pop(key, None)
        self._joining = [encoded for encoded in self._joining if encoded.items]
        if self._rare is not None:
            self._rare.remove(key)
        for lane in self._lanes.values():
            if key in lane:
                with torch.inference_mode(), self._launcher.decoding():
                    lane.remove(key)

    def _has(self, key: Key) -> bool:
        in_slots = any(key in lane for lane in self._lanes.values())
        joining = any(key in encoded.items for encoded in self._joining)
        return in_slots or joining or any(key == other for other, _ in self._undelivered)

    def _launch(self, max_steps: int) -> int:
        """Take steps, and return how many; the host is at most one step ahead of what it knows."""
        steps = 0
        while steps < max_steps:
            self._admit()
            lanes = [lane for lane in self._lanes.values() if lane.num_requests]
            if not lanes:
                break
            for lane in lanes:
                lane.launch()
            steps += 1
            if self._interrupted or any(lane.saw_an_end() for lane in lanes):
                break
        return steps

    def _encode(self, items: Sequence[Item[Key]]) -> _Encoded[Key]:
        lengths = [len(item.source_ids) for _, item in items]
        padded = min(-(-max(lengths) // SOURCE_MULTIPLE) * SOURCE_MULTIPLE, self._config.max_source_length)
        pad_id = self._config.pad_id
        source_ids = [[*item.source_ids, *[pad_id] * (padded - len(item.source_ids))] for _, item in items]
        with torch.inference_mode(), self._launcher.encoding():
            upload = self._launcher.upload
            cross, cross_mask = self._network.encode(upload(torch.tensor(source_ids)), upload(torch.tensor(lengths)))
            mark = self._launcher.mark(cross, cross_mask)
        rows = {key: (row, item) for row, (key, item) in enumerate(items)}
        return _Encoded(rows, cross, cross_mask, mark)

    def _admit(self) -> None:
        """Let requests join whose sources are encoded; where nothing else runs, the device waits for them."""
        idle = not any(lane.num_requests for lane in self._lanes.values())
        while self._joining and (idle or self._joining[0].mark.is_reached()):
            encoded = self._joining.pop(0)
            encoded.mark.let_decoding_wait()
            for num_beams in sorted({item.config.beam_size for _, item in encoded.items.values()}):
                self._join(encoded, num_beams)
            idle = False

    def _join(self, encoded: _Encoded[Key], num_beams: int) -> None:
        """Let the sources join that have this beam size."""
        if num_beams not in self._lanes:
            self._lanes[num_beams] = Lane(self._network, self._search, self._launcher, num_beams)
        chosen = [(key, row, item) for key, (row, item) in encoded.items.items() if item.config.beam_size == num_beams]
        cross, cross_mask = encoded.cross, encoded.cross_mask
        if len(chosen) < len(cross):
            rows = self._launcher.upload(torch.tensor([row for _, row, _ in chosen]))
            cross, cross_mask = cross.index_select(0, rows), cross_mask.index_select(0, rows)
        self._lanes[num_beams].join([(key, item) for key, _, item in chosen], cross, cross_mask)


def graph_batches(
    model: Transformer, device: torch.device, dtype: torch.dtype, always_banned: Sequence[int] = ()
) -> Callable[[], GraphBatch[Key]]:
    """Return what makes batches that share one copy of the weights.

    Args:
        model: in evaluation mode, on any device, in any number format; it stays as it is.
        device: where to decode.
        dtype: float32, float16 or bfloat16.
        always_banned: tokens that are never generated, except in a target prefix.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    network = GraphNetwork(model, device, dtype)

    @cache
    def plain_model() -> Transformer:
        weight = model.source_embedding.weight
        if (weight.device, weight.dtype) == (device, dtype):
            return model
        return copy.deepcopy(model).to(device=device, dtype=dtype)

    return lambda: GraphBatch(network, plain_model, always_banned)


def graph_batch(
    model: Transformer, device: torch.device, dtype: torch.dtype, always_banned: Sequence[int] = ()
) -> GraphBatch[Key]:
    """Return one batch with weights of its own; arguments as in :func:`graph_batches`."""
    batch: GraphBatch[Key] = graph_batches(model, device, dtype, always_banned)()
    return batch


def _is_for_slots(item: GenerationInput) -> bool:
    return is_common(item.config) and item.config.beam_size <= WIDEST_BEAM
