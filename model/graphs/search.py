"""One step of greedy and beam search for all slots at once, in tensors; the rules are those of ``model.generation``.

A step ranks, ends and keeps hypotheses exactly as ``GreedySearch`` and ``BeamSearch`` do, with the same sums in the
same precision, and records what it did. It changes the state in place, never waits for the device, and is told nothing
but sizes, so that a CUDA graph can repeat it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.generation.records import NONE
from model.graphs.network import BLOCK, GraphNetwork
from model.graphs.state import (
    BOUND,
    BROKEN,
    FINISHED,
    LENGTH,
    LIMIT,
    NUM_BEST,
    NUM_ENDED,
    RUNNING,
    STATUS,
    WANTED,
    Size,
    SlotState,
)

NEVER = -math.inf


def best_in_order(log_probs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` greatest values (R, count) of each row, falling, the smaller token first, and their tokens.

    Two stages, as in ``model.generation.candidates``: the best ``count`` blocks hold the best ``count`` values. The
    order is strict in both: each value in a block that is not among the best ones is beaten by the maxima of all of
    these, by a greater value or, where values are equal, by a smaller token.

    Args:
        log_probs: (R, V), V a multiple of BLOCK.
        count: at most V.
    """
    num_blocks = log_probs.shape[1] // BLOCK
    if num_blocks <= count:
        keys = _keys(log_probs, torch.arange(log_probs.shape[1], device=log_probs.device))
        tokens = _greatest(keys, count)
        return log_probs.gather(1, tokens), tokens
    blocks = log_probs.view(-1, num_blocks, BLOCK)  # (R, blocks, BLOCK)
    chosen = _greatest(_keys(blocks.amax(-1), torch.arange(num_blocks, device=log_probs.device)), count)  # (R, count)
    values = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)  # (R, count * BLOCK)
    tokens = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=log_probs.device)).flatten(1)
    places = _greatest(_keys(values, tokens), count)
    return values.gather(1, places), tokens.gather(1, places)


def _keys(values: Tensor, indices: Tensor) -> Tensor:
    """Return integers that order as float32 values do, and among equal ones by falling index."""
    bits = values.view(torch.int32).long()
    # Of negative numbers, the greater ones have the smaller bits behind the sign.
    return (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) - indices


def _greatest(keys: Tensor, count: int) -> Tensor:
    """Return the places (R, count) of the greatest keys, falling; all keys of a row differ."""
    return keys.argmax(1, keepdim=True) if count == 1 else keys.topk(count).indices


class GraphSearch:
    """The network with a search behind it."""

    def __init__(self, network: GraphNetwork, banned: Tensor) -> None:
        """Take a network, and the tokens (any number,) on its device that are never generated."""
        self._network, self._banned = network, banned
        self._eos_id, self._start_id = network.config.eos_id, network.config.decoder_start_id

    def step(self, state: SlotState, size: Size) -> None:
        """Give every running slot one more token; slots that do not run stay as they are.

        Args:
            state: changed in place.
            size: the first slots that are computed; the first columns that are looked at, more than any running slot
                has tokens; the first source positions that are looked at.
        """
        num_beams = state.num_beams
        progress = state.progress.narrow(0, 0, size.slots)
        lengths = progress.select(1, LENGTH)  # (N,)
        running = progress.select(1, STATUS) == RUNNING
        columns = torch.where(running, lengths, state.size.columns)  # the spare one for those that do not run
        own = columns[:, None] * num_beams + state.beams  # (N, K)
        ancestry = state.ancestry.narrow(0, 0, size.slots)
        ancestry.scatter_(2, own[:, :, None], 0.0)
        seen = ancestry.narrow(2, 0, size.columns * num_beams)
        entries = columns[:, None] * num_beams + state.first_entries.narrow(0, 0, size.slots)
        logits = self._network.decode(
            state.tokens.narrow(0, 0, size.slots),
            lengths,
            state.caches,
            entries.flatten(),
            seen,
            state.cross.narrow(0, 0, size.slots).narrow(1, 0, size.source),
            state.cross_mask.narrow(0, 0, size.slots).narrow(1, 0, size.source),
        )
        log_probs = logits.log_softmax(-1, dtype=torch.float32)  # (R, V)
        log_probs.index_fill_(1, self._banned, NEVER)
        if num_beams == 1:
            status, record = self._extend_greedily(state, size, log_probs, lengths + 1)
        else:
            status, record = self._extend_beams(state, size, log_probs, lengths + 1)
        state.records.flatten(0, 1).index_copy_(0, columns + state.first_records.narrow(0, 0, size.slots), record)
        lengths.add_(running)
        progress.select(1, STATUS).copy_(torch.where(running, status, progress.select(1, STATUS)))

    def _extend_greedily(
        self, state: SlotState, size: Size, log_probs: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Append each slot's most probable token; ``lengths`` (N,) include it.

        Returns:
            The slots' status (N,) and record (N, 1, NUMBERS).
        """
        values, tokens = best_in_order(log_probs, 1)  # (N, 1)
        ended = (tokens[:, 0] == self._eos_id) | (lengths >= state.settings.select(1, LIMIT).narrow(0, 0, size.slots))
        state.tokens.narrow(0, 0, size.slots).copy_(tokens)
        nothing = torch.full_like(tokens, NONE)
        record = _record(tokens, torch.zeros_like(tokens), nothing, values, values)
        return _status(ended, intact=values[:, 0] > NEVER), record

    def _extend_beams(self, state: SlotState, size: Size, log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rank the continuations of each slot's beams, end those that end, and keep the best others.

        Arguments and results as in :meth:`_extend_greedily`, the record being (N, K, NUMBERS).
        """
        num_slots, num_beams = size.slots, state.num_beams
        totals = state.totals.narrow(0, 0, num_slots)
        values, tokens = best_in_order(log_probs, num_beams + 1)
        values = values.view(num_slots, num_beams, num_beams + 1)
        live = totals > NEVER  # (N, K)
        intact = ((values[:, :, 0] > NEVER) | ~live).all(1)
        candidates = torch.where(live[:, :, None], totals[:, :, None] + values.double(), NEVER).flatten(1)
        # The first 2 K hold the first K that do not end, as every beam ends at most once. A stable order keeps, of
        # equals, the better parent and then the better candidate in front.
        in_order = candidates.sort(dim=1, descending=True, stable=True)
        ranked, places = in_order.values[:, : 2 * num_beams], in_order.indices[:, : 2 * num_beams]
        tokens = tokens.view(num_slots, -1).gather(1, places)
        values = values.flatten(1).gather(1, places)
        parents = places.div(num_beams + 1, rounding_mode="floor")
        ends = tokens == self._eos_id

        ended = ends[:, :num_beams] & (ranked[:, :num_beams] > NEVER)  # (N, K) an end token among the first K ends
        self._end(state, ended, ranked[:, :num_beams], lengths)
        ended_parents = torch.where(ended, parents[:, :num_beams], NONE)
        end_values = values[:, :num_beams]

        order = ends.byte().sort(dim=1, stable=True).indices[:, :num_beams]  # the first K others go on
        kept, tokens = ranked.gather(1, order), tokens.gather(1, order)
        parents, values = parents.gather(1, order), values.gather(1, order)
        live = kept > NEVER
        record = _record(torch.where(live, tokens, NONE), parents, ended_parents, values, end_values)
        # A beam that is none computes all the same; the start token is known to give finite numbers.
        state.tokens.narrow(0, 0, num_slots).copy_(torch.where(live, tokens, self._start_id))
        totals.copy_(kept)
        ancestry = state.ancestry.narrow(0, 0, num_slots).narrow(2, 0, size.columns * num_beams)
        ancestry.copy_(ancestry.gather(1, parents[:, :, None].expand_as(ancestry)))
        return _status(self._is_finished(state, kept[:, 0], lengths), intact), record

    def _end(self, state: SlotState, ended: Tensor, totals: Tensor, lengths: Tensor) -> None:
        """Count the hypotheses that ended, (N, K), and keep the best scores."""
        num_slots, num_beams = ended.shape
        powers = state.powers.narrow(0, 0, num_slots).gather(1, lengths[:, None])  # (N, 1)
        scores = torch.where(ended, totals / powers, NEVER)
        best = state.best_scores.narrow(0, 0, num_slots)
        best.copy_(torch.cat([best, scores], dim=1).topk(num_beams).values)
        state.progress.narrow(0, 0, num_slots).select(1, NUM_ENDED).add_(ended.sum(1))

    def _is_finished(self, state: SlotState, best_total: Tensor, lengths: Tensor) -> Tensor:
        """Return (N,): the rules of ``BeamSearch._is_finished``, where the bound is explained."""
        num_slots = len(lengths)
        settings = state.settings.narrow(0, 0, num_slots)
        num_ended = state.progress.narrow(0, 0, num_slots).select(1, NUM_ENDED)
        num_best, bound = settings.select(1, NUM_BEST), settings.select(1, BOUND)
        longest = torch.where(bound > 0, bound, lengths + 1)
        possible = best_total / state.powers.narrow(0, 0, num_slots).gather(1, longest[:, None])[:, 0]
        worst_kept = state.best_scores.narrow(0, 0, num_slots).gather(1, (num_best - 1).clamp(min=0)[:, None])[:, 0]
        settled = (num_ended >= num_best) & (possible <= worst_kept)
        full = (lengths >= settings.select(1, LIMIT)) | (num_ended >= settings.select(1, WANTED))
        return (best_total == NEVER) | full | settled


def _record(tokens: Tensor, parents: Tensor, ended_parents: Tensor, values: Tensor, end_values: Tensor) -> Tensor:
    """Return a record (N, K, NUMBERS): integers, and the bits of float32 numbers."""
    numbers = (values.view(torch.int32), end_values.view(torch.int32))
    return torch.stack([tokens.int(), parents.int(), ended_parents.int(), *numbers], dim=-1)


def _status(ended: Tensor, intact: Tensor) -> Tensor:
    """Return (N,) what running slots become."""
    return torch.where(intact, torch.where(ended, FINISHED, RUNNING), BROKEN)
