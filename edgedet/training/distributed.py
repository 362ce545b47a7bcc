"""One process or many under torchrun: the same code, told apart by the environment that torchrun sets."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgedet.errors import TrainingError

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

_PATIENCE = timedelta(hours=12)
"""How long a process waits for another: one decodes a whole data set, or assesses the artifact, while the others wait.
When a process dies, torchrun ends the rest at once."""


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

    def synchronised(self, module: M) -> M:
        """On CUDA a copy of `module` with synchronised BatchNorm, which the CPU does not offer; else `module` itself."""
        if self.world == 1 or self.device.type != "cuda":
            return module
        convert: Callable[[M], M] = nn.SyncBatchNorm.convert_sync_batchnorm
        return convert(copy.deepcopy(module))

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with synchronised gradients."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

    def average_buffers(self, module: nn.Module, keep: Collection[str] = ()) -> None:
        """Running means and variances become their mean over processes: each has seen only its own micro-batches.

        keep: names of the norms that have no new statistics; the mean of equal numbers may be off by a rounding.

        The spread between the processes' means is not in that variance; with shuffled images it is small.
        """
        if self.world == 1:
            return
        for name, norm in module.named_modules():
            if isinstance(norm, _BatchNorm) and name not in keep:
                for statistic in (norm.running_mean, norm.running_var):
                    if statistic is not None:
                        dist.all_reduce(statistic)
                        statistic /= self.world

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over processes."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over processes."""
        return self.sum(value) / self.world

    def leader_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in every process; the leading one makes it first, so that the others find its cache."""
        if not self.leads:
            self.barrier()
            return make()
        made = make()
        self.barrier()
        return made

    def barrier(self) -> None:
        """Wait for all processes.

        Raises:
            TrainingError: one of them has ended.
        """
        if self.world == 1:
            return
        try:
            dist.barrier()
        except RuntimeError as error:
            raise TrainingError("another process of this run has failed: its message says why") from error


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
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
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
