"""What happens to an image between its maker and the detector: recompressed, resized, blurred, noisy.

A degradation works on the decoded RGB image, at its own size, before the detector's geometry, and encoded forms are decoded
again, as a platform would do. It is applied to reals and fakes alike. Levels are exact and part of the name.

``clean``                         nothing
``jpeg-Q``, ``webp-Q``            encoded at quality Q, 1 to 100 (JPEG with 4:2:0 chroma)
``resize-F-I``                    both sides times F, with interpolation I: nearest, bilinear, bicubic or lanczos
``blur-S``                        Gaussian of S pixels
``noise-S``                       Gaussian of standard deviation S on pixels in [0, 1]; the only one that uses the seed
``web``                           long side at most 768, then JPEG 60: what a platform shows
``hard``                          long side at most 512, then JPEG 40: what is passed on from there

An image that is smaller than a tier's limit keeps its size: at 32 pixels ``web`` is JPEG 60 and ``hard`` is JPEG 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from edgedet.data.distort import blurred, encoded, has_webp, noisy, resized
from edgedet.errors import DataError, nearest
from edgedet.preprocess import FILTERS

CLEAN = "clean"
Apply = Callable[[Image.Image, "int | Sequence[int]"], Image.Image]

_TIERS: Mapping[str, tuple[int, int]] = {"web": (768, 60), "hard": (512, 40)}
FORMS = (CLEAN, *_TIERS, "jpeg-Q", "webp-Q", "resize-F-I", "blur-S", "noise-S")


def degrade(name: str, image: Image.Image, seed: int | Sequence[int] = 0) -> Image.Image:
    """`image` (RGB) after the degradation of that name; RGB again.

    Raises:
        DataError: no degradation is called so; lists what there is.
    """
    return parse(name)(image, seed)


def parse(name: str) -> Apply:
    """The function behind a degradation's name, checked once for many images.

    Raises:
        DataError: no degradation is called so, or a level is out of range.
    """
    if name == CLEAN:
        return lambda image, _: image
    if name in _TIERS:
        limit, quality = _TIERS[name]
        return lambda image, _: encoded(_limited(image, limit), "JPEG", quality)
    kind, _, level = name.partition("-")
    if kind not in _KINDS:
        raise DataError(f"no degradation is called {name!r}{_hint(name)}; there are: {', '.join(FORMS)}")
    return _KINDS[kind](name, level)


def _hint(name: str) -> str:
    hint = nearest(name, [*_TIERS, *_KINDS, CLEAN])
    return hint if "did you mean" in hint else ""


def _jpeg(name: str, level: str) -> Apply:
    quality = _quality(name, level)
    return lambda image, _: encoded(image, "JPEG", quality)


def _webp(name: str, level: str) -> Apply:
    quality = _quality(name, level)
    if not has_webp():
        raise DataError(f"{name}: this Pillow was built without WebP: install a Pillow wheel")
    return lambda image, _: encoded(image, "WEBP", quality)


def _resize(name: str, level: str) -> Apply:
    number, _, interpolation = level.partition("-")
    factor = _number(name, number, least=0.01, most=16)
    if interpolation not in FILTERS:
        raise DataError(f"{name}: expected resize-F-I with I one of {', '.join(FILTERS)}, got {interpolation!r}")

    return lambda image, _: resized(image, factor, interpolation)


def _blur(name: str, level: str) -> Apply:
    sigma = _number(name, level, least=0, most=100)
    return lambda image, _: blurred(image, sigma)


def _noise(name: str, level: str) -> Apply:
    sigma = _number(name, level, least=0, most=1)

    return lambda image, seed: noisy(image, sigma, seed)


_KINDS: Mapping[str, Callable[[str, str], Apply]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "blur": _blur,
    "noise": _noise,
}


def _limited(image: Image.Image, limit: int) -> Image.Image:
    """`image` with its long side at most `limit`, by Lanczos; never enlarged."""
    scale = limit / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _quality(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise DataError(f"{name}: expected a quality from 1 to 100, got {text!r}, as in jpeg-60")
    return int(text)


def _number(name: str, text: str, *, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise DataError(f"{name}: expected a level from {least:g} to {most:g}, got {text!r}")
    return value
