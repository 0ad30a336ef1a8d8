"""A training step never asks its device for a number: every such call would make the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.training.optimizer import Muon, orthogonalize
from model.training.trainer import Trainer, TrainingNetwork
from tests.unit.tiny_training import log_of, micro_batches, one_cpu_thread, optimizer_config, recipe, run

WAITING_METHODS = (
    *("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__"),
    *("nonzero", "masked_select", "unique", "is_nonzero", "equal", "allclose"),
)
WAITING_OPERATORS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"}


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what would make a host wait for its device, in Python's calls and in torch's operators."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        for name in WAITING_METHODS:
            self._watch(monkeypatch, name)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        plain = getattr(torch.Tensor, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            self.found.append(name)
            return plain(*arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, watched)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING_OPERATORS or masks:
            self.found.append(f"aten.{name}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True, scope="module")
def _on_one_cpu_thread() -> Iterator[None]:
    with one_cpu_thread():
        yield


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_call_in_a_step_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(12, name=name), precision=precision, accumulation_steps=2)
    trainer = Trainer(config, show_progress=False)
    module = TrainingNetwork(trainer.network, 0.1, compiled=False)
    batches = micro_batches(config, 4)
    trainer.train_step(module, batches[:2])  # whatever is made once is made here
    with Waits(monkeypatch) as waits:
        metrics = trainer.train_step(module, batches[2:])
        trainer.log.step(1, metrics)
        assert waits.found == []
        # The reader of the metrics does ask, so the watch sees something.
        assert float(metrics.tokens) > 0
        assert "__float__" in waits.found


def test_the_watch_sees_indexing_by_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    with Waits(monkeypatch) as waits:
        values = torch.arange(4.0)
        assert values[values > 1].numel() == 2
    assert any(name in ("aten.index", "aten.nonzero") for name in waits.found)


def test_the_log_asks_once_for_all_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe(tmp_path, log_every_steps=6)
    asked: list[tuple[int, ...]] = []
    plain = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> Any:
        asked.append(tuple(tensor.shape))
        return plain(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    run(config)
    assert asked == [(6, 4), (6, 4)]
    assert [line["step"] for line in log_of(config)] == [6, 12]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_cuda_itself_sees_no_wait(tmp_path: Path, name: str) -> None:
    config = recipe(tmp_path, optimizer=optimizer_config(12, name=name), precision="bfloat16")
    trainer = Trainer(config, show_progress=False)
    device = torch.device("cuda", 0)
    trainer.network.to(device)
    module = TrainingNetwork(trainer.network, 0.1, compiled=False)
    batches = [batch.to(device) for batch in micro_batches(config, 4)]
    trainer.train_step(module, batches[:2])
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(module, batches[2:])
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_many_matrices_are_orthogonalised_as_each_alone(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(5, *shape)
    # Batched products add in another order: a few units in the last place, five times over.
    torch.testing.assert_close(orthogonalize(matrices), torch.stack([*map(orthogonalize, matrices)]), atol=1e-5, rtol=0)


def test_muon_moves_matrices_together_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.training import optimizer

    torch.manual_seed(1)
    shapes = [(4, 6), (4, 6), (6, 4), (4, 6), (5, 5)]
    begun = [torch.randn(shape) for shape in shapes]
    gradients = [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    moved = []
    for together in (False, True):
        if together:
            monkeypatch.setattr(
                optimizer,
                "_together",
                lambda given: [[p for p in given if p.shape == s] for s in sorted({p.shape for p in given})],
            )
        parameters = [torch.nn.Parameter(each.clone()) for each in begun]
        muon = Muon(parameters, lr=0.02, weight_decay=0.1)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            muon.step()
        moved.append([parameter.detach() for parameter in parameters])
    for alone, joint in zip(*moved, strict=True):
        torch.testing.assert_close(alone, joint, atol=1e-5, rtol=0)
