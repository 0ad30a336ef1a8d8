"""The compiled searches against the plain path: same tokens, same reasons, same scores, for every option."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

from model.config import MAX_BEAM_SIZE, GenerationConfig
from model.generation import DecodingBatch, GenerationInput, Hypothesis, generate, plain_batch
from model.generation.records import is_common
from model.kernels.batch import KernelBatch
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
from tests.unit.kernel_reference import (
    VOCAB_SIZE,
    assert_same,
    compiled_alone,
    compiled_together,
    draw_source,
    run,
    small_network,
)
from tests.unit.network_variations import build
from tests.unit.table_model import EOS, SPECIAL

COMMON: dict[str, dict[str, Any]] = {
    "greedy": {"beam_size": 1},
    "greedy_penalty": {"beam_size": 1, "length_penalty": 0.3},
    "beam_2": {"beam_size": 2},
    "beam_3": {"beam_size": 3, "num_hypotheses": 3},
    "beam_4": {"beam_size": 4, "num_hypotheses": 2},
    "beam_5": {"beam_size": 5, "num_hypotheses": 5, "patience": 2.0},
    "beam_6": {"beam_size": 6, "num_hypotheses": 4, "patience": 0.3},
    "beam_64": {"beam_size": MAX_BEAM_SIZE, "num_hypotheses": MAX_BEAM_SIZE},
    "impatient": {"beam_size": 4, "patience": 0.2},
    "patient": {"beam_size": 3, "num_hypotheses": 2, "patience": 10.0},
    "penalty_0": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.0},
    "penalty_0.3": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 0.3},
    "penalty_2": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": 2.0},
    "penalty_5": {"beam_size": 3, "num_hypotheses": 3, "length_penalty": 5.0, "patience": 3.0},
    "penalty_negative": {"beam_size": 4, "num_hypotheses": 4, "length_penalty": -1.0, "patience": 4.0},
    "limit_1": {"beam_size": 4, "num_hypotheses": 4, "max_new_tokens": 1},
    "limit_1_greedy": {"beam_size": 1, "max_new_tokens": 1},
    "limit_2": {"beam_size": 5, "num_hypotheses": 5, "max_new_tokens": 2},
    "limit_3_greedy": {"beam_size": 1, "max_new_tokens": 3},
    "limit_7": {"beam_size": 6, "num_hypotheses": 6, "max_new_tokens": 7, "patience": 10.0},
    "ratio": {"beam_size": 3, "max_length_ratio": 0.1},
    "wide_at_the_limit": {"beam_size": 40, "num_hypotheses": 40, "max_new_tokens": 2},
}
RARE: dict[str, dict[str, Any]] = {
    "sampling": {"beam_size": 1, "sampling": True, "seed": 3, "num_hypotheses": 3},
    "sampling_top_k": {"beam_size": 1, "sampling": True, "seed": 4, "top_k": 5, "temperature": 0.7},
    "sampling_top_p": {"beam_size": 1, "sampling": True, "seed": 5, "top_p": 0.8, "num_hypotheses": 2},
    "prefix": {"beam_size": 3, "num_hypotheses": 2, "target_prefix": (9, 1, 9)},
    "prefix_greedy": {"beam_size": 1, "target_prefix": (30,)},
    "n_gram": {"beam_size": 4, "num_hypotheses": 4, "no_repeat_ngram_size": 2},
    "n_gram_greedy": {"beam_size": 1, "no_repeat_ngram_size": 1},
    "repetition": {"beam_size": 4, "num_hypotheses": 2, "repetition_penalty": 1.4},
    "least": {"beam_size": 4, "min_new_tokens": 9},
    "banned": {"beam_size": 3, "num_hypotheses": 3, "banned_tokens": (5, 6, 7, 20)},
    "all_banned": {"beam_size": 2, "banned_tokens": tuple(range(VOCAB_SIZE))},
    "all": {
        "beam_size": 3,
        "repetition_penalty": 0.8,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 3,
        "max_new_tokens": 11,
        "target_prefix": (8,),
        "banned_tokens": (EOS, 4),
    },
}
OPTIONS = COMMON | RARE
LENGTHS = [1, 4, 11]


@functools.cache
def shared_network() -> Transformer:
    return small_network()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return shared_network()


@pytest.fixture(scope="module")
def network(model: Transformer) -> PackedNetwork:
    return PackedNetwork(model, "float32")


def inputs(name: str) -> list[GenerationInput]:
    """Return sources of different lengths with one option."""
    config = GenerationConfig(**OPTIONS[name])
    return [GenerationInput(draw_source(shared_network().config, length, length), config) for length in LENGTHS]


@functools.cache
def plain_results(name: str) -> list[tuple[list[Hypothesis], int]]:
    """Return for each of an option's inputs what the reference finds, and in how many steps."""
    results = []
    for item in inputs(name):
        batch: DecodingBatch[int] = plain_batch(shared_network(), SPECIAL)
        batch.add([(0, item)])
        found: list[Hypothesis] = []
        while batch.num_requests:
            found = dict(batch.step()).get(0, found)
        results.append((found, batch.num_steps))
    return results


def test_the_network_is_a_test_at_all() -> None:
    found = [found for name in COMMON for found, _ in plain_results(name)]
    hypotheses = [each for some in found for each in some]
    assert {each.finish_reason for each in hypotheses} == {"end", "length"}
    assert len({len(each.token_ids) for each in hypotheses}) > 6
    assert len({token for each in hypotheses for token in each.token_ids}) > 15


def test_the_options_are_searched_where_they_should_be() -> None:
    assert all(is_common(GenerationConfig(**options)) for options in COMMON.values())
    assert not any(is_common(GenerationConfig(**options)) for options in RARE.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_what_the_plain_path_gives(name: str, network: PackedNetwork) -> None:
    items = inputs(name)
    together = compiled_together(network, items)
    for item, found, (expected, _) in zip(items, together, plain_results(name), strict=True):
        assert len(found) == item.config.num_hypotheses or len(expected) < item.config.num_hypotheses
        assert_same(item, found, expected)


@pytest.mark.parametrize("name", COMMON)
def test_a_search_ends_at_the_step_at_which_the_plain_path_ends(name: str, network: PackedNetwork) -> None:
    for item, (_, steps) in zip(inputs(name), plain_results(name), strict=True):
        batch: KernelBatch[int] = KernelBatch(network, SPECIAL)
        batch.add([(0, item)])
        run(batch)
        assert batch.num_steps == steps


@pytest.mark.parametrize("variation", ["marian", "t5", "bart"])
def test_whole_families_give_what_the_plain_path_gives(variation: str) -> None:
    model = build(variation, output_scale=1.5)
    config = model.config
    packed, banned = PackedNetwork(model, "float32"), [config.pad_id, config.decoder_start_id]
    source = [5, 6, 7, 8, 9, config.eos_id]
    for name in ("greedy", "beam_3", "beam_5", "n_gram", "sampling"):
        item = GenerationInput(source, GenerationConfig(**OPTIONS[name]))
        assert_same(item, compiled_alone(packed, item, banned), generate(model, [item], banned)[0])


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("banned", [SPECIAL, (*SPECIAL, EOS), (*SPECIAL, *range(10, 50)), (), (EOS, 49, 49, 0)])
def test_tokens_that_are_always_banned_never_come(
    beam_size: int, banned: tuple[int, ...], model: Transformer, network: PackedNetwork
) -> None:
    config = GenerationConfig(beam_size=beam_size, num_hypotheses=beam_size, max_new_tokens=20)
    for length in LENGTHS[1:]:
        item = GenerationInput(draw_source(model.config, length, length), config)
        found = compiled_alone(network, item, banned)
        assert not {token for each in found for token in each.token_ids} & set(banned)
        assert_same(item, found, generate(model, [item], banned)[0])
        assert EOS not in banned or all(each.finish_reason == "length" for each in found)
    prefix = dataclasses.replace(config, target_prefix=(49, 0))
    assert compiled_alone(network, GenerationInput([5, EOS], prefix), banned)[0].token_ids[:2] == (49, 0)


@pytest.mark.parametrize("vocab_size", [50, 64, 65, 129])
@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_logits_far_from_zero_are_nothing_special(vocab_size: int, shift: float) -> None:
    """What fills a row of logits up to whole vectors is zero, and must not be taken for a logit."""
    model = small_network(vocab_size=vocab_size)
    with torch.no_grad():
        assert model.output_bias is not None
        model.output_bias.add_(shift)
    network = PackedNetwork(model, "float32")
    for name in ("greedy", "beam_5", "repetition"):
        # Logits around 1000 are 6e-5 apart, so probabilities agree to 1e-4; more tokens could be a close call.
        config = dataclasses.replace(GenerationConfig(**OPTIONS[name]), max_new_tokens=1)
        item = GenerationInput(draw_source(model.config, 7, 7), config)
        found, expected = compiled_alone(network, item), generate(model, [item], SPECIAL)[0]
        assert [each.token_ids for each in found] == [each.token_ids for each in expected]
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=3e-4)


def test_more_beams_than_words(model: Transformer, network: PackedNetwork) -> None:
    banned = tuple(token for token in range(VOCAB_SIZE) if token not in (EOS, 20, 21))
    for beam_size in (2, 7, MAX_BEAM_SIZE):
        config = GenerationConfig(beam_size=beam_size, num_hypotheses=beam_size, max_new_tokens=5, patience=10.0)
        item = GenerationInput([5, 6, EOS], config)
        assert_same(item, compiled_alone(network, item, banned), generate(model, [item], banned)[0])


def test_where_only_the_end_is_left_it_ends(model: Transformer, network: PackedNetwork) -> None:
    banned = tuple(token for token in range(VOCAB_SIZE) if token != EOS)
    for beam_size in (1, 3):
        item = GenerationInput([5, EOS], GenerationConfig(beam_size=beam_size, num_hypotheses=beam_size))
        found = compiled_alone(network, item, banned)
        assert [(each.token_ids, each.finish_reason) for each in found] == [((), "end")]
        assert_same(item, found, generate(model, [item], banned)[0])


@pytest.fixture(scope="module")
def tied_model() -> Transformer:
    """A network that gives each logit to several tokens: a logit is one state, doubled, so that no sum rounds.

    Tokens with equal logits are different inputs, so hypotheses that tie go on differently.
    """
    model = build("nothing_tied", vocab_size=200, output_bias=False)
    with torch.no_grad():
        assert model.output_weight is not None
        model.output_weight.zero_()
        model.output_weight[torch.arange(200), torch.arange(200) % 13] = 2.0
    return model


@pytest.mark.parametrize("beam_size", [1, 2, 3, 7, 20, 64])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_ties_are_broken_as_in_the_plain_path(beam_size: int, limit: int, tied_model: Transformer) -> None:
    network = PackedNetwork(tied_model, "float32")
    config = GenerationConfig(beam_size=beam_size, num_hypotheses=beam_size, max_new_tokens=limit, patience=3.0)
    for length in (2, 6):
        item = GenerationInput(draw_source(tied_model.config, length, length), config)
        expected = generate(tied_model, [item], SPECIAL)[0]
        assert beam_size < 7 or len({each.score for each in expected}) < len(expected)
        assert_same(item, compiled_alone(network, item), expected)
