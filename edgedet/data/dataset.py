"""What training and evaluation read pixels from: decoded once to a memory-mapped cache, or at every access."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgedet.data.cache import PixelCache
from edgedet.data.index import Index
from edgedet.data.parallel import prefetch
from edgedet.errors import DataError
from edgedet.preprocess import Preprocess

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]

CACHE_LIMIT = 16 << 30
"""Bytes of pixels up to which a data set is decoded once to disk; a larger one is decoded at every access."""

MOST_PIXELS = 1 << 21
"""Pixels of a batch: 32 images of 256x256, whose 64 channels at full size are 0.5 GB in float32."""


class ImageSet(Protocol):
    """Images of one size with their labels."""

    @property
    def index(self) -> Index:
        """What the images are."""
        ...

    def __len__(self) -> int: ...

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 (B, H, W, 3) of the images at `positions`."""
        ...


@dataclass(frozen=True)
class CachedSet:
    """Pixels from a memory-mapped cache."""

    index: Index
    cache: PixelCache

    def __len__(self) -> int:
        return len(self.cache)

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 (B, H, W, 3) of the images at `positions`."""
        return np.asarray(self.cache.pixels[positions])


@dataclass(frozen=True)
class DecodedSet:
    """Pixels decoded at every access: for sets too large to cache."""

    index: Index
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 (B, H, W, 3) of the images at `positions`."""
        return np.stack([self._pixels(int(position)) for position in positions])

    def _pixels(self, position: int) -> npt.NDArray[np.uint8]:
        with self.index.naming(position):
            return self.preprocess(self.index.read(position))


def open_set(index: Index, preprocess: Preprocess) -> ImageSet:
    """The images of `index` after `preprocess`, cached when they take at most :data:`CACHE_LIMIT` bytes.

    Raises:
        DataError: geometry `native` has no one size to batch or to cache.
    """
    if preprocess.geometry == "native":
        raise DataError("geometry `native` gives images of many sizes, which cannot be batched: train with a crop or a resize")
    size = len(index) * preprocess.height * preprocess.width * 3
    return CachedSet(index, PixelCache.open(index, preprocess)) if size <= CACHE_LIMIT else DecodedSet(index, preprocess)


def at_once(images: ImageSet, size: int) -> int:
    """How many images a batch of up to `size` has: of large ones fewer, so that their maps have room in memory."""
    if not len(images):
        return size
    pixels = images.gather(np.array([0])).size // 3
    return max(1, min(size, MOST_PIXELS // pixels))


def in_batches(images: ImageSet, size: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """All images in order, read ahead by threads: their positions (B,) and uint8 pixels (B, H, W, 3).

    size: the most at a time; of large images it is fewer, see :func:`at_once`.
    rank, world: of several processes, this one gets every `world`-th batch from the `rank`-th on.
    """
    step = at_once(images, size)
    starts = range(0, len(images), step)
    positions = [np.arange(start, min(start + step, len(images))) for start in starts[rank::world]]
    yield from zip(positions, prefetch(images.gather, positions), strict=True)
