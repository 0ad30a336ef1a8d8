"""The engine with a real, tiny network: a request's hypotheses do not depend on what else is in the batch."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
import torch

from model.config import EngineConfig, GenerationConfig, ModelConfig
from model.engine.engine import Engine
from model.generation import GenerationInput, Hypothesis, generate
from model.transformer import Transformer

TIMEOUT = 60.0
BANNED = (0, 1, 2)
SEARCHES = (
    GenerationConfig(beam_size=1),
    GenerationConfig(beam_size=1, max_new_tokens=3),
    GenerationConfig(beam_size=4, num_hypotheses=3),
    GenerationConfig(beam_size=3, length_penalty=0.2, no_repeat_ngram_size=2),
    GenerationConfig(beam_size=2, repetition_penalty=1.3, min_new_tokens=4),
    GenerationConfig(beam_size=1, sampling=True, num_hypotheses=2, temperature=0.7, seed=11),
    GenerationConfig(beam_size=1, sampling=True, top_k=5, top_p=0.9, seed=3),
    GenerationConfig(beam_size=2, target_prefix=(7, 8), banned_tokens=(9, 10)),
)


@pytest.fixture(scope="module")
def network() -> Transformer:
    """Two layers each side, with weights large enough that its choices are clear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Transformer(
            ModelConfig(
                vocab_size=40, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=2, num_decoder_layers=2,
                max_source_length=40, max_target_length=24,
            )
        )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


@pytest.fixture(scope="module")
def inputs() -> list[GenerationInput]:
    """Sources of all lengths with all kinds of options."""
    numbers = random.Random(7)
    return [
        GenerationInput(
            tuple(numbers.randrange(4, 40) for _ in range(numbers.choice((1, 2, 3, 5, 8, 13, 40)))),
            replace(SEARCHES[number % len(SEARCHES)], max_length_ratio=numbers.choice((0.5, 1.0, 2.0))),
        )
        for number in range(48)
    ]


@pytest.fixture(scope="module")
def alone(network: Transformer, inputs: list[GenerationInput]) -> list[list[Hypothesis]]:
    """The hypotheses of each input when nothing else is decoded."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads only wait for each other over matrices this small
    try:
        return [generate(network, [item], BANNED)[0] for item in inputs]
    finally:
        torch.set_num_threads(num_threads)


def assert_same(actual: list[Hypothesis], expected: list[Hypothesis]) -> None:
    """Equal tokens and reasons; log-probabilities up to the rounding of float32 sums in another order."""
    assert [each.token_ids for each in actual] == [each.token_ids for each in expected]
    assert [each.finish_reason for each in actual] == [each.finish_reason for each in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.token_log_probs == pytest.approx(other.token_log_probs, abs=2e-5)
        assert one.score == pytest.approx(other.score, abs=2e-5)


@pytest.mark.parametrize(("max_batch_tokens", "num_workers"), [(1, 1), (300, 1), (300, 3), (100_000, 2)])
def test_same_as_alone_whatever_the_budget_and_the_workers(
    network: Transformer,
    inputs: list[GenerationInput],
    alone: list[list[Hypothesis]],
    max_batch_tokens: int,
    num_workers: int,
) -> None:
    config = EngineConfig(device="cpu", dtype="float32", num_workers=num_workers, max_batch_tokens=max_batch_tokens)
    with Engine(network, config, BANNED) as engine:
        requests = engine.submit_many(inputs)
        for request, expected in zip(requests, alone, strict=True):
            assert_same(request.future.result(timeout=TIMEOUT), expected)
        stats = engine.stats()
    assert stats.finished_requests == len(inputs)
    assert stats.generated_tokens == sum(len(hypotheses[0].token_ids) for hypotheses in alone)
    assert stats.source_tokens == sum(len(item.source_ids) for item in inputs)


def test_same_as_alone_from_many_threads_among_cancellations(
    network: Transformer, inputs: list[GenerationInput], alone: list[list[Hypothesis]]
) -> None:
    results: dict[tuple[int, int], list[Hypothesis]] = {}
    num_callers = 6
    barrier = threading.Barrier(num_callers)

    def call(caller: int, engine: Engine) -> None:
        order = random.Random(caller).sample(range(len(inputs)), len(inputs))
        barrier.wait(timeout=TIMEOUT)
        for start in range(0, len(order), 7):
            requests = engine.submit_many([inputs[number] for number in order[start : start + 7]], caller=str(caller))
            disturbance = engine.submit([5] * (1 + start % 40), SEARCHES[caller])
            results[caller, order[start]] = requests[0].future.result(timeout=TIMEOUT)
            disturbance.cancel()
            for number, request in zip(order[start : start + 7], requests, strict=False):
                results[caller, number] = request.future.result(timeout=TIMEOUT)

    config = EngineConfig(device="cpu", dtype="float32", num_workers=2, max_batch_tokens=700)
    with Engine(network, config, BANNED) as engine:
        callers = [threading.Thread(target=call, args=(caller, engine)) for caller in range(num_callers)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join(timeout=TIMEOUT)
        stats = engine.stats()
    assert len(results) == num_callers * len(inputs)
    for (_, number), hypotheses in results.items():
        assert_same(hypotheses, alone[number])
    assert stats.decoded_rows > 1.5 * stats.steps  # they did share batches


def test_damaged_weights_are_an_error_and_not_a_translation() -> None:
    model = Transformer(
        ModelConfig(vocab_size=40, d_model=8, d_ff=8, num_heads=1, num_encoder_layers=1, num_decoder_layers=1)
    )
    with torch.no_grad():
        model.source_embedding.weight[5].fill_(float("nan"))
    with Engine(model, EngineConfig(device="cpu", dtype="float32", num_workers=1)) as engine:
        request = engine.submit([5, 6, 3], GenerationConfig(beam_size=1))
        assert "not finite" in str(request.future.exception(timeout=TIMEOUT))
        assert engine.stats().failed_requests == 1
        assert engine.stats().accepting


def test_bfloat16_decodes(inputs: list[GenerationInput]) -> None:
    torch.manual_seed(1)
    model = Transformer(
        ModelConfig(vocab_size=40, d_model=16, d_ff=32, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    )
    with Engine(model, EngineConfig(device="cpu", dtype="bfloat16", num_workers=1), BANNED) as engine:
        for request in engine.submit_many(inputs[:8]):
            hypotheses = request.future.result(timeout=TIMEOUT)
            assert all(not set(BANNED).intersection(each.token_ids) for each in hypotheses)
            assert all(each.score <= 0 for each in hypotheses)
