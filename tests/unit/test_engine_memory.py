"""The engine when a device lacks memory: smaller batches, nothing lost; and the budget that is measured beforehand."""

from __future__ import annotations

import random
import weakref
from typing import Any

import pytest
import torch

from model.config import EngineConfig, GenerationConfig, ModelConfig
from model.engine.device import count_workers, is_fatal, is_out_of_memory, memory_releaser, token_budget
from model.engine.memory import CACHE_COPIES, UNMEASURED_BATCH_TOKENS, bytes_per_position, measured_budget
from model.engine.request import Request
from model.errors import DecodingError, RequestCancelledError
from model.generation import Hypothesis
from model.transformer import Transformer
from tests.unit.scripted_engine import GREEDY, TIMEOUT, Script, ScriptedBatch, StartEngine, inputs, names

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_batch_that_is_too_large_to_join_is_halved(
    start: StartEngine, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    released: list[int] = []
    engine = start(max_batch_tokens=48, release_memory=lambda: released.append(len(script.shortages)))
    script.memory = 3
    requests = engine.submit_many(inputs((1, 2), (2, 2), (3, 2), (4, 2)))
    assert engine.stats().max_batch_tokens == 48
    script.run_freely()
    assert names(requests) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert script.shortages == [[1, 2, 3, 4]]
    assert released == [1]
    assert script.tokens == [[1, 2], [1, 2], [3, 4], [3, 4]]
    stats = engine.stats()
    assert (stats.max_batch_tokens, stats.finished_requests, stats.failed_requests) == (24, 4, 0)
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(messages) == 1
    assert "48" in messages[0]
    assert "24" in messages[0]


def test_a_batch_that_runs_out_of_memory_in_a_step_starts_again(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=48)
    script.errors[1] = OUT_OF_MEMORY
    requests = engine.submit_many(inputs((1, 1), (2, 3), (3, 3), (4, 3), (5, 1)))
    script.run_freely()
    assert names(requests) == [(1,), (2, 2, 2), (3, 3, 3), (4, 4, 4), (5,)]
    assert script.tokens[:3] == [[1, 2, 3, 4], [2, 3, 4], [2, 3]]
    assert script.tokens[3:5] == [[2, 3], [2, 3]]
    assert sorted(script.tokens[5]) == [4, 5]
    assert engine.stats().max_batch_tokens == 24


def test_halving_goes_on_until_the_batch_fits(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=8 * 12)
    script.memory = 1
    requests = engine.submit_many(inputs(*[(number, 1) for number in range(1, 9)]))
    script.run_freely()
    assert names(requests) == [(number,) for number in range(1, 9)]
    assert [len(shortage) for shortage in script.shortages] == [8, 4, 2]
    assert engine.stats().max_batch_tokens == 12


def test_a_request_that_lacks_memory_alone_fails_and_names_the_rule(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=1000)
    script.memory = 2
    small, other = engine.submit_many(inputs((1, 1), (2, 1)))
    large = engine.submit([3, 1], GenerationConfig(beam_size=3, max_new_tokens=10))
    script.run_freely()
    assert names([small, other]) == [(1,), (2,)]
    error = large.future.exception(timeout=TIMEOUT)
    assert isinstance(error, DecodingError)
    assert "must fit into the device's memory" in str(error)
    assert "36 token positions" in str(error)
    budget = engine.stats().max_batch_tokens
    again = engine.submit([3, 1], GenerationConfig(beam_size=3, max_new_tokens=10))
    assert isinstance(again.future.exception(timeout=TIMEOUT), DecodingError)
    assert engine.stats().max_batch_tokens == budget  # a smaller one would not help it
    assert names([engine.submit([4, 1], GREEDY)]) == [(4,)]
    assert engine.stats().failed_requests == 2


def test_a_request_cancelled_in_the_shortage_is_not_tried_again(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=36)
    script.errors[0] = OUT_OF_MEMORY
    requests = engine.submit_many(inputs((1, 2), (2, 2), (3, 2)))
    script.wait_for_step()
    assert requests[0].cancel()
    script.run_freely()
    assert names(requests[1:]) == [(2, 2), (3, 3)]
    assert isinstance(requests[0].future.exception(timeout=0), RequestCancelledError)
    assert not any(1 in row for row in script.tokens[1:])


def test_what_ran_out_of_memory_goes_before_what_waited(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=24)
    script.errors[0] = OUT_OF_MEMORY
    requests = engine.submit_many(inputs(*[(number, 1) for number in range(1, 7)]), caller="list")
    script.wait_for_step()
    late = engine.submit([9, 1], GREEDY, caller="late")
    script.run_freely()
    names([*requests, late])
    assert script.tokens[:2] == [[1, 2], [1]]
    assert [row for row in script.tokens[2:] if 9 in row] == [[9]]
    assert script.tokens.index([2]) <= 3  # its caller's turn, and the late one's, in either order


def test_several_workers_share_the_halved_budget(start: StartEngine, script: Script) -> None:
    engine = start(max_batch_tokens=48, num_workers=2)
    script.memory = 2
    requests = engine.submit_many(inputs(*[(number, 1) for number in range(1, 17)]))
    script.run_freely()
    assert names(requests) == [(number,) for number in range(1, 17)]
    assert max(map(len, script.tokens)) == 2
    assert engine.stats().max_batch_tokens == 24  # not halved again by the worker that was late


class Block:
    """Stands for a tensor that only the failed step needs."""


class HoardingBatch(ScriptedBatch):
    """Has a block in its step when memory runs out, as a network's activations are."""

    blocks: list[weakref.ref[Block]]

    def step(self) -> list[tuple[Request, list[Hypothesis]]]:
        block = Block()
        self.blocks.append(weakref.ref(block))
        if len(self.blocks) == 1:
            raise OUT_OF_MEMORY
        return super().step()


def test_the_memory_of_the_failed_step_is_free_before_the_device_gets_it_back(
    start: StartEngine, script: Script
) -> None:
    HoardingBatch.blocks = []
    alive: list[bool] = []

    def release() -> None:
        alive.append(HoardingBatch.blocks[0]() is not None)

    engine = start(new_batch=lambda: HoardingBatch(script), release_memory=release)
    script.run_freely()
    names(engine.submit_many(inputs((1, 1), (2, 1))))
    assert alive == [False]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OUT_OF_MEMORY, True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("The following operation failed in the TorchScript interpreter: CUDA out of memory."), True),
        (MemoryError(), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_mean_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
    assert is_fatal(error) == (isinstance(error, torch.AcceleratorError) and not expected)


def test_the_cache_of_a_real_network_needs_what_is_counted() -> None:
    """Count the bytes of the tensors of a cache; then everything else that is counted is the logits."""
    shape = ModelConfig(
        vocab_size=30, d_model=12, d_ff=8, num_heads=2, head_dim=5, num_encoder_layers=1, num_decoder_layers=3
    )
    source = torch.randint(4, 30, (2, 9))
    network = Transformer(shape).eval()
    with torch.inference_mode():
        mask = torch.ones(2, 9, dtype=torch.bool)
        cache = network.start_cache(network.encode(source, mask), mask, capacity=7)
    tensors = (cache.cross_keys, cache.cross_values, cache.self_keys, cache.self_values)
    cached = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with_logits, without = bytes_per_position(shape, 4), CACHE_COPIES * cached // (2 * (9 + 7))
    assert cached % (2 * (9 + 7)) == 0
    assert with_logits - without == bytes_per_position(shape, 2) - without // 2 > 0


def test_measured_budget() -> None:
    assert measured_budget(1_000_000, position_bytes=100, longest_request=640) == 8000
    assert measured_budget(1_000, position_bytes=100, longest_request=640) == 640
    numbers = random.Random(1)
    for _ in range(200):
        free, each = numbers.randrange(10**11), numbers.randrange(1, 10**6)
        budget = measured_budget(free, each, longest_request=1)
        assert budget == 1 or budget * each <= free
        assert (budget + 1) * each > 0.79 * free


def test_the_budget_is_measured_where_it_is_left_open() -> None:
    shape = ModelConfig(vocab_size=1000, d_model=64, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=2)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")

    def budget(device: torch.device, free_bytes: int = 10**9, **options: Any) -> int:
        return token_budget(EngineConfig(**options), device, shape, lambda _: free_bytes)

    assert budget(cuda, max_batch_tokens=77) == budget(cpu, max_batch_tokens=77) == 77
    assert budget(cpu, max_batch_tokens=0) == UNMEASURED_BATCH_TOKENS
    measured = budget(cuda, max_batch_tokens=0)
    assert measured == measured_budget(10**9, bytes_per_position(shape, 2), 640)
    assert budget(cuda, max_batch_tokens=0, dtype="float32") < measured
    assert budget(cuda, max_batch_tokens=0, num_workers=2) == measured // 2
    assert budget(cuda, free_bytes=0, max_batch_tokens=0) == shape.max_source_length + shape.max_target_length


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.engine.device.usable_cores", lambda: 7)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert count_workers(EngineConfig(), cpu) == 7
    assert count_workers(EngineConfig(num_threads=3), cpu) == 2
    assert count_workers(EngineConfig(num_threads=8), cpu) == 1
    assert count_workers(EngineConfig(num_workers=5), cpu) == count_workers(EngineConfig(num_workers=5), cuda) == 5
    assert count_workers(EngineConfig(), cuda) == 1


def test_only_cuda_keeps_memory_to_give_back() -> None:
    assert memory_releaser(torch.device("cuda")) is torch.cuda.empty_cache
    memory_releaser(torch.device("cpu"))()  # does nothing, and needs no CUDA for it
