"""The random numbers of one batch."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.uint8]
"""uint8 (B, H, W, 3)."""
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_Kind = TypeVar("_Kind", bound=np.generic)


class Draws:
    """One number an image, from one generator: what an image gets depends on its place in the batch, on no other image.

    paired: each two neighbours get the same numbers.
    """

    def __init__(self, rng: np.random.Generator, count: int, *, paired: bool = False) -> None:
        self._rng, self._count = rng, count
        self._times = 2 if paired else 1

    def uniform(self, low: float, high: float) -> Numbers:
        """(B,) in [low, high)."""
        return self._spread(self._rng.uniform(low, high, self._own))

    def integers(self, low: int, high: int) -> Integers:
        """(B,) from low to high, both included."""
        return self._spread(self._rng.integers(low, high + 1, self._own))

    def chance(self, share: float) -> Mask:
        """(B,), true for `share` of them on average."""
        return self._spread(self._rng.random(self._own) < share)

    def ranks(self, choices: int) -> Integers:
        """(B, choices): each row a random order of 0 to choices - 1."""
        return self._spread(self._rng.random((self._own, choices)).argsort(axis=1).argsort(axis=1))

    @property
    def _own(self) -> int:
        return -(-self._count // self._times)

    def _spread(self, drawn: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
        return np.repeat(drawn, self._times, axis=0)[: self._count] if self._times > 1 else drawn
