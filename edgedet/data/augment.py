"""Augmentation of uint8 batches, on numpy alone; what a batch becomes is a function of its seed and of nothing else."""

from __future__ import annotations

import io
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.recipe import Config

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Batch = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Augment(Config, frozen=True, kw_only=True):
    """What is done to training images.

    hflip: mirror half of them.
    shift: move by up to so many pixels each way, mirrored at the edges.
    margin: images are stored this many pixels larger than the input and cropped at random.
    brightness, contrast: the largest relative change.
    jpeg, jpeg_quality: the share that is recompressed, and the range its quality is drawn from.
    cutout: side of a square that is set to grey, 0 for none.
    """

    hflip: bool = True
    shift: Annotated[int, msgspec.Meta(ge=0)] = 0
    margin: Annotated[int, msgspec.Meta(ge=0)] = 0
    brightness: Share = 0.0
    contrast: Share = 0.0
    jpeg: Share = 0.0
    jpeg_quality: tuple[int, int] = (40, 95)
    cutout: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        low, high = self.jpeg_quality
        if not 1 <= low <= high <= 100:
            raise ValueError(f"`jpeg_quality` must be two qualities from 1 to 100, lower first, got {self.jpeg_quality}")

    @property
    def only_flips(self) -> bool:
        """Whether an image has only two views, so that a teacher's answers can be computed once."""
        return not (self.shift or self.margin or self.brightness or self.contrast or self.jpeg or self.cutout)

    def __call__(self, images: Batch, height: int, width: int, rng: np.random.Generator) -> tuple[Batch, Mask]:
        """uint8 (B, H, W, 3) -> uint8 (B, height, width, 3) and, for each image, whether it was mirrored."""
        flipped = rng.random(len(images)) < 0.5 if self.hflip else np.zeros(len(images), dtype=bool)
        out = self._geometry(images, height, width, flipped, rng)
        if self.brightness or self.contrast:
            out = self._photometry(out, rng)
        if self.jpeg:
            out = self._recompress(out, rng)
        if self.cutout:
            out = self._cut(out, rng)
        return out, flipped

    def _geometry(
        self, images: Batch, height: int, width: int, flipped: Mask, rng: np.random.Generator
    ) -> Batch:
        """Crop, shift and mirror in one gather."""
        rows = self._positions(images.shape[1], height, len(images), rng)
        columns = self._positions(images.shape[2], width, len(images), rng)
        columns = np.where(flipped[:, None], columns[:, ::-1], columns)
        return np.asarray(images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _positions(self, side: int, length: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        slack = side - length
        start = rng.integers(-self.shift, slack + self.shift + 1, size=count)
        # Mirrored at both edges, the edge pixel repeated, however far the shift goes.
        positions = (start[:, None] + np.arange(length)) % (2 * side)
        return np.asarray(np.where(positions >= side, 2 * side - 1 - positions, positions))

    def _photometry(self, images: Batch, rng: np.random.Generator) -> Batch:
        shape = (len(images), 1, 1, 1)
        gain = 1 + self.contrast * rng.uniform(-1, 1, shape)
        offset = 255 * self.brightness * rng.uniform(-1, 1, shape)
        values = images.astype(np.float32)
        middle = values.mean(axis=(1, 2, 3), keepdims=True)
        changed = (values - middle) * gain.astype(np.float32) + middle + offset.astype(np.float32)
        return np.asarray((changed + 0.5).clip(0, 255), dtype=np.uint8)

    def _recompress(self, images: Batch, rng: np.random.Generator) -> Batch:
        chosen = np.flatnonzero(rng.random(len(images)) < self.jpeg)
        qualities = rng.integers(self.jpeg_quality[0], self.jpeg_quality[1] + 1, size=len(images))
        out: Batch = np.array(images)
        for position in chosen:
            out[position] = _jpeg(images[position], int(qualities[position]))
        return out

    def _cut(self, images: Batch, rng: np.random.Generator) -> Batch:
        out: Batch = np.array(images)
        tops = rng.integers(0, max(1, images.shape[1] - self.cutout + 1), size=len(images))
        lefts = rng.integers(0, max(1, images.shape[2] - self.cutout + 1), size=len(images))
        for image, top, left in zip(out, tops, lefts, strict=True):
            image[top : top + self.cutout, left : left + self.cutout] = 128
        return out


def _jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
