"""One artifact on one index under one condition: a logit an image, each image decoded once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgedet.data.dataset import in_batches, open_set
from edgedet.data.index import Index
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.errors import ImageError
from edgedet.evaluate import degrade
from edgedet.preprocess import Pixels, Preprocess, decode
from edgedet.runtime.detector import Detector, batches


def pixels_of(index: Index, preprocess: Preprocess, *, condition: str = degrade.CLEAN, seed: int = 0) -> Iterator[Pixels]:
    """Each image of `index`, degraded and preprocessed: uint8 (H, W, 3), in order, decoded by a pool of threads.

    Noise depends on `seed` and on the image's content, not on its place in the index.

    Raises:
        DataError: no such condition, or an image that cannot be read.
    """
    apply = degrade.parse(condition)

    def one(position: int) -> Pixels:
        row = index.rows[position]
        with index.naming(position):
            image = decode(index.read(position), max_pixels=preprocess.max_pixels)
            return preprocess.apply(apply(image, (seed, int(row.sha256[:12] or "0", 16))))

    return ordered(one, range(len(index)), threads=threads_for([index.root / row.path for row in index.rows]))


def logits_of(detector: Detector, index: Index, *, condition: str = degrade.CLEAN, seed: int = 0) -> npt.NDArray[np.float32]:
    """The logits (N,) of every image of `index`.

    Raises:
        DataError: an image cannot be read, or no such condition.
    """
    if condition == degrade.CLEAN and detector.preprocess.geometry != "native":
        images = open_set(index, detector.preprocess)
        batched: Iterator[Pixels] = (pixels for _, pixels in in_batches(images, detector.batch_size))
    else:
        batched = _streamed(detector, index, condition, seed)
    return np.concatenate([np.empty(0, np.float32), *map(detector.logits, batched)])


def _streamed(detector: Detector, index: Index, condition: str, seed: int) -> Iterator[Pixels]:
    """Batches (B, H, W, 3) of images that no set keeps: degraded ones, and those of many sizes."""
    images = pixels_of(index, detector.preprocess, condition=condition, seed=seed)
    shown = tracked(images, total=len(index), title=f"evaluate {condition}")
    for batch in batches(shown, detector.batch_size):
        if isinstance(batch, ImageError):
            raise batch
        yield np.stack(batch)
