"""Where the pixels of an augmented image come from: crops, moves, mirrors and turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.data.augment.draws import Batch, Draws, Integers, Mask
from edgedet.errors import DataError

if TYPE_CHECKING:
    from edgedet.data.augment.config import Augment

Matrices = npt.NDArray[np.float64]


def place(images: Batch, height: int, width: int, settings: Augment, draws: Draws) -> tuple[Batch, Mask]:
    """uint8 (B, H, W, 3) -> uint8 (B, height, width, 3), a new array, and for each image whether it was mirrored left to right.

    Without `rotation`, `zoom` and `crop_area` no pixel is computed anew; with them all are, by bilinear interpolation.

    Raises:
        DataError: `rot90` of what is not square.
    """
    if settings.rot90 and height != width:
        raise DataError(f"training.augment.rot90 needs a square input, got {height}x{width}: switch it off")
    nobody = np.zeros(len(images), dtype=bool)
    mirrored = draws.chance(0.5) if settings.hflip else nobody
    upended = draws.chance(0.5) if settings.vflip else nobody
    tops = draws.integers(-settings.shift, images.shape[1] - height + settings.shift)
    lefts = draws.integers(-settings.shift, images.shape[2] - width + settings.shift)
    if settings.resamples:
        out = _resampled(images, _maps(height, width, tops, lefts, mirrored, upended, settings, draws), height, width)
    else:
        rows = _positions(tops, height, images.shape[1], upended)
        columns = _positions(lefts, width, images.shape[2], mirrored)
        out = _gathered(images, rows, columns)
    if settings.rot90:
        turns = draws.integers(0, 3)
        for times in (1, 2, 3):
            out[turns == times] = np.rot90(out[turns == times], times, axes=(1, 2))
    return out, mirrored


def _gathered(images: Batch, rows: Integers, columns: Integers) -> Batch:
    """Each image at its own rows (B, height) and columns (B, width); a flat `take` is three times as fast as three indices."""
    count, height, width = images.shape[:3]
    pixels = (np.arange(count)[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    return np.asarray(images.reshape(-1, 3).take(pixels.ravel(), axis=0)).reshape(*pixels.shape, 3)


def _positions(starts: Integers, length: int, side: int, backwards: Mask) -> Integers:
    """(B, length): positions on an axis of length `side`, mirrored at both edges, the edge repeated, however far they go."""
    positions = (starts[:, None] + np.arange(length)) % (2 * side)
    positions = np.where(positions >= side, 2 * side - 1 - positions, positions)
    return np.asarray(np.where(backwards[:, None], positions[:, ::-1], positions))


def _maps(
    height: int,
    width: int,
    tops: Integers,
    lefts: Integers,
    mirrored: Mask,
    upended: Mask,
    settings: Augment,
    draws: Draws,
) -> Matrices:
    """(B, 2, 3): where in the stored image a point (x, y, 1) of the result lies; pixels are unit squares from (0, 0) on.

    A window of the result's size at (lefts, tops), within it a smaller one of `crop_area` at a random place, enlarged by `zoom`
    and turned by `rotation` about its middle.
    """
    wide, high = np.full(len(tops), 1.0), np.full(len(tops), 1.0)
    x, y = lefts + width / 2, tops + height / 2
    if settings.crop_area != (1, 1):
        area = draws.uniform(*settings.crop_area)
        ratio = np.exp(draws.uniform(*np.log(settings.crop_ratio)))
        wide = np.minimum(1, np.sqrt(area * ratio * height / width))
        high = np.minimum(1, np.sqrt(area / ratio * width / height))
        x = x + width * (1 - wide) * draws.uniform(-0.5, 0.5)
        y = y + height * (1 - high) * draws.uniform(-0.5, 0.5)
    if settings.zoom:
        scale = 1 + draws.uniform(-settings.zoom, settings.zoom)
        wide, high = wide * scale, high * scale
    angle = np.radians(draws.uniform(-settings.rotation, settings.rotation)) if settings.rotation else np.zeros(len(tops))
    cos, sin = np.cos(angle), np.sin(angle)
    wide, high = np.where(mirrored, -wide, wide), np.where(upended, -high, high)
    linear = np.stack([np.stack([cos * wide, -sin * high], -1), np.stack([sin * wide, cos * high], -1)], -2)
    origin = np.stack([x, y], -1) - linear @ (width / 2, height / 2)
    return np.concatenate([linear, origin[..., None]], axis=-1)


def _resampled(images: Batch, maps: Matrices, height: int, width: int) -> Batch:
    """Each image read along its map by Pillow, which takes 1.2 ms for 224 pixels squared; NumPy takes four times as long."""
    out = np.empty((len(images), height, width, 3), np.uint8)
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    reached = maps @ corners
    # One pixel more on each side is what interpolation reads.
    lows, highs = np.floor(reached.min(-1)).astype(int) - 1, np.ceil(reached.max(-1)).astype(int) + 1
    for image, matrix, low, high, result in zip(images, maps, lows, highs, out, strict=True):
        shifted = matrix - np.array([[0, 0, low[0]], [0, 0, low[1]]])
        source = Image.fromarray(_window(image, low, high))
        turned = source.transform((width, height), Image.Transform.AFFINE, shifted.ravel().tolist(), Image.Resampling.BILINEAR)
        result[:] = np.asarray(turned)
    return out


def _window(image: npt.NDArray[np.uint8], low: Integers, high: Integers) -> npt.NDArray[np.uint8]:
    """The pixels from `low` up to `high`, each (x, y); beyond the edges the image mirrored."""
    straight = np.zeros(1, dtype=bool)
    columns = _positions(low[:1], int(high[0] - low[0]), image.shape[1], straight)[0]
    rows = _positions(low[1:], int(high[1] - low[1]), image.shape[0], straight)[0]
    return np.asarray(image.take(rows, axis=0).take(columns, axis=1))
