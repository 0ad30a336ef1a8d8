"""Interrupting the compiled running batch: before a step, and from another thread in the middle of one."""

from __future__ import annotations

import threading

import pytest
import torch

from model.config import GenerationConfig, ModelConfig
from model.generation import GenerationInput, Hypothesis
from model.kernels.batch import MAX_STEPS, KernelBatch
from model.kernels.packing import PackedNetwork
from model.transformer import Transformer
from tests.unit.kernel_reference import compiled_alone, run
from tests.unit.table_model import EOS, SPECIAL

NEVER_ENDING = (*SPECIAL, EOS)
LIMIT = 100_000
LONG = GenerationInput([5] * 1000, GenerationConfig(beam_size=1, max_length_ratio=100))
"""Takes so many tokens, each of which looks at all before it, that it needs far longer than a thread to wake up."""


@pytest.fixture(scope="module")
def network() -> PackedNetwork:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=20, d_model=4, d_ff=4, num_heads=1, num_encoder_layers=1, num_decoder_layers=1,
        max_source_length=1000, max_target_length=LIMIT,
    )  # fmt: skip
    return PackedNetwork(Transformer(config).eval(), "float32")


def test_a_step_is_bounded_and_an_interrupt_before_it_concerns_only_it(network: PackedNetwork) -> None:
    batch: KernelBatch[int] = KernelBatch(network, NEVER_ENDING)
    batch.add([(0, LONG)])
    steps = []
    for interrupts in (0, 1, 0, 2, 1, 0):
        for _ in range(interrupts):
            batch.interrupt()
        assert batch.step() == []
        steps.append(batch.num_steps)
    assert MAX_STEPS > 1
    assert [after - before for before, after in zip([0, *steps], steps, strict=False)] == [
        *(MAX_STEPS, 1, MAX_STEPS, 1, 1, MAX_STEPS)
    ]


@pytest.mark.parametrize("rare", [False, True])
def test_a_step_that_searches_nothing_uses_an_interrupt_up(rare: bool, network: PackedNetwork) -> None:
    batch: KernelBatch[int] = KernelBatch(network, NEVER_ENDING)
    if rare:
        batch.add([(1, GenerationInput([5, EOS], GenerationConfig(max_new_tokens=4, no_repeat_ngram_size=3)))])
    batch.interrupt()
    assert batch.step() == []
    batch.remove(1)
    before = batch.num_steps
    batch.add([(0, LONG)])
    assert batch.step() == []
    assert batch.num_steps == before + MAX_STEPS


def test_interrupts_do_not_change_results(network: PackedNetwork) -> None:
    items = [GenerationInput([5, 6, key], GenerationConfig(beam_size=1 + key, max_new_tokens=40)) for key in range(4)]
    batch: KernelBatch[int] = KernelBatch(network, SPECIAL)
    batch.add(list(enumerate(items)))
    results: dict[int, list[Hypothesis]] = {}
    while batch.num_requests:
        batch.interrupt()
        before = batch.num_steps
        results |= dict(batch.step())
        assert batch.num_steps == before + 1
    assert results == {key: compiled_alone(network, item) for key, item in enumerate(items)}


def test_another_thread_ends_a_step_that_is_under_way(network: PackedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the interpreter's lock, or the other thread could not even ask."""
    monkeypatch.setattr("model.kernels.batch.MAX_STEPS", LIMIT)
    batch: KernelBatch[int] = KernelBatch(network, NEVER_ENDING)
    short = GenerationInput([5, EOS], GenerationConfig(beam_size=2, max_new_tokens=7))
    batch.add([(0, LONG)])
    batch.add([(1, short)])
    assert [key for key, _ in batch.step()] == [1]
    under_way = threading.Event()
    stop = threading.Event()

    def interrupt() -> None:
        under_way.wait(timeout=60)
        # The loop tells nobody how far it is, so its own count is looked at: then it is surely running.
        while batch._state.slots["length"].max() < 50 and not stop.is_set():
            pass
        batch.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    under_way.set()
    finished = batch.step()
    stop.set()
    thread.join(timeout=60)
    assert finished == []
    assert 50 <= batch.num_steps < LIMIT
    assert batch.num_requests == 1
    batch.add([(2, short)])
    batch.interrupt()
    batch.remove(0)
    assert run(batch) == {2: compiled_alone(network, short, NEVER_ENDING)}
