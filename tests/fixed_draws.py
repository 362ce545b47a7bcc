"""Draws without chance, so that a test knows what was drawn: the highest of every range, and everybody is chosen."""

import numpy as np

from edgedet.data.augment.draws import Draws


class Highest(Draws):
    """`chosen` of the images are hit by what has a share; numbers are the upper end of their range."""

    def __init__(self, count: int, *, chosen: bool = True) -> None:
        super().__init__(np.random.default_rng(0), count)
        self.chosen = chosen

    def uniform(self, low, high):
        return np.full(self._count, float(high))

    def integers(self, low, high):
        return np.full(self._count, int(high))

    def chance(self, share):
        return np.full(self._count, self.chosen)


def smooth(count: int = 3, height: int = 20, width: int = 24, seed: int = 0) -> np.ndarray:
    """uint8 (B, H, W, 3) without sharp edges, as photographs mostly are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(0.1, 0.5, (count, 3, 2))
    phases = rng.uniform(0, 6, (count, 3))
    values = np.sin(waves[..., 0, None, None] * y + waves[..., 1, None, None] * x + phases[..., None, None])
    return (127 + 120 * values).astype(np.uint8).transpose(0, 2, 3, 1).copy()
