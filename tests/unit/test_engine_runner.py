"""The runner with a batch that only keeps books: joining, leaving, guilty requests; and the choice of the device."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from model.config import EngineConfig, GenerationConfig, ModelConfig
from model.engine.device import float_dtype, place, select_device
from model.engine.request import Request
from model.engine.runner import Runner, group_by_length
from model.errors import ConfigurationError
from model.generation import GenerationInput, Hypothesis, NonFiniteLogitsError
from model.transformer import Transformer

HYPOTHESIS = Hypothesis((5,), -0.5, -1.0, (-0.5, -0.5), "end")
BAD = 13  # a source with this token cannot be encoded


class BookkeepingBatch:
    """Finishes every request at its first step; refuses bad sources before anybody has joined."""

    def __init__(self, damaging: bool = False) -> None:
        self.added: list[list[Request]] = []
        self.requests: list[Request] = []
        self.non_finite: list[Request] = []
        self.damaging = damaging
        self.num_steps = 0
        self.interrupts = 0

    @property
    def num_rows(self) -> int:
        return sum(request.num_rows for request in self.requests)

    @property
    def num_requests(self) -> int:
        return len(self.requests)

    def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None:
        if any(BAD in item.source_ids for _, item in items):
            if self.damaging:
                self.requests.append(items[0][0])
            raise IndexError("no such token")
        assert all(item == GenerationInput(request.source_ids, request.config) for request, item in items)
        self.added.append([request for request, _ in items])
        self.requests += self.added[-1]

    def interrupt(self) -> None:
        self.interrupts += 1

    def step(self) -> list[tuple[Request, list[Hypothesis]]]:
        self.num_steps += 1
        if self.non_finite:
            failed, self.non_finite = self.non_finite, []
            self.requests = [request for request in self.requests if request not in failed]
            raise NonFiniteLogitsError(failed)
        finished, self.requests = self.requests, []
        return [(request, [HYPOTHESIS]) for request in finished]

    def remove(self, key: Request) -> None:
        self.requests.remove(key)


def new_request(length: int, token: int = 7) -> Request:
    """A request of ``length`` times the same token."""
    return Request((token,) * length, GenerationConfig(beam_size=2), reserved_tokens=5)


def test_requests_join_and_leave() -> None:
    batch = BookkeepingBatch()
    runner = Runner(lambda: batch)
    assert runner.num_rows == runner.num_requests == 0
    first, second = new_request(4), new_request(4)
    assert runner.admit([first, second]) == []
    assert (runner.num_rows, runner.num_requests) == (4, 2)
    runner.remove(first)
    runner.remove(first)  # it has left already
    assert runner.num_requests == 1
    assert runner.step() == ([(second, [HYPOTHESIS])], [])
    assert runner.num_requests == 0


def test_steps_and_interrupts_are_those_of_the_batch() -> None:
    batch = BookkeepingBatch()
    runner = Runner(lambda: batch)
    runner.interrupt()  # there is no batch yet
    assert runner.num_steps == 0
    request = new_request(4)
    runner.admit([request])
    assert runner.requests == [request]
    runner.step()
    runner.interrupt()
    assert (runner.num_steps, batch.interrupts) == (1, 1)
    runner.reset()
    assert runner.num_steps == 0


def test_a_lack_of_memory_concerns_the_whole_batch() -> None:
    class FullBatch(BookkeepingBatch):
        def add(self, items: Sequence[tuple[Request, GenerationInput]]) -> None:  # noqa: ARG002
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Runner(FullBatch).admit([new_request(4), new_request(4)])


def test_sources_of_like_length_are_encoded_together() -> None:
    batch = BookkeepingBatch()
    lengths = [3, 40, 21, 6, 20, 19, 1]
    Runner(lambda: batch).admit([new_request(length) for length in lengths])
    assert [[request.source_length for request in group] for group in batch.added] == [[40, 21, 20], [19], [6, 3], [1]]


@pytest.mark.parametrize("lengths", [[], [5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100]])
def test_groups_keep_everybody(lengths: list[int]) -> None:
    requests = [new_request(length) for length in lengths]
    groups = group_by_length(requests)
    assert sorted(map(id, (request for group in groups for request in group))) == sorted(map(id, requests))
    for group in groups:
        assert 2 * min(each.source_length for each in group) >= max(each.source_length for each in group)


def test_guilty_requests_fail_alone() -> None:
    batch = BookkeepingBatch()
    runner = Runner(lambda: batch)
    good, bad, other, single = new_request(4), new_request(4, BAD), new_request(4), new_request(1, BAD)
    failures = runner.admit([good, bad, other, single])
    assert [request for request, _ in failures] == [bad, single]
    assert all(isinstance(error, IndexError) for _, error in failures)
    assert batch.requests == [good, other]
    assert runner.num_requests == 2


def test_damage_by_joining_is_no_single_requests_failure() -> None:
    runner = Runner(lambda: BookkeepingBatch(damaging=True))
    with pytest.raises(IndexError):
        runner.admit([new_request(4, BAD)])


def test_non_finite_logits_concern_only_some() -> None:
    batch = BookkeepingBatch()
    runner = Runner(lambda: batch)
    good, bad = new_request(4), new_request(4)
    runner.admit([good, bad])
    batch.non_finite = [bad]
    finished, failures = runner.step()
    assert finished == []
    assert [request for request, _ in failures] == [bad]
    assert runner.step() == ([(good, [HYPOTHESIS])], [])


def test_reset_lets_go_of_the_batch() -> None:
    batches: list[BookkeepingBatch] = []

    def new_batch() -> BookkeepingBatch:
        batches.append(BookkeepingBatch())
        return batches[-1]

    runner = Runner(new_batch)
    first = new_request(4)
    runner.admit([first])
    runner.reset()
    assert (runner.num_rows, runner.num_requests, len(batches)) == (0, 0, 1)
    runner.remove(first)
    runner.admit([new_request(4)])
    assert len(batches) == 2


def test_device_thread_setting_and_inference_mode() -> None:
    before = torch.get_num_threads()
    try:
        for num_threads in (2, 1):
            with Runner(BookkeepingBatch, num_threads).own_device():
                assert torch.is_inference_mode_enabled()
                assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert not torch.is_inference_mode_enabled()


def test_select_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert select_device("auto") == torch.device("cpu")
    assert select_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "tpu", "meta", "", "cpu:x"):
        with pytest.raises(ConfigurationError) as caught:
            select_device(name)
        assert caught.value.name == "device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto") == torch.device("cuda")
    assert select_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigurationError, match="2 CUDA devices"):
        select_device("cuda:2")


def test_the_plain_networks_number_format() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert (float_dtype("auto", cuda), float_dtype("auto", cpu)) == (torch.float16, torch.float32)
    assert float_dtype("bfloat16", cuda) == float_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ConfigurationError) as caught:
        float_dtype("int8", cuda)
    assert caught.value.name == "dtype"


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_place_readies_the_model(name: str, dtype: torch.dtype) -> None:
    model = Transformer(
        ModelConfig(vocab_size=20, d_model=8, d_ff=8, num_heads=2, num_encoder_layers=1, num_decoder_layers=1)
    )
    config = EngineConfig(device="cpu", dtype=name)  # type: ignore[arg-type]
    assert place(model.train(), config) is model
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
