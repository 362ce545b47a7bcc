"""What happens to an image between its maker and the detector: recompressed, resized, blurred, noisy.

A degradation works on the decoded RGB image, at its own size, before the detector's geometry, and encoded forms are decoded
again, as a platform would do. It is applied to reals and fakes alike. Levels are exact and part of the name.

``clean``                         nothing
``jpeg-Q``, ``webp-Q``            encoded at quality Q, 1 to 100 (JPEG with 4:2:0 chroma)
``resize-F-I``                    both sides times F, with interpolation I: nearest, bilinear, bicubic or lanczos
``blur-S``                        Gaussian of S pixels
``noise-S``                       Gaussian of standard deviation S on pixels in [0, 1]; the only one that uses the seed
``social-L-Q``                    long side at most L by Lanczos, then JPEG Q: what a platform does
``web``, ``hard``                 ``social-768-60``, what a platform shows, and ``social-512-40``, what is passed on from there
``double-Q-Q``                    JPEG at the first quality, then at the second
``roundtrip-L``                   down to a long side of L and back, by bicubic: a thumbnail that was enlarged
``screenshot``                    shown at 0.9 of its size, by bilinear, and kept without loss
``crop-F``                        the middle, each side times F
``letterbox``                     black bars to 16:9
``grey``, ``flip``                without colour; mirrored
``brightness-F``, ``contrast-F``  pixels, or their distance from the image's mean grey, times F

An image that is smaller than a tier's limit keeps its size: at 32 pixels ``web`` is JPEG 60 and ``hard`` is JPEG 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageEnhance

from edgedet.data.distort import blurred, encoded, has_webp, noisy, resized
from edgedet.errors import DataError, nearest
from edgedet.preprocess import FILTERS

CLEAN = "clean"
Apply = Callable[[Image.Image, "int | Sequence[int]"], Image.Image]

_TIERS: Mapping[str, tuple[int, int]] = {"web": (768, 60), "hard": (512, 40)}
FORMS = (
    CLEAN, *_TIERS, "jpeg-Q", "webp-Q", "resize-F-I", "blur-S", "noise-S", "social-L-Q", "double-Q-Q", "roundtrip-L",
    "screenshot", "crop-F", "letterbox", "grey", "flip", "brightness-F", "contrast-F",
)  # fmt: skip

ROBUSTNESS = (
    *(f"jpeg-{quality}" for quality in (95, 90, 85, 80, 75, 70, 65, 60, 55, 50)),
    *(f"webp-{quality}" for quality in (90, 75, 50)),
    *(f"resize-{factor}-{by}" for factor in (0.5, 0.75, 1.25, 1.5, 2.0) for by in FILTERS),
    *(f"blur-{sigma}" for sigma in (0.5, 1, 2, 3)),
    *(f"noise-{sigma}" for sigma in (0.01, 0.02, 0.05, 0.1)),
    *(f"crop-{share}" for share in (0.9, 0.8, 0.7, 0.6, 0.5)),
    "social-2048-85", "social-1080-75", "web", "hard", "double-75-85", "roundtrip-128", "roundtrip-256", "screenshot",
    "grey", "flip", "letterbox", "brightness-0.8", "brightness-1.2", "contrast-0.8", "contrast-1.2",
)  # fmt: skip
"""A robustness sweep, one factor at a time: `edgedet eval --degrade robustness` measures all of it."""


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
        return _social_at(*_TIERS[name])
    if name in _WITHOUT_LEVEL:
        return _WITHOUT_LEVEL[name]
    kind, _, level = name.partition("-")
    if kind not in _KINDS:
        raise DataError(f"no degradation is called {name!r}{_hint(name)}; there are: {', '.join(FORMS)}")
    return _KINDS[kind](name, level)


def _hint(name: str) -> str:
    hint = nearest(name, [*_TIERS, *_KINDS, *_WITHOUT_LEVEL, CLEAN])
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


def _social(name: str, level: str) -> Apply:
    limit, _, quality = level.partition("-")
    return _social_at(_side(name, limit), _quality(name, quality))


def _social_at(limit: int, quality: int) -> Apply:
    return lambda image, _: encoded(_limited(image, limit), "JPEG", quality)


def _double(name: str, level: str) -> Apply:
    first, second = (_quality(name, each) for each in (level.partition("-")[0], level.partition("-")[2]))
    return lambda image, _: encoded(encoded(image, "JPEG", first), "JPEG", second)


def _roundtrip(name: str, level: str) -> Apply:
    limit = _side(name, level)
    return lambda image, _: _limited(image, limit, Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def _crop(name: str, level: str) -> Apply:
    share = _number(name, level, least=0.01, most=1)

    def apply(image: Image.Image, _: int | Sequence[int]) -> Image.Image:
        width, height = (max(1, round(side * share)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    return apply


def _brightness(name: str, level: str) -> Apply:
    factor = _number(name, level, least=0, most=10)
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


def _contrast(name: str, level: str) -> Apply:
    factor = _number(name, level, least=0, most=10)
    return lambda image, _: ImageEnhance.Contrast(image).enhance(factor)


def _letterboxed(image: Image.Image) -> Image.Image:
    """`image` in the middle of the smallest 16:9 that holds it."""
    width, height = max(image.width, round(image.height * 16 / 9)), max(image.height, round(image.width * 9 / 16))
    box = Image.new("RGB", (width, height))
    box.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return box


_WITHOUT_LEVEL: Mapping[str, Apply] = {
    "screenshot": lambda image, _: resized(image, 0.9, "bilinear"),
    "letterbox": lambda image, _: _letterboxed(image),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "flip": lambda image, _: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}

_KINDS: Mapping[str, Callable[[str, str], Apply]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "blur": _blur,
    "noise": _noise,
    "social": _social,
    "double": _double,
    "roundtrip": _roundtrip,
    "crop": _crop,
    "brightness": _brightness,
    "contrast": _contrast,
}


def _limited(
    image: Image.Image, limit: int, interpolation: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """`image` with its long side at most `limit`; never enlarged."""
    scale = limit / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, interpolation)


def _side(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise DataError(f"{name}: expected a long side in pixels, got {text!r}, as in social-1080-75")
    return int(text)


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
