"""What platforms do to images, at random: blurred, resized and brought back, noisy, recompressed; in this order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgedet.data.augment.draws import Batch, Draws, Mask
from edgedet.data.distort import blurred, encoded, noisy, resized
from edgedet.preprocess import FILTERS

if TYPE_CHECKING:
    from edgedet.data.augment.config import Augment

Step = Callable[[Image.Image, int], Image.Image]
"""An image and its place in the batch, to what becomes of it."""

_INTERPOLATIONS = tuple(FILTERS)
_SEEDS = 2**63 - 1


def degrade(images: Batch, settings: Augment, draws: Draws) -> Batch:
    """uint8 (B, H, W, 3) -> a new array; each degradation hits its own share of the images."""
    out: Batch = np.array(images)
    steps = list(_steps(settings, draws))
    if not steps:
        return out
    for position in np.flatnonzero(np.any([chosen for chosen, _ in steps], axis=0)).tolist():
        image = Image.fromarray(out[position])
        for chosen, apply in steps:
            if chosen[position]:
                image = apply(image, position)
        out[position] = np.asarray(image)
    return out


def _steps(settings: Augment, draws: Draws) -> Iterator[tuple[Mask, Step]]:
    """Each degradation that is asked for: the images that it hits, and what it does to one."""
    if settings.blur:
        blurs, sigma = draws.chance(settings.blur), draws.uniform(*settings.blur_sigma)
        yield blurs, lambda image, n: blurred(image, float(sigma[n]))
    if settings.resize:
        resizes, factor = draws.chance(settings.resize), draws.uniform(*settings.resize_factor)
        there, back = (draws.integers(0, len(_INTERPOLATIONS) - 1) for _ in range(2))
        yield resizes, lambda image, n: _there_and_back(image, float(factor[n]), int(there[n]), int(back[n]))
    if settings.noise:
        noises, strength = draws.chance(settings.noise), draws.uniform(*settings.noise_sigma)
        seeds = draws.integers(0, _SEEDS - 1)
        yield noises, lambda image, n: noisy(image, float(strength[n]), int(seeds[n]))
    if settings.webp:
        webps, webp_quality = draws.chance(settings.webp), draws.integers(*settings.webp_quality)
        yield webps, lambda image, n: encoded(image, "WEBP", int(webp_quality[n]), effort=0)
    if settings.jpeg:
        jpegs, quality = draws.chance(settings.jpeg), draws.integers(*settings.jpeg_quality)
        yield jpegs, lambda image, n: encoded(image, "JPEG", int(quality[n]))


def _there_and_back(image: Image.Image, factor: float, there: int, back: int) -> Image.Image:
    small = resized(image, factor, _INTERPOLATIONS[there])
    return small.resize(image.size, FILTERS[_INTERPOLATIONS[back]])
