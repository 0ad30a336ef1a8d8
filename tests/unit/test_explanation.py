"""The explanation of one sentence: against the network in plain loops, its own sums, and its limits."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

from model.config import ModelConfig
from model.errors import InvalidOptionError, InvalidRequestError, InvalidTextError, UnsupportedLanguageError
from model.explanation import Explanation, ExplanationOptions, explain, principal_components
from model.transformer import Transformer
from tests.unit.naive_transformer import NaiveTransformer, sinusoid
from tests.unit.tiny_tokenizer import VOCAB_SIZE, tiny_tokenizer

SOURCE = "  Ma sœur n'a jamais vu l'e\u0301te\u0301."
TARGET = "My sister has never seen summer."
ROUNDED = 6e-5
"""Half of the last of four digits, and what float32 owes."""


def build(**fields: object) -> Transformer:
    torch.manual_seed(3)
    small = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2}
    return Transformer(ModelConfig(vocab_size=VOCAB_SIZE, **small, **fields)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> Transformer:
    return build(tie_output=False, output_scale=3.0)


def run(network: Transformer, options: ExplanationOptions | None = None, source: str = SOURCE) -> Explanation:
    tokenizer = tiny_tokenizer()
    return explain(network, tokenizer, source, "en", tokenizer.encode_target(TARGET), options)


def test_numbers_are_those_of_the_naive_network(network: Transformer) -> None:
    found = run(network)
    naive = NaiveTransformer(network)
    source_ids = [token.id for token in found.source_tokens]
    target_ids = [token.id for token in found.target_tokens]
    logits = naive.logits(source_ids, [network.config.decoder_start_id, *target_ids])
    assert len(found.steps) == len(target_ids) + 1 == len(logits)
    for layer in range(2):
        expected = naive.attention[f"encoder.layers.{layer}.self_attention"]
        np.testing.assert_allclose(found.encoder_attention[layer], expected, atol=ROUNDED)
    for index, (step, row) in enumerate(zip(found.steps, logits, strict=True)):
        probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert [each.id for each in step.candidates[:8]] == np.argsort(-row)[:8].tolist()
        for each in step.candidates:
            assert each.logit == pytest.approx(row[each.id], abs=2e-4)
            assert each.probability == each.reshaped == pytest.approx(probabilities[each.id], abs=ROUNDED)
        assert step.probability == pytest.approx(probabilities[step.chosen.id], abs=ROUNDED)
        assert step.entropy == pytest.approx(-(probabilities * np.log2(probabilities)).sum(), abs=1e-3)
        assert step.num_survivors == VOCAB_SIZE
        for layer in range(2):
            cross = naive.attention[f"decoder.layers.{layer}.cross_attention"][:, index]
            own = naive.attention[f"decoder.layers.{layer}.self_attention"][:, index, : index + 1]
            np.testing.assert_allclose(step.cross_attention[layer], cross, atol=ROUNDED)
            np.testing.assert_allclose(step.self_attention[layer], own, atol=ROUNDED)
    scale, table = math.sqrt(16), naive.weights["source_embedding.weight"]
    np.testing.assert_allclose(found.embeddings, table[source_ids] * scale, atol=ROUNDED)
    np.testing.assert_allclose(found.embedding_norms, np.linalg.norm(table[source_ids] * scale, axis=1), atol=1e-4)
    np.testing.assert_allclose(
        found.positions, [sinusoid(p, 16, "interleaved") for p in range(len(source_ids))], atol=ROUNDED
    )


def test_tokens_lead_from_text_to_text(network: Transformer) -> None:
    tokenizer = tiny_tokenizer()
    found = run(network)
    first, *pieces, last = found.source_tokens
    assert (first.piece, first.special, first.start, first.end) == ("<2en>", True, 0, 0)
    assert (last.id, last.special, last.start, last.end) == (tokenizer.eos_id, True, len(SOURCE), len(SOURCE))
    assert not any(token.special for token in pieces)
    assert SOURCE[pieces[-1].start : pieces[-1].end] == "."
    assert found.target == TARGET
    assert [TARGET[t.start : t.end] for t in found.target_tokens] == [
        t.piece.replace("\u2581", "") for t in found.target_tokens
    ]
    assert [step.chosen for step in found.steps[:-1]] == found.target_tokens == [step.input for step in found.steps[1:]]
    assert found.steps[0].input.id == tokenizer.bos_id
    assert found.steps[-1].chosen.id == tokenizer.eos_id
    assert all(step.chosen.id in [each.id for each in step.candidates] for step in found.steps)


def test_the_distribution_is_reshaped_as_sampling_does(network: Transformer) -> None:
    plain, cut = run(network), run(network, ExplanationOptions(temperature=0.5, top_k=3, num_candidates=5))
    for before, after in zip(plain.steps, cut.steps, strict=True):
        assert [each.survives for each in after.candidates[:5]] == [True, True, True, False, False]
        assert after.num_survivors == 3
        squares = [each.probability**2 for each in before.candidates[:3]]  # what a temperature of a half does
        expected = [square / sum(squares) for square in squares]
        assert [each.reshaped for each in after.candidates[:3]] == pytest.approx(expected, abs=5e-3)
        assert [each.probability for each in after.candidates[:5]] == [
            each.probability for each in before.candidates[:5]
        ]
    nucleus = run(network, ExplanationOptions(top_p=0.2))
    for step in nucleus.steps:
        survivors = [each for each in step.candidates if each.survives]
        if step.num_survivors <= len(survivors):
            assert sum(each.probability for each in survivors) >= 0.2 - 1e-3
            assert sum(each.probability for each in survivors[:-1]) < 0.2


def test_principal_components_keep_distances_of_flat_points() -> None:
    points = np.array([[3.0, 0.0], [-3.0, 0.5], [1.0, -1.0], [-1.0, 0.5]])
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 2)))[0]
    found = principal_components(points @ axes.T)
    for i in range(4):
        for j in range(4):
            assert np.linalg.norm(found[i] - found[j]) == pytest.approx(np.linalg.norm(points[i] - points[j]))
    assert found[:, 0].var() > found[:, 1].var()
    assert found[np.abs(found).argmax(axis=0), [0, 1]].min() > 0
    assert principal_components(np.ones((1, 9))).tolist() == [[0, 0]]


def test_it_is_plain_json_with_short_numbers(network: Transformer) -> None:
    text = json.dumps(dataclasses.asdict(run(network)), allow_nan=False)
    numbers = re.findall(r"(?<=[\[ ])-?\d+\.(\d+)(?=[,\]}])", text)
    assert len(numbers) > 1000
    assert max(map(len, numbers)) == 4
    assert json.loads(text)["target"] == TARGET


def test_sizes_are_bounded(network: Transformer) -> None:
    tokenizer = tiny_tokenizer()
    fits = next("7" * count for count in range(70) if len(tokenizer.encode_target("7" * count)) == 62)
    assert len(run(network, source=fits).source_tokens) == 64
    with pytest.raises(InvalidTextError, match="at most 62 tokens"):
        run(network, source=fits + "7")
    with pytest.raises(InvalidRequestError, match="at most 96"):
        explain(network, tokenizer, "a", "en", [300] * 97)
    with pytest.raises(UnsupportedLanguageError):
        explain(network, tokenizer, "a", "de", [300])
    shown = run(network, ExplanationOptions(num_dimensions=3, num_candidates=1))
    assert {len(row) for row in shown.embeddings} == {len(row) for row in shown.positions} == {3}
    assert max(len(step.candidates) for step in shown.steps) <= 2


def test_a_network_with_relative_positions_has_none_to_show() -> None:
    assert run(build(position_type="relative")).positions == []


def test_an_empty_source_and_target_can_be_explained(network: Transformer) -> None:
    found = explain(network, tiny_tokenizer(), "", "fr", [])
    assert len(found.source_tokens) == 2
    assert len(found.steps) == 1
    assert found.target == ""


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"temperature": 0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"num_candidates": 51}, "num_candidates"),
        ({"num_dimensions": 0}, "num_dimensions"),
    ],
)
def test_options_out_of_range_are_refused(fields: dict[str, float], name: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        ExplanationOptions(**fields)  # type: ignore[arg-type]
    assert caught.value.name == name
