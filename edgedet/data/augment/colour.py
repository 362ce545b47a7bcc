"""Brightness, contrast, saturation, hue and greyscale: all of them one matrix an image, applied by Pillow in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.data.augment.draws import Batch, Draws, Numbers

if TYPE_CHECKING:
    from edgedet.data.augment.config import Augment

Matrices = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""What red, green and blue add to grey (ITU-R BT.601), as in JPEG and Pillow."""

_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def recolour(images: Batch, settings: Augment, draws: Draws) -> Batch:
    """uint8 (B, H, W, 3), changed in place and returned.

    Brightness and contrast (about the mean of all pixels and channels), then the colours; rounded and clipped once, at the end.
    """
    count = len(images)
    matrices, offsets = np.broadcast_to(np.eye(3), (count, 3, 3)), np.zeros((count, 3))
    if settings.brightness or settings.contrast:
        gain = 1 + settings.contrast * draws.uniform(-1, 1)
        offset = 255 * settings.brightness * draws.uniform(-1, 1)
        middle = images.reshape(count, -1).mean(axis=1)
        matrices = gain[:, None, None] * np.eye(3)
        offsets = np.repeat((middle * (1 - gain) + offset)[:, None], 3, axis=1)
    if settings.saturation or settings.hue or settings.greyscale:
        colours = _colours(settings, draws, count)
        matrices, offsets = colours @ matrices, (colours @ offsets[..., None])[..., 0]
    rows = np.concatenate([matrices, offsets[..., None]], axis=-1).reshape(count, 12)
    for image, row in zip(images, rows, strict=True):
        image[:] = np.asarray(Image.fromarray(image).convert("RGB", tuple(row.tolist())))
    return images


def _colours(settings: Augment, draws: Draws, count: int) -> Matrices:
    """(B, 3, 3): hue is a rotation of the plane of colours (I, Q), saturation scales it, greyscale is saturation 0."""
    saturation = np.ones(count) if not settings.saturation else 1 + settings.saturation * draws.uniform(-1, 1)
    angle = np.zeros(count) if not settings.hue else 2 * np.pi * settings.hue * draws.uniform(-1, 1)
    if settings.greyscale:
        saturation = np.where(draws.chance(settings.greyscale), 0, saturation)
    return np.asarray(_FROM_YIQ @ _turned(saturation, angle) @ _TO_YIQ)


def _turned(scale: Numbers, angle: Numbers) -> Matrices:
    """(B, 3, 3): the first axis stays, the plane of the others is turned by `angle` and scaled."""
    out = np.zeros((len(scale), 3, 3))
    out[:, 0, 0] = 1
    out[:, 1, 1] = out[:, 2, 2] = scale * np.cos(angle)
    out[:, 2, 1] = scale * np.sin(angle)
    out[:, 1, 2] = -out[:, 2, 1]
    return out
