"""One process or many: ranks started by torchrun, sums over all of them, and the data-parallel wrapper."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process' place among the processes of the run.

    Attributes:
        rank: 0 ... world_size - 1; rank 0 writes files and talks.
        world_size: number of processes.
        device: the device of this rank.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over all ranks; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true on at least one rank; every rank must call it."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages gradients over all ranks."""
        if self.world_size == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def no_sync(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return a context whose backward passes add to this rank's gradients only, until the next one outside it."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group of ranks."""
        if self.world_size > 1:
            dist.destroy_process_group()


def join_ranks(device: str = "auto") -> Ranks:
    """Join the ranks that torchrun started (environment RANK, WORLD_SIZE, LOCAL_RANK), or be the only one.

    NCCL connects CUDA devices, gloo CPUs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(index)
        chosen = torch.device("cuda", index)
    else:
        chosen = torch.device(device)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Ranks(rank, world_size, chosen)
