"""What happens to an image between its maker and the detector, one function each: augmentation draws the levels at random,
evaluation (:mod:`edgedet.evaluate.degrade`) names them.

All take and return an RGB Pillow image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter, features

from edgedet.preprocess import FILTERS, decode


def encoded(image: Image.Image, form: Literal["JPEG", "WEBP"], quality: int, *, effort: int = 4) -> Image.Image:
    """`image` written by Pillow at `quality` (1 to 100) and read again; JPEG with 4:2:0 chroma.

    effort: of the WebP encoder, 0 to 6, where 4 is its default; 0 is twice as fast, the file larger, the error the same.
    """
    file = io.BytesIO()
    if form == "JPEG":
        image.save(file, form, quality=quality, subsampling="4:2:0")
    else:
        image.save(file, form, quality=quality, method=effort)
    return decode(file.getvalue())


def has_webp() -> bool:
    """Whether this Pillow was built with WebP."""
    return bool(features.check("webp"))


def resized(image: Image.Image, factor: float, interpolation: str) -> Image.Image:
    """Both sides times `factor`, rounded, at least 1; `interpolation` is one of :data:`edgedet.preprocess.FILTERS`."""
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, FILTERS[interpolation])


def blurred(image: Image.Image, sigma: float) -> Image.Image:
    """Pillow's Gaussian (three box filters) of `sigma` pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def noisy(image: Image.Image, sigma: float, seed: int | Sequence[int]) -> Image.Image:
    """With Gaussian noise of standard deviation `sigma` on pixels in [0, 1], a function of `seed`."""
    pixels = np.asarray(image, dtype=np.float32)
    drawn = np.random.default_rng(seed).standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray((pixels + 255 * sigma * drawn).round().clip(0, 255).astype(np.uint8), mode="RGB")
