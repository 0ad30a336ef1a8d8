"""Capture and replay: which step is called, captured and repeated, and when memory may be used again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.graphs.graphs import DirectLauncher, GraphLauncher, new_launcher

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Record:
    """What a launcher asked CUDA to do, with stand-ins for CUDA's objects."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.num_pools = 0

    def stand_in(self, name: str) -> type:
        record = self

        class StandIn:
            def __init__(self, *arguments: Any, **options: Any) -> None:
                del arguments, options

            def __enter__(self) -> None:
                record.events.append(f"{name} begins")

            def __exit__(self, *error: object) -> None:
                record.events.append(f"{name} ends")

            def __getattr__(self, method: str) -> Any:
                return lambda *_, **__: record.events.append(method)

        return StandIn

    def new_pool(self) -> int:
        self.num_pools += 1
        return self.num_pools


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    record = Record()
    for name in ("Stream", "Event", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, record.stand_in(name))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", record.new_pool)
    return record


def test_the_second_step_is_captured_and_then_replayed(record: Record) -> None:
    launcher = GraphLauncher(torch.device("cuda:0"))
    record.events.clear()

    def step() -> None:
        record.events.append("step")

    launcher.run((1, "a"), step)
    assert record.events == ["step"]
    launcher.run((1, "a"), step)
    assert record.events[1:] == ["graph begins", "step", "graph ends", "replay"]
    launcher.run((1, "a"), step)
    assert record.events[5:] == ["replay"]
    launcher.run((1, "b"), step)
    assert record.events[6:] == ["step"]


def test_forgotten_graphs_are_captured_anew_in_a_pool_that_is_in_use_or_new(record: Record) -> None:
    launcher = GraphLauncher(torch.device("cuda:0"))
    for key in ((1, "a"), (2, "a")):
        launcher.run(key, lambda: None)
        launcher.run(key, lambda: None)
    record.events.clear()
    launcher.forget(1)
    assert record.events == ["synchronize"]  # it may still be running
    assert record.num_pools == 1
    launcher.run((2, "a"), lambda: None)
    assert record.events[1:] == ["replay"]
    launcher.run((1, "a"), lambda: record.events.append("step"))
    assert record.events[2:] == ["step"]
    launcher.forget(1)
    launcher.forget(2)
    assert record.num_pools == 2
    assert record.events.count("synchronize") == 3


def test_the_cpu_calls_every_step() -> None:
    launcher = new_launcher(torch.device("cpu"))
    assert isinstance(launcher, DirectLauncher)
    calls: list[int] = []
    for _ in range(3):
        launcher.run((1,), lambda: calls.append(1))
    assert len(calls) == 3
    tensor = torch.zeros(2)
    reading = launcher.read(tensor)
    tensor.add_(1)
    assert reading.wait().tolist() == [0, 0]  # as it was


@needs_cuda
def test_cuda_replays_what_it_captured() -> None:
    launcher = GraphLauncher(torch.device("cuda", torch.cuda.current_device()))
    with torch.inference_mode(), launcher.decoding():
        tensor = torch.zeros(4, device="cuda")

        def step() -> None:
            tensor.add_(torch.ones_like(tensor))

        for count in range(1, 5):
            launcher.run((1, "a"), step)
            assert launcher.read(tensor).wait().tolist() == [count] * 4
        launcher.forget(1)
        launcher.run((1, "a"), step)
        assert launcher.read(tensor).wait().tolist() == [5] * 4


@needs_cuda
def test_decoding_waits_for_encoding() -> None:
    launcher = GraphLauncher(torch.device("cuda", torch.cuda.current_device()))
    with torch.inference_mode():
        with launcher.encoding():
            encoded = torch.ones(2048, 2048, device="cuda")
            for _ in range(20):
                encoded = encoded @ encoded / 2048
            mark = launcher.mark(encoded)
        with launcher.decoding():
            mark.let_decoding_wait()
            assert float(launcher.read(encoded.sum()).wait()) == 2048**2
            assert mark.is_reached()
