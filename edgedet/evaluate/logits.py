"""One artifact on one index under one condition: a logit an image, each image decoded once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgedet.data.cache import PixelCache
from edgedet.data.index import Index
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.errors import DataError, ImageError
from edgedet.evaluate import degrade
from edgedet.preprocess import Pixels, Preprocess, decode
from edgedet.runtime.detector import Detector, batches

CACHE_LIMIT = 4_000_000_000
"""Bytes of pixels up to which a clean set is decoded into the pixel cache; a larger one is decoded every time."""


def pixels_of(
    index: Index, preprocess: Preprocess, *, condition: str = degrade.CLEAN, seed: int = 0
) -> Iterator[Pixels]:
    """Each image of `index`, degraded and preprocessed: uint8 (H, W, 3), in order, decoded by a pool of threads.

    Noise depends on `seed` and on the image's content, not on its place in the index.

    Raises:
        DataError: no such condition, or an image that cannot be read.
    """
    apply = degrade.parse(condition)

    def one(position: int) -> Pixels:
        row = index.rows[position]
        try:
            image = decode(index.read(position), max_pixels=preprocess.max_pixels)
            return preprocess.apply(apply(image, (seed, int(row.sha256[:12] or "0", 16))))
        except ImageError as error:
            raise DataError(f"{index.root / row.path}: {error}; scan the data set again to list and drop it") from error

    return ordered(one, range(len(index)), threads=threads_for([index.root / row.path for row in index.rows]))


def pixel_array(
    index: Index, preprocess: Preprocess, *, condition: str = degrade.CLEAN, seed: int = 0
) -> npt.NDArray[np.uint8] | None:
    """All pixels, uint8 (N, H, W, 3), for several artifacts of the same preprocessing; None when that is no good idea.

    Clean pixels come from the pixel cache. It is none for geometry ``native``, and above :data:`CACHE_LIMIT` bytes.
    """
    if preprocess.geometry == "native" or len(index) * preprocess.height * preprocess.width * 3 > CACHE_LIMIT:
        return None
    if condition == degrade.CLEAN:
        return PixelCache.open(index, preprocess).pixels
    degraded = tracked(
        pixels_of(index, preprocess, condition=condition, seed=seed), total=len(index), title=f"degrade {condition}"
    )
    array = np.empty((len(index), preprocess.height, preprocess.width, 3), dtype=np.uint8)
    for position, image in enumerate(degraded):
        array[position] = image
    return array


def logits_of(
    detector: Detector,
    index: Index,
    *,
    condition: str = degrade.CLEAN,
    seed: int = 0,
    pixels: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.float32]:
    """The logits (N,) of every image of `index`; `pixels` (N, H, W, 3) saves decoding when they are there already.

    Raises:
        DataError: an image cannot be read, no such condition, or `pixels` are not those of this index.
    """
    if pixels is None and condition == degrade.CLEAN:
        pixels = pixel_array(index, detector.preprocess)
    if pixels is not None:
        if len(pixels) != len(index):
            raise DataError(f"expected the pixels of {len(index)} images, got {len(pixels)}: decode this index again")
        return detector.logits(pixels)
    images = pixels_of(index, detector.preprocess, condition=condition, seed=seed)
    shown = tracked(images, total=len(index), title=f"evaluate {condition}")
    parts = [np.empty(0, np.float32)]
    for batch in batches(shown, detector.batch_size):
        if isinstance(batch, ImageError):
            raise batch
        parts.append(detector.logits(np.stack(batch)))
    return np.concatenate(parts)


