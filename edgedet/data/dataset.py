"""What training and evaluation read pixels from: decoded once to a memory-mapped cache, or at every access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgedet.data.cache import PixelCache
from edgedet.data.index import Index
from edgedet.errors import DataError, ImageError
from edgedet.preprocess import Preprocess

T = TypeVar("T")
R = TypeVar("R")

CACHE_LIMIT = 16 << 30
"""Above this many bytes of pixels a data set is decoded at every access instead of once to disk."""


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
        try:
            return self.preprocess(self.index.read(position))
        except ImageError as error:
            raise ImageError(f"{self.index.root / self.index.rows[position].path}: {error}") from error


def open_set(index: Index, preprocess: Preprocess, *, limit: int = CACHE_LIMIT) -> ImageSet:
    """The images of `index` after `preprocess`, cached when they take at most `limit` bytes.

    Raises:
        DataError: geometry `native` has no one size to batch or to cache.
    """
    if preprocess.geometry == "native":
        raise DataError("geometry `native` gives images of many sizes, which cannot be batched: train with a crop or a resize")
    size = len(index) * preprocess.height * preprocess.width * 3
    return CachedSet(index, PixelCache.open(index, preprocess)) if size <= limit else DecodedSet(index, preprocess)


def prefetch(make: Callable[[T], R], items: Sequence[T], *, workers: int = 2, ahead: int = 4) -> Iterator[R]:
    """``map(make, items)`` in order, with up to `ahead` results made in advance by threads."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        source = iter(items)
        waiting: list[Future[R]] = [pool.submit(make, item) for item in islice(source, ahead)]
        while waiting:
            result = waiting.pop(0).result()
            waiting.extend(pool.submit(make, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
