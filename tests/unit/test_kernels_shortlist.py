"""The compiled running batch with short-lists: as if other tokens were impossible, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from model.config import GenerationConfig
from model.generation import GenerationInput, Hypothesis, generate
from model.generation.shortlist import Shortlist
from model.kernels.batch import KernelBatch
from model.kernels.linear import WeightKind
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
from tests.unit.kernel_reference import VOCAB_SIZE, assert_same, compiled_alone, draw_source, run, small_network, twin
from tests.unit.table_model import EOS, SPECIAL

LANGUAGE, WITHOUT_TABLE = 4, 5
OPTIONS: list[dict[str, Any]] = [
    {"beam_size": 1},
    {"beam_size": 3, "num_hypotheses": 3},
    {"beam_size": 6, "num_hypotheses": 4, "length_penalty": 0.3, "patience": 2.0},
    {"beam_size": 12, "num_hypotheses": 12, "max_new_tokens": 3},
]
RARE = GenerationConfig(beam_size=3, no_repeat_ngram_size=2)


@pytest.fixture(scope="module")
def shortlist() -> Shortlist:
    """Three tokens for each source token, some of which are always banned, and five that are always there."""
    random = np.random.default_rng(0)
    arrays = {
        f"{LANGUAGE}.offsets": np.arange(VOCAB_SIZE + 1) * 3,
        f"{LANGUAGE}.targets": random.integers(0, VOCAB_SIZE, 3 * VOCAB_SIZE),
        f"{LANGUAGE}.frequent": np.array([0, EOS, 10, 20, 30]),
    }
    return Shortlist(arrays, VOCAB_SIZE, EOS)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_network()


def restricted(model: Transformer, item: GenerationInput, shortlist: Shortlist) -> Transformer:
    """Return the network with logits so low that tokens outside the short-list have no probability at all."""
    result = Transformer(model.config).eval()
    result.load_state_dict(model.state_dict())
    allowed = set(shortlist.candidates(item.source_ids).tolist()) - set(SPECIAL)
    with torch.no_grad():
        assert result.output_bias is not None
        result.output_bias[[token for token in range(VOCAB_SIZE) if token not in allowed]] = -1e9
    return result


def some_inputs(model: Transformer) -> list[GenerationInput]:
    languages = (LANGUAGE, LANGUAGE, WITHOUT_TABLE)
    sources = [[language, *draw_source(model.config, 9, seed)] for seed, language in enumerate(languages)]
    return [GenerationInput(source, GenerationConfig(**options)) for source in sources for options in OPTIONS]


def decode(network: PackedNetwork, items: list[GenerationInput], shortlist: Shortlist | None) -> list[list[Hypothesis]]:
    batch: KernelBatch[int] = KernelBatch(network, SPECIAL, shortlist)
    batch.add(list(enumerate(items)))
    results = run(batch)
    return [results[index] for index in range(len(items))]


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_short_lists_are_networks_without_the_other_tokens(
    kind: WeightKind, model: Transformer, shortlist: Shortlist
) -> None:
    network = PackedNetwork(model, kind)
    items = some_inputs(model)
    found = decode(network, items, shortlist)
    for item, each in zip(items, found, strict=True):
        reference = twin(restricted(model, item, shortlist), kind)
        assert_same(item, each, generate(reference, [item], SPECIAL)[0])
    assert found != decode(network, items, None)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_neighbours_with_other_short_lists_or_rarer_options_change_nothing(
    kind: WeightKind, model: Transformer, shortlist: Shortlist
) -> None:
    network = PackedNetwork(model, kind)
    items = some_inputs(model)
    items += [GenerationInput(item.source_ids, RARE) for item in items[::4]]
    together = decode(network, items, shortlist)
    assert together == [decode(network, [item], shortlist)[0] for item in items]
    assert decode(network, items[::-1], shortlist) == together[::-1]
    for item, found in zip(items, together, strict=True):
        if item.config.no_repeat_ngram_size:  # these have the whole vocabulary
            assert found == compiled_alone(network, item)
