"""Forced decoding against the network in plain loops, against the search's own scores, alone, padded and in threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from model.config import GenerationConfig, ModelConfig
from model.errors import InvalidRequestError
from model.generation import GenerationInput, generate, plain_batch, score_target
from model.generation import forced as forced_module
from model.generation.forced import ForcedDecoding, force_decode
from model.transformer import Transformer
from tests.unit.naive_transformer import NaiveTransformer
from tests.unit.network_variations import VARIATIONS, build

EOS = 3
PAIRS = [([5, 6, 7, EOS], [8, 9, 10]), ([11, 12, 13, 14, 15, 16, EOS], [5]), ([9, EOS], []), ([20, 5, EOS], [7] * 9)]


def log_softmax(rows: np.ndarray) -> np.ndarray:
    shifted = rows - rows.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("variation", VARIATIONS)
def test_everything_is_what_the_naive_network_computes(variation: str) -> None:
    model = build(variation)
    eos = model.config.eos_id
    pairs = [([token for token in source if token != EOS] + [eos], target) for source, target in PAIRS]
    naive = NaiveTransformer(model)
    found = force_decode(model, pairs, self_attention=True, num_top=3, logits=True)
    for (source, target), each in zip(pairs, found, strict=True):
        logits = naive.logits(source, [model.config.decoder_start_id, *target])
        log_probs = log_softmax(logits)
        expected = [log_probs[step, token] for step, token in enumerate([*target, eos])]
        # Sums in float32, in another order; T5's logits are the largest.
        assert each.token_log_probs == pytest.approx(expected, abs=2e-4)
        assert each.log_prob == pytest.approx(sum(expected), abs=2e-3)
        assert each.logits is not None
        assert each.top_log_probs is not None
        assert each.top_tokens is not None
        np.testing.assert_allclose(each.logits, logits, atol=2e-4)
        np.testing.assert_allclose(each.top_log_probs, -np.sort(-log_probs, axis=1)[:, :3], atol=2e-4)
        np.testing.assert_allclose(np.take_along_axis(log_probs, each.top_tokens, 1), each.top_log_probs, atol=2e-4)
        for weights, side, kind in (
            (each.encoder_attention, "encoder", "self_attention"),
            (each.decoder_attention, "decoder", "self_attention"),
            (each.cross_attention, "decoder", "cross_attention"),
        ):
            assert weights is not None
            for layer, heads in enumerate(weights):
                np.testing.assert_allclose(heads, naive.attention[f"{side}.layers.{layer}.{kind}"], atol=1e-5)


def test_only_what_is_asked_for_is_returned() -> None:
    model = build("default")
    [scores] = force_decode(model, PAIRS[:1], cross_attention=False)
    [attended] = force_decode(model, PAIRS[:1])
    assert scores == ForcedDecoding(scores.token_log_probs)
    assert attended.cross_attention is not None
    assert attended.cross_attention.shape == (2, 4, 4, 4)  # layers, heads, three tokens and the end, source
    assert attended.encoder_attention is attended.decoder_attention is attended.logits is None
    assert attended.token_log_probs == pytest.approx(scores.token_log_probs, abs=1e-5)
    assert force_decode(model, []) == []


def test_small_portions_and_single_pairs_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("default")
    together = force_decode(model, PAIRS)
    monkeypatch.setattr(forced_module, "MAX_PADDED_TOKENS", 12)
    for others in (force_decode(model, PAIRS), [force_decode(model, [pair])[0] for pair in PAIRS]):
        for left, right in zip(together, others, strict=True):
            assert left.token_log_probs == pytest.approx(right.token_log_probs, abs=1e-5)
            assert left.cross_attention is not None
            assert right.cross_attention is not None
            np.testing.assert_allclose(left.cross_attention, right.cross_attention, atol=1e-6)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(11)
    config = ModelConfig(
        vocab_size=23, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=2,
        max_source_length=12, max_target_length=20, tie_output=False, output_scale=3.0, output_bias=True,
    )  # fmt: skip
    model = Transformer(config).eval()
    assert model.output_bias is not None
    with torch.no_grad():
        model.output_bias[EOS] = 9.0  # random weights alone hardly ever end
    return model


def test_scores_are_those_of_the_search_that_found_the_target(model: Transformer) -> None:
    sources = [[5, 6, 7, EOS], [8, 9, 10, 11, 12, 13, 5, EOS], [20, EOS]]
    config = GenerationConfig(beam_size=4, num_hypotheses=4, patience=3.0)
    checked = 0
    for source, hypotheses in zip(sources, generate(model, [GenerationInput(s, config) for s in sources]), strict=True):
        for hypothesis in hypotheses:
            [found] = force_decode(model, [(source, hypothesis.token_ids)])
            length = len(hypothesis.token_log_probs)  # one that was cut has no end token
            assert found.token_log_probs[:length] == pytest.approx(hypothesis.token_log_probs, abs=1e-4)
            checked += hypothesis.finish_reason == "end"
    assert checked > 0


def test_threads_share_a_network_with_a_batch_that_decodes(model: Transformer) -> None:
    pairs = [(source, target) for source, target in PAIRS if max([*source, *target]) < 23]
    expected = force_decode(model, pairs)
    stop, steps = threading.Event(), []

    def decode() -> None:
        batch = plain_batch(model)  # type: ignore[var-annotated]
        while not stop.is_set():
            batch.add([(0, GenerationInput([5, 6, 7, EOS], GenerationConfig(beam_size=3)))])
            while batch.num_requests:
                steps.append(batch.step())

    with ThreadPoolExecutor(3) as pool:
        decoding = pool.submit(decode)
        try:
            runs = [pool.submit(force_decode, model, pairs) for _ in range(30)]
            for run in runs:
                for left, right in zip(run.result(), expected, strict=True):
                    assert left.token_log_probs == right.token_log_probs
                    assert np.array_equal(left.cross_attention, right.cross_attention)  # type: ignore[arg-type]
        finally:
            stop.set()
        decoding.result()
    assert steps
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ([], [5], "source_ids"),
        ([5] * 13, [5], "source_ids"),
        ([5, 23], [5], "source_ids"),
        ([5, EOS], [5] * 21, "target_ids"),
        ([5, EOS], [-1], "target_ids"),
    ],
)
def test_what_does_not_fit_is_refused(model: Transformer, source: list[int], target: list[int], name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        force_decode(model, [([5, EOS], [6]), (source, target)])
    assert caught.value.name == name


def test_the_longest_source_and_target_fit(model: Transformer) -> None:
    shorter, longest = force_decode(model, [([5] * 12, [6] * 19), ([5] * 12, [6] * 20)])
    assert shorter.token_log_probs == pytest.approx(score_target(model, [5] * 12, [*[6] * 19, EOS]), abs=1e-4)
    assert longest.token_log_probs == pytest.approx(score_target(model, [5] * 12, [6] * 20), abs=1e-4)
    assert longest.cross_attention is not None
    assert longest.cross_attention.shape == (2, 2, 20, 12)
