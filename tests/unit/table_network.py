"""The table model as a network over slots: logits that are exact, depend on all that a beam has seen, and often tie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from model.graphs.network import GraphNetwork
from tests.unit.table_model import TABLE_ROWS, TableModel

BROKEN_TOKEN = 63
"""Where it stands in a source, the logits are not finite."""


class TableNetwork:
    """Has what decoding in slots uses of GraphNetwork; what a beam has seen comes from the caches and masks alone."""

    def __init__(self, model: TableModel) -> None:
        self.config = dataclasses.replace(model.config, d_model=2, num_heads=1, num_decoder_layers=1)
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self.table = model.table.detach()
        self.weights = torch.tensor([pow(31, exponent, TABLE_ROWS) for exponent in range(128)])

    def encode(self, source_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(source_ids.shape[1])
        mask = torch.zeros(source_ids.shape, dtype=self.dtype).masked_fill_(positions >= lengths[:, None], -torch.inf)
        numbers = ((source_ids + 7) * (positions + 1)).double()
        numbers = numbers.masked_fill(source_ids == BROKEN_TOKEN, torch.nan)
        return numbers[:, :, None, None, None, None].repeat(1, 1, 1, 2, 1, 2), mask

    def decode(
        self,
        tokens: Tensor,
        lengths: Tensor,
        caches: Sequence[Tensor],
        entries: Tensor,
        ancestry: Tensor,
        cross: Tensor,
        cross_mask: Tensor,
    ) -> Tensor:
        """Write tokens and positions as keys, and look up what the entries that a beam sees say together."""
        num_slots, num_beams = tokens.shape
        positions = lengths[:, None].expand(num_slots, num_beams)
        written = torch.stack([tokens, positions], dim=-1).double()  # (N, K, 2)
        caches[0].flatten(0, 1)[:, 0, 0].index_copy_(0, entries, written.flatten(0, 1))
        seen = caches[0][:num_slots, : ancestry.shape[2], 0, 0]  # (N, entries, 2)
        # As in attention, what is masked is multiplied by 0, so it has to be finite.
        visible = ancestry.exp()  # (N, K, entries)
        exponents = (lengths[:, None] - seen[:, :, 1]).nan_to_num().long().clamp(0, 127)
        terms = (seen[:, :, 0] + 1) * self.weights[exponents]
        states = (visible * terms[:, None]).sum(2)  # (N, K)
        sources = (cross[:, :, 0, 0, 0, 0] * cross_mask.exp()).sum(1)  # (N,)
        numbers = states % TABLE_ROWS + 97 * sources[:, None]
        broken = ~numbers.isfinite()
        logits = self.table[numbers.nan_to_num().long() % TABLE_ROWS]
        return logits.masked_fill(broken[:, :, None], torch.nan).flatten(0, 1)


def as_graph_network(model: TableModel) -> GraphNetwork:
    """Return the table under the type that decoding in slots asks for."""
    return cast(GraphNetwork, TableNetwork(model))
