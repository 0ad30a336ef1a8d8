"""Decoding with the real network: cached and batched search against `forward` from scratch at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from model.config import GenerationConfig, ModelConfig
from model.generation import DecodingBatch, GenerationInput, Hypothesis, generate, plain_batch, score_target
from model.transformer import Transformer
from tests.unit.naive_beam import naive_beam
from tests.unit.table_model import BOS, EOS, SPECIAL

VOCAB_SIZE = 23
CONFIGS = [
    GenerationConfig(beam_size=1),
    GenerationConfig(beam_size=4, num_hypotheses=3, length_penalty=0.6),
    GenerationConfig(beam_size=3, patience=2.0, no_repeat_ngram_size=2, repetition_penalty=1.2),
    GenerationConfig(beam_size=2, target_prefix=(9, 5, 7), min_new_tokens=6),
    GenerationConfig(beam_size=1, sampling=True, seed=4, num_hypotheses=3, temperature=0.8),
]
SOURCES = [[5, 6, 7, EOS], [8, 9, 10, 11, 12, 13, 5, EOS], [20, EOS], [6, 6, 6, 9, 4, EOS]]


class FromScratch:
    """The same network, asked anew for every single token, without cache, batch or padding."""

    def __init__(self, model: Transformer) -> None:
        self._model = model

    def next_logits(self, source_ids: Sequence[int], target_ids: Sequence[int]) -> list[float]:
        with torch.inference_mode():
            logits = self._model(torch.tensor([list(source_ids)]), torch.tensor([[BOS, *target_ids]]))
        last: list[float] = logits[0, -1].tolist()
        return last


@pytest.fixture(scope="module", params=["sinusoidal", "relative"])
def model(request: pytest.FixtureRequest) -> Iterator[Transformer]:
    torch.manual_seed(11)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products gain nothing from threads, and wait for them on a busy machine
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        position_type=request.param,
        max_target_length=40,
        tie_output=False,
        output_scale=3.0,  # random weights alone would make every token about as probable as any other
    )
    yield Transformer(config).eval()
    torch.set_num_threads(num_threads)


def inputs() -> list[GenerationInput]:
    return [GenerationInput(source, config) for config in CONFIGS for source in SOURCES]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[list[Hypothesis]]:
    return [generate(model, [item], SPECIAL)[0] for item in inputs()]


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(each.token_ids, each.finish_reason) for each in found] == [
        (each.token_ids, each.finish_reason) for each in expected
    ]
    for left, right in zip(found, expected, strict=True):
        # float32 rounding of matrix products that differ in shape
        assert left.token_log_probs == pytest.approx(right.token_log_probs, abs=1e-4)
        assert left.score == pytest.approx(right.score, abs=1e-4)


def test_the_random_network_is_a_test_at_all(model: Transformer) -> None:
    found = [each for hypotheses in generate(model, inputs(), SPECIAL) for each in hypotheses]
    assert len({each.token_ids for each in found}) > 20
    assert len({token for each in found for token in each.token_ids}) > 10
    assert sum(len(each.token_ids) for each in found) > 10 * len(found)


@pytest.mark.parametrize("index", range(16))
def test_cached_search_is_search_from_scratch(model: Transformer, index: int) -> None:
    item = inputs()[index]
    [found] = generate(model, [item], SPECIAL)
    limit = item.token_limit(model.config)
    assert_same(found, naive_beam(FromScratch(model), list(item.source_ids), item.config, limit))


def test_together_is_alone(model: Transformer, alone: list[list[Hypothesis]]) -> None:
    for found, expected in zip(generate(model, inputs(), SPECIAL), alone, strict=True):
        assert_same(found, expected)


def test_joining_on_the_way_is_alone(model: Transformer, alone: list[list[Hypothesis]]) -> None:
    batch: DecodingBatch[int] = plain_batch(model, SPECIAL)
    waiting = list(enumerate(inputs()))
    results: dict[int, list[Hypothesis]] = {}
    while waiting or batch.num_requests:
        batch.add(waiting[:1])
        del waiting[:1]
        results |= dict(batch.step())
    for key, expected in enumerate(alone):
        assert_same(results[key], expected)


def test_scores_are_those_of_forced_decoding(model: Transformer, alone: list[list[Hypothesis]]) -> None:
    for item, hypotheses in zip(inputs(), alone, strict=True):
        if item.config.repetition_penalty != 1.0:
            continue  # its scores are those of the penalised distribution
        for each in hypotheses:
            target = [*each.token_ids, EOS] if each.finish_reason == "end" else list(each.token_ids)
            expected = score_target(model, item.source_ids, target)
            assert each.token_log_probs == pytest.approx(expected, abs=1e-4)
            assert each.log_prob == pytest.approx(sum(expected), abs=1e-4)


def test_decoding_in_bfloat16_works_and_repeats_itself(model: Transformer) -> None:
    low = Transformer(model.config).eval()
    low.load_state_dict(model.state_dict())
    low = low.to(torch.bfloat16)
    first = generate(low, inputs(), SPECIAL)
    assert first == generate(low, inputs(), SPECIAL)
    assert all(each.score <= 0 for found in first for each in found)


def test_a_model_in_training_mode_is_refused(model: Transformer) -> None:
    training = Transformer(model.config).train()
    with pytest.raises(AssertionError, match="eval"):
        plain_batch(training)
    with pytest.raises(AssertionError, match="eval"):
        score_target(training, [5], [6])
