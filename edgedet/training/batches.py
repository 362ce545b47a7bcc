"""Which images make up which micro-batch: a function of seed and epoch, so that a run can be resumed at any step."""

from __future__ import annotations

from collections import defaultdict
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

    pairs: for each image the name of its pair, empty for one that has none; read under the order ``pairs`` only.
    """

    count: int
    config: TrainingConfig
    world: int = 1
    pairs: Sequence[str] = ()

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
        if self.config.order == "pairs":
            self._require_pairs()

    def _require_pairs(self) -> None:
        named = [name for name in self.pairs if name]
        if len(set(named)) == len(named):
            raise TrainingError(
                "`order` is `pairs`, but no two training images have the same `pair` in the index: "
                "give a data set with such a column, or set training.order=shuffle"
            )
        if self.micro_batch % 2:
            raise TrainingError(
                f"`order` is `pairs`, and {self.micro_batch} images a forward pass would cut them: make it even"
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
        order = _order(self.config, self.count, epoch, self.pairs)
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


def _order(config: TrainingConfig, count: int, epoch: int, pairs: Sequence[str]) -> Positions:
    rng = np.random.default_rng([config.seed, epoch])
    if config.order == "shuffle":
        return rng.permutation(count)
    if config.order == "pairs":
        return _paired(pairs, rng)
    formed = np.random.default_rng(config.seed).permutation(count)
    whole = formed[: count - count % config.batch_size].reshape(-1, config.batch_size)
    return np.asarray(rng.permuted(rng.permutation(whole), axis=1).reshape(-1), dtype=np.int64)


def _paired(pairs: Sequence[str], rng: np.random.Generator) -> Positions:
    """Couples of one pair, shuffled; images without a partner are coupled at random, and an odd one is last.

    Of a photograph with several reconstructions other couples are made in every epoch, so that it meets them all.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(pairs):
        members[name].append(position)
    alone = members.pop("", [])
    for of in members.values():
        if len(of) > 2:
            rng.shuffle(of)
    single = alone + [of[-1] for of in members.values() if len(of) % 2]
    coupled = [of[start : start + 2] for of in members.values() for start in range(0, len(of) - 1, 2)]
    shuffled = rng.permutation(single).astype(np.int64)
    even = len(shuffled) - len(shuffled) % 2
    couples = np.concatenate([np.array(coupled, dtype=np.int64).reshape(-1, 2), shuffled[:even].reshape(-1, 2)])
    return np.concatenate([rng.permutation(couples).reshape(-1), shuffled[even:]])
