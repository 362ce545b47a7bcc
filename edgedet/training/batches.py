"""Which images make up which micro-batch: a function of seed and epoch, so that a run can be resumed at any step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.errors import TrainingError
from edgedet.training.config import TrainingConfig

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """Positions of one forward pass and the seed of everything random in it (augmentation, dropout)."""

    positions: Positions
    seed: tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """The order of a whole run.

    A step of the optimiser takes `world` times `accumulate` micro-batches, the same ones however they are spread over
    processes: one process with ``accumulate = 2`` sees what two processes with ``accumulate = 1`` see.
    """

    count: int
    config: TrainingConfig
    world: int = 1

    def __post_init__(self) -> None:
        share = self.world * self.config.accumulate
        if self.config.batch_size % share:
            raise TrainingError(
                f"`batch_size` {self.config.batch_size} cannot be split into {self.world} processes x "
                f"{self.config.accumulate} micro-batches: make it a multiple of {share}"
            )
        if self.count < self.config.batch_size:
            raise TrainingError(
                f"{self.count} training images do not fill one batch of {self.config.batch_size}: lower training.batch_size"
            )

    @property
    def micro_batch(self) -> int:
        """Images per forward pass."""
        return self.config.batch_size // (self.world * self.config.accumulate)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps; the images left over change from epoch to epoch with the shuffle."""
        return self.count // self.config.batch_size

    def epoch(self, epoch: int, rank: int = 0, first_step: int = 0) -> list[MicroBatch]:
        """The micro-batches of process `rank` in `epoch`, from optimiser step `first_step` of that epoch on."""
        order = _order(self.config, self.count, epoch)
        chunks: Sequence[Positions] = np.split(
            order[: self.steps_per_epoch * self.config.batch_size], self.steps_per_epoch * self.world * self.config.accumulate
        )
        share = self.world * self.config.accumulate
        first = rank * self.config.accumulate
        return [
            MicroBatch(chunks[number], (self.config.seed, epoch, number))
            for step in range(first_step, self.steps_per_epoch)
            for number in range(step * share + first, step * share + first + self.config.accumulate)
        ]


def _order(config: TrainingConfig, count: int, epoch: int) -> Positions:
    if config.order == "shuffle":
        return np.random.default_rng([config.seed, epoch]).permutation(count)
    formed = np.random.default_rng(config.seed).permutation(count)
    whole = formed[: count - count % config.batch_size].reshape(-1, config.batch_size)
    rng = np.random.default_rng([config.seed, epoch])
    return np.asarray(rng.permuted(rng.permutation(whole), axis=1).reshape(-1), dtype=np.int64)
