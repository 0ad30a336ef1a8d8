"""Random networks of other code bases, read by the importer's tables, give the same logits and attention weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoints.checkpoint import load_weights
from model.config import ModelConfig
from model.errors import CheckpointError
from model.importing.importing import read_config, read_weights
from model.importing.renaming import Rename, plan_renaming
from model.transformer import Transformer
from tests.parity.families import CASES, VOCAB_SIZE, Family

assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
SOURCE_LENGTHS, TARGET_LENGTHS = (9, 1, 20, 4), (18, 5, 1, 11)
every_case = pytest.mark.parametrize("case", CASES)


@dataclass(frozen=True)
class Pair:
    """One network twice, and a padded batch for both."""

    family: Family
    ours: Transformer
    source_ids: Tensor
    source_mask: Tensor
    target_input_ids: Tensor
    target_mask: Tensor
    theirs: Any
    """Their outputs of the batch."""


class Tensors:
    """Tensors in memory in the place of a file's."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return one of them."""
        return self.tensors[name]


_pairs: dict[str, Pair] = {}


@pytest.fixture
def pair(case: str) -> Pair:
    """Return the pair of one case; building it takes most of the time, so each is built once."""
    torch.set_num_threads(1)
    if case not in _pairs:
        family = CASES[case].build(CASES[case].settings)
        source_ids, source_mask = padded(family.config, SOURCE_LENGTHS, seed=1)
        target_input_ids, target_mask = padded(family.config, TARGET_LENGTHS, seed=2)
        target_input_ids[:, 0] = family.config.decoder_start_id
        with torch.no_grad():
            theirs = family.theirs(
                input_ids=source_ids,
                attention_mask=source_mask.long(),
                decoder_input_ids=target_input_ids,
                output_attentions=True,
            )
        ours = as_ours(family, family.config)
        _pairs[case] = Pair(family, ours, source_ids, source_mask, target_input_ids, target_mask, theirs)
    return _pairs[case]


def padded(config: ModelConfig, lengths: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Return ids (B, S) padded behind, and their mask; padding's id stands nowhere else."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB_SIZE - 1, (len(lengths), max(lengths)), generator=generator)
    ids = ids + (ids >= config.pad_id)
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, config.pad_id), mask


def as_ours(family: Family, config: ModelConfig) -> Transformer:
    """Return our network with their weights; left-over and missing tensors are errors."""
    network = Transformer(config).eval()
    tensors = Tensors(family.theirs.state_dict())
    _, table, settings = read_config(family.theirs.config.to_dict(), "config.json", tensors.shapes)
    ours = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    plan = plan_renaming(tensors.shapes, ours, table)
    assert (settings.problems, plan.problems) == ([], ())
    load_weights(network, read_weights(tensors, plan))
    return network


@every_case
@torch.no_grad()
def test_logits_are_theirs(pair: Pair) -> None:
    found = pair.ours(pair.source_ids, pair.target_input_ids)
    expected = pair.theirs.logits
    assert expected[pair.target_mask].std() > 0.1
    assert_close(found[pair.target_mask], expected[pair.target_mask])


@every_case
@torch.no_grad()
def test_logits_with_the_cache_are_theirs(pair: Pair) -> None:
    ours = pair.ours
    cache = ours.start_cache(ours.encode(pair.source_ids, pair.source_mask), pair.source_mask, capacity=4)
    found = torch.stack([ours.decode_step(tokens, cache) for tokens in pair.target_input_ids.T], dim=1)
    assert_close(found[pair.target_mask], pair.theirs.logits[pair.target_mask])


@every_case
@torch.no_grad()
def test_encoder_output_is_theirs(pair: Pair) -> None:
    found = pair.ours.encode(pair.source_ids, pair.source_mask)[pair.source_mask]
    assert_close(found, pair.theirs.encoder_last_hidden_state[pair.source_mask])


@every_case
def test_attention_weights_are_theirs(pair: Pair) -> None:
    found = pair.ours.attention_weights(pair.source_ids, pair.target_input_ids)
    for ours, theirs, mask in (
        (found.encoder, pair.theirs.encoder_attentions, pair.source_mask),
        (found.decoder, pair.theirs.decoder_attentions, pair.target_mask),
        (found.cross, pair.theirs.cross_attentions, pair.target_mask),
    ):
        assert len(ours) == len(theirs)
        for our_layer, their_layer in zip(ours, theirs, strict=True):
            queries = our_layer.transpose(1, 2)[mask]  # (real queries, H, keys)
            assert_close(queries, their_layer.transpose(1, 2)[mask])


SENSITIVE: list[tuple[str, dict[str, Any]]] = [
    ("marian", {"norm_position": "pre"}),
    ("marian", {"norm_epsilon": 1e-2}),
    ("marian", {"sinusoid_layout": "interleaved"}),
    ("marian", {"sinusoid_layout": "halves_fairseq"}),
    ("marian", {"position_offset": 1}),
    ("marian", {"activation": "relu"}),
    ("marian", {"embedding_scale": 1.0}),
    ("marian", {"attention_scale": 1.0}),
    ("marian", {"output_scale": 16**-0.5}),
    ("m2m100", {"norm_position": "post"}),
    ("m2m100", {"position_offset": 0}),
    ("m2m100", {"sinusoid_layout": "halves"}),
    ("bart", {"activation": "silu"}),
    ("bart", {"embedding_scale": None}),
    ("mbart", {"norm_position": "post"}),
    ("t5", {"relative_max_distance": 11}),
    ("t5", {"norm_epsilon": 1e-2}),
    ("t5", {"attention_scale": None}),
    ("t5", {"output_scale": 1.0}),
    ("flan-t5", {"activation": "relu"}),
    ("flan-t5", {"activation": "gelu"}),
]
"""Cases, and one field that is set wrongly: with the same parameters, the logits must show it."""


@pytest.mark.parametrize(("case", "fields"), SENSITIVE)
@torch.no_grad()
def test_a_wrong_field_shows_in_the_logits(pair: Pair, fields: dict[str, Any]) -> None:
    wrong = as_ours(pair.family, dataclasses.replace(pair.family.config, **fields))
    found = wrong(pair.source_ids, pair.target_input_ids)
    difference = (found - pair.theirs.logits)[pair.target_mask].abs().max()
    # the two formulas of gelu differ by less than 5e-4 themselves; every other field by far more
    assert difference > (1e-4 if fields == {"activation": "gelu"} else 1e-2)


@pytest.mark.parametrize("case", ["marian"])
def test_tensors_that_do_not_fit_are_all_named(pair: Pair) -> None:
    theirs = Tensors(pair.family.theirs.state_dict())
    _, table, _ = read_config(pair.family.theirs.config.to_dict(), "config.json", theirs.shapes)
    ours = {name: tuple(parameter.shape) for name, parameter in pair.ours.named_parameters()}
    bias = "model.encoder.layers.0.fc1.bias"
    wrong = {**theirs.shapes, "surplus.weight": (2,), bias: (5,)}
    del wrong["model.decoder.layers.1.fc2.weight"]
    problems = plan_renaming(wrong, ours, table).problems
    assert problems == (
        f"{bias} has shape (5,), the network wants (24,) for encoder.layers.0.feed_forward.in_proj.bias",
        "surplus.weight is no tensor of the family",
        "no tensor becomes decoder.layers.1.feed_forward.out_proj.weight",
    )
    unused = plan_renaming(theirs.shapes, ours, [*table, Rename("nowhere", "encoder.norm.weight")]).problems
    assert unused == ("no tensor is called nowhere",)
    plan = plan_renaming(theirs.shapes, ours, table)
    theirs.tensors["lm_head.weight"] = theirs.tensors["lm_head.weight"] + 1
    with pytest.raises(CheckpointError, match="must be equal to"):
        read_weights(theirs, plan)
