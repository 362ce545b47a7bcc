"""What is done to training images: the ``[training.augment]`` table of a recipe."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edgedet.data.augment.colour import recolour
from edgedet.data.augment.degradations import degrade
from edgedet.data.augment.draws import Batch, Draws, Mask
from edgedet.data.augment.geometry import place
from edgedet.data.augment.occlusion import hidden, hide
from edgedet.data.distort import has_webp
from edgedet.recipe import Config

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

DEGRADATIONS = ("blur", "resize", "noise", "webp", "jpeg")
MOVES = ("vflip", "rot90", "rotation", "zoom", "crop_area", "shift", "margin")
OCCLUSIONS = ("mask", "cutout")
_RANGES = {
    "crop_area": (1e-3, 1),
    "crop_ratio": (0.1, 10),
    "blur_sigma": (0, 100),
    "resize_factor": (0.01, 16),
    "noise_sigma": (0, 1),
    "webp_quality": (1, 100),
    "jpeg_quality": (1, 100),
}


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
        for key, (least, most) in _RANGES.items():
            low, high = getattr(self, key)
            if not least <= low <= high <= most:
                raise ValueError(f"`{key}` must be two numbers from {least:g} to {most:g}, lower first, got ({low}, {high})")
        if self.webp and not has_webp():
            raise ValueError("`webp` needs a Pillow that was built with WebP: install a Pillow wheel, or set it to 0")

    @property
    def moving(self) -> tuple[str, ...]:
        """The keys that are set by which pixels come to lie elsewhere, mirroring left to right apart.

        Without them every view of an image is a changed copy of itself or of its mirror image.
        """
        return self._set(MOVES)

    @property
    def hiding(self) -> tuple[str, ...]:
        """The keys that are set by which parts of an image are lost."""
        return self._set(OCCLUSIONS)

    @property
    def resamples(self) -> bool:
        """Whether pixels are computed anew by interpolation."""
        return bool(self.rotation or self.zoom or self.crop_area != (1, 1))

    @property
    def degrades(self) -> bool:
        """Whether images are degraded, which is what sets the two of :meth:`views` apart."""
        return any(getattr(self, key) for key in DEGRADATIONS)

    def _set(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        plain = Augment()
        return tuple(key for key in keys if getattr(self, key) != getattr(plain, key))

    def __call__(
        self, images: Batch, height: int, width: int, rng: np.random.Generator, *, paired: bool = False
    ) -> tuple[Batch, Mask]:
        """uint8 (B, H, W, 3) -> uint8 (B, height, width, 3) and, for each image, whether it was mirrored left to right.

        paired: each two neighbours get the same changes.

        Raises:
            DataError: `rot90` of what is not square.
        """
        _, degraded, mirrored = self.views(images, height, width, rng, paired=paired)
        return degraded, mirrored

    def views(
        self, images: Batch, height: int, width: int, rng: np.random.Generator, *, paired: bool = False
    ) -> tuple[Batch, Batch, Mask]:
        """As a call, but with each image as it was before its degradations first: same place, same colours, same grey parts.

        Without degradations both are one array.

        Raises:
            DataError: `rot90` of what is not square.
        """
        draws = Draws(rng, len(images), paired=paired)
        clean, mirrored = place(images, height, width, self, draws)
        if self.brightness or self.contrast or self.saturation or self.hue or self.greyscale:
            clean = recolour(clean, self, draws)
        degraded = degrade(clean, self, draws) if self.degrades else clean
        if self.mask or self.cutout:
            where = hidden((height, width), self, draws, len(images))
            clean, degraded = hide(clean, where), hide(degraded, where)
        return clean, degraded, mirrored
