"""One process or many under torchrun: the same code, told apart by the environment that torchrun sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from edgedet.errors import TrainingError


@dataclass(frozen=True)
class Group:
    """The processes that train together; `rank` 0 writes files and prints."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with synchronised gradients; on CUDA with synchronised BatchNorm too, which the CPU does not offer."""
        if self.world == 1:
            return module
        if self.device.type == "cuda":
            convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            module = convert(module)
            return nn.parallel.DistributedDataParallel(module, device_ids=[self.device.index], broadcast_buffers=False)
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)

    def average_buffers(self, module: nn.Module) -> None:
        """Running statistics become the mean over processes: each has seen only its own micro-batches."""
        if self.world == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.world

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def group() -> Iterator[Group]:
    """The processes started by torchrun (gloo on the CPU, NCCL on CUDA), or this one alone.

    Raises:
        TrainingError: more processes on this machine than it has GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Group(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
            "start torchrun with that many processes per node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
