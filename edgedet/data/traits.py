"""What an image file gives away besides its picture: container, quantization, size, rate, metadata, the grid of its codec.

A detector can learn any of these instead of the generator's trace. :func:`traits_of` reads one file, and adds a fingerprint of
what it shows, by which near-duplicates are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.data.facts import jpeg_quality
from edgedet.preprocess import decode, opened

GRID = 8
"""Pixels: the side of a JPEG block."""

_SAMPLINGS = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1", (1, 2): "4:4:0"}
_HASH_ROWS, _HASH_COLUMNS = 8, 9
_DETAIL = 4.0
"""Grey levels: an image whose thumbnail varies less shows nothing that it could be told by."""


class Traits(msgspec.Struct, frozen=True, array_like=True):
    """Of one file.

    quality: of libjpeg's scale, None without tables; sampling: of chroma, empty where there is none.
    size: of the file, in bytes. grid: (14,), how much stronger edges are at each place of an 8-pixel grid than on the mean.
    fingerprint: 64 bits of what it shows, 0 when it shows next to nothing.
    """

    format: str
    quality: int | None
    sampling: str
    width: int
    height: int
    size: int
    exif: bool
    icc: bool
    grid: tuple[float, ...]
    fingerprint: int

    @property
    def bytes_per_pixel(self) -> float:
        """The file's rate."""
        return self.size / (self.width * self.height)


def traits_of(data: bytes) -> Traits:
    """The traits of an encoded image.

    Raises:
        ImageError: it cannot be decoded.
    """
    grey = np.asarray(decode(data).convert("L"))  # first: it refuses what is damaged
    with opened(data) as image:
        container, tables = image.format or "", getattr(image, "quantization", None)
        sampling, exif = _sampling(image), bool(image.getexif())
        icc = bool(image.info.get("icc_profile"))
    return Traits(
        format=container,
        quality=jpeg_quality(tables),
        sampling=sampling,
        width=grey.shape[1],
        height=grey.shape[0],
        size=len(data),
        exif=exif,
        icc=icc,
        grid=tuple(grid_strength(grey)),
        fingerprint=fingerprint(grey),
    )


def grid_strength(grey: npt.NDArray[np.uint8]) -> list[float]:
    """(14,): how much larger than their mean the steps between neighbours are at seven of eight places of the codec's grid.

    In each direction, in units of the mean step; the eighth follows from the others. `grey` is uint8 (H, W). A JPEG grid that
    starts at the corner shows at the last place; one that was moved or scaled shows elsewhere, or nowhere.
    """
    values = grey.astype(np.float32)
    found: list[float] = []
    for steps in (np.abs(np.diff(values, axis=1)).mean(axis=0), np.abs(np.diff(values, axis=0)).mean(axis=1)):
        mean = float(steps.mean()) if steps.size else 0.0
        places = [float(steps[place::GRID].mean()) if steps[place::GRID].size else mean for place in range(GRID)]
        found += [0.0 if not mean else (place - mean) / mean for place in places[1:]]
    return found


def fingerprint(grey: npt.NDArray[np.uint8]) -> int:
    """64 bits: whether each of 8 x 9 cells is brighter than its left neighbour. `grey` is uint8 (H, W).

    The difference hash of Krawetz, "Kind of like that", 2013. It survives recompression and scaling; 0 without contrast.
    """
    small = np.asarray(Image.fromarray(grey).resize((_HASH_COLUMNS, _HASH_ROWS), Image.Resampling.BOX), dtype=np.float32)
    if small.std() < _DETAIL:
        return 0
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return int(np.packbits(bits).view(">u8")[0])


def _sampling(image: Image.Image) -> str:
    """Chroma subsampling of a JPEG, by its components' factors."""
    layers: Sequence[Sequence[Any]] = getattr(image, "layer", ())
    if len(layers) < 3:
        return ""
    factors = [(int(layer[1]), int(layer[2])) for layer in layers]
    chroma = factors[1]
    ratio = (factors[0][0] // max(1, chroma[0]), factors[0][1] // max(1, chroma[1]))
    return _SAMPLINGS.get(ratio, f"{ratio[0]}x{ratio[1]}")
