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

    hflip: mirror half of them left to right.
    vflip: mirror half of them top to bottom.
    rot90: turn them by 0, 90, 180 or 270 degrees, each as often.
    rotation: turn by up to so many degrees each way, mirrored at the edges.
    zoom: enlarge or shrink by up to this share each way, mirrored at the edges.
    crop_area: the share of the area that is cut out at a random place and enlarged to the input, from a range; (1, 1) for none.
    crop_ratio: width over height of what `crop_area` cuts out, from a range.
    shift: move by up to so many pixels each way, mirrored at the edges.
    margin: images are stored this many pixels larger than the input and cropped at random.
    brightness: the largest change, as a share of the range from black to white.
    contrast: the largest relative change of the distance from the image's mean.
    saturation: the largest relative change of the distance from grey.
    hue: the largest turn of the colours each way, as a share of the full circle.
    greyscale: the share that loses its colours.
    blur: the share that is blurred by a Gaussian.
    blur_sigma: its standard deviation in pixels, from a range.
    resize: the share that is resized and brought back to its size, with interpolations drawn at random.
    resize_factor: the factor, from a range.
    noise: the share that gets Gaussian noise.
    noise_sigma: its standard deviation on pixels in [0, 1], from a range.
    webp: the share that is recompressed by WebP.
    webp_quality: its quality, from a range.
    jpeg: the share that is recompressed by JPEG, with 4:2:0 chroma; the last of the degradations.
    jpeg_quality: its quality, from a range.
    mask: the share of which some patches are set to grey (Li et al., SAFE, KDD 2025).
    mask_patch: side of a patch in pixels.
    mask_share: the most of an image's patches that are set to grey.
    cutout: side of a square that is set to grey, 0 for none.
    """

    hflip: bool = True
    vflip: bool = False
    rot90: bool = False
    rotation: Annotated[float, msgspec.Meta(ge=0, le=180)] = 0.0
    zoom: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    shift: Annotated[int, msgspec.Meta(ge=0)] = 0
    margin: Annotated[int, msgspec.Meta(ge=0)] = 0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    greyscale: Share = 0.0
    blur: Share = 0.0
    blur_sigma: tuple[float, float] = (0.1, 3.0)
    resize: Share = 0.0
    resize_factor: tuple[float, float] = (0.5, 1.0)
    noise: Share = 0.0
    noise_sigma: tuple[float, float] = (0.01, 0.05)
    webp: Share = 0.0
    webp_quality: tuple[int, int] = (40, 95)
    jpeg: Share = 0.0
    jpeg_quality: tuple[int, int] = (40, 95)
    mask: Share = 0.0
    mask_patch: Annotated[int, msgspec.Meta(gt=0)] = 16
    mask_share: Share = 0.75
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
