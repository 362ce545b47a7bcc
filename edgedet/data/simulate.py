"""The embedded data set: real photographs that installed packages ship, and the same through simulated generator decoders.

A smoke test of the whole pipeline with an answer known in advance, not a benchmark: a generator's last step, upsampling a
small feature map, leaves a periodic trace (Zhang, Karaman and Chang, Detecting and Simulating Artifacts in GAN Fake Images,
WIFS 2019), and these decoders leave it on purpose. Nothing is downloaded. Reals and fakes are cut from the same windows and
saved by the same encoder at the same quality, so that only the trace differs; no photograph of test or val is in train, and
the ranges split has a strip of its own in the photographs of train.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.data.index import FAKE, REAL, Index, Row, Split
from edgedet.data.store import ASKED_FOR, explained, partial
from edgedet.errors import DataError
from edgedet.preprocess import decode

Floats = npt.NDArray[np.float32]

_SKIMAGE, _SKLEARN, _MATPLOTLIB = ("skimage", "data"), ("sklearn", "datasets/images"), ("matplotlib", "mpl-data/sample_data")

PHOTOGRAPHS: Mapping[str, tuple[tuple[str, str], str]] = MappingProxyType(
    {
        "astronaut.png": (_SKIMAGE, "train"),
        "camera.png": (_SKIMAGE, "train"),
        "gravel.png": (_SKIMAGE, "train"),
        "hubble_deep_field.jpg": (_SKIMAGE, "train"),
        "ihc.png": (_SKIMAGE, "train"),
        "motorcycle_left.png": (_SKIMAGE, "train"),  # a stereo pair: both in one split
        "motorcycle_right.png": (_SKIMAGE, "train"),
        "retina.jpg": (_SKIMAGE, "train"),
        "rocket.jpg": (_SKIMAGE, "train"),
        "coffee.png": (_SKIMAGE, "val"),
        "flower.jpg": (_SKLEARN, "val"),
        "brick.png": (_SKIMAGE, "val"),
        "chelsea.png": (_SKIMAGE, "test"),
        "china.jpg": (_SKLEARN, "test"),
        "grace_hopper.jpg": (_MATPLOTLIB, "test"),
    }
)
"""File: (package and folder in it, split)."""

PAIRS: Mapping[Split, int] = MappingProxyType({"train": 2000, "ranges": 256, "val": 500, "test": 1000})
"""Pairs (a real and its fake) by split; TPR at 1 % FPR needs the 1,000 reals of test."""

_RANGES_STRIP = 0.25
_SHRINK = (1.2, 2.5)
_QUALITY = (75, 96)
_LIVELY = 6.0
_ENCODER = {"format": "JPEG", "subsampling": "4:2:0"}


@dataclass(frozen=True)
class Decoder:
    """A simulated generator: down by `factor`, up again by `upsample`, with `detail` of what was lost given back."""

    name: str
    factor: int
    upsample: Callable[[Floats, int], Floats]
    detail: float = 0.35

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 to the same; H and W are multiples of `factor`."""
        image = pixels.astype(np.float32)
        decoded = self.upsample(shrink(image, self.factor), self.factor)
        mixed = decoded + self.detail * (image - decoded)
        return np.rint(mixed).clip(0, 255).astype(np.uint8)


def shrink(image: Floats, factor: int) -> Floats:
    """(H, W, C) to (H / factor, W / factor, C), the mean of every block."""
    height, width, channels = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def nearest(image: Floats, factor: int) -> Floats:
    """Every pixel repeated: (H, W, C) to (factor x H, factor x W, C)."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def bilinear(image: Floats, factor: int) -> Floats:
    """Linear interpolation with half-pixel centres, as a transposed convolution with a tent."""
    return transposed_convolution(image, factor, np.outer(_tent(factor), _tent(factor)))


def learned(image: Floats, factor: int) -> Floats:
    """A transposed convolution with a kernel that training might have left: a tent, disturbed the same way for every image.

    Its phases do not have equal gain, which is where the checkerboard of real decoders comes from (Odena et al. 2016).
    """
    disturbed = 1 + 0.1 * np.random.default_rng(factor).standard_normal((2 * factor, 2 * factor))
    kernel = np.outer(_tent(factor), _tent(factor)) * disturbed
    return transposed_convolution(image, factor, kernel * factor**2 / kernel.sum())


def transposed_convolution(image: Floats, factor: int, kernel: npt.NDArray[np.float64]) -> Floats:
    """Stride `factor`, `kernel` of (2 x factor, 2 x factor): (H, W, C) to (factor x H, factor x W, C), borders repeated."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = image.shape[0] * factor, image.shape[1] * factor
    spread = np.zeros((padded.shape[0] * factor + factor, padded.shape[1] * factor + factor, image.shape[2]), np.float32)
    for row in range(2 * factor):
        for column in range(2 * factor):
            target = spread[row : row + padded.shape[0] * factor : factor, column : column + padded.shape[1] * factor : factor]
            target += padded * np.float32(kernel[row, column])
    start = factor + factor // 2
    return spread[start : start + height, start : start + width]


def _tent(factor: int) -> npt.NDArray[np.float64]:
    return np.asarray(1 - np.abs(np.arange(2 * factor) - factor + 0.5) / factor)


DECODERS = (
    Decoder("nearest2", 2, nearest),
    Decoder("bilinear2", 2, bilinear),
    Decoder("learned2", 2, learned),
    Decoder("nearest4", 4, nearest),
    Decoder("learned4", 4, learned),
)


def simulate(out: str | os.PathLike[str], *, size: int = 32, seed: int = 0, pairs: Mapping[Split, int] = PAIRS) -> Index:
    """Write the data set below `out` as ``{split}/{0_real|1_fake}/{generator}/*.jpg`` with its ``index.csv``.

    size: the side of the square images in pixels, a multiple of 4.

    Raises:
        DataError: `out` exists or cannot be written, or the photographs are not installed.
    """
    target = Path(out)
    if target.exists() or target.is_symlink():
        raise DataError(f"{target}: exists already; remove it or give another folder")
    if size < 8 or size % 4:
        raise DataError(f"images of {size} px: the side must be a multiple of 4, at least 8")
    photographs = {name: _load(name) for name in PHOTOGRAPHS}
    temporary = partial(target)
    with explained(target, ASKED_FOR):
        try:
            rows = [row for split in pairs for row in _write_split(temporary, split, pairs[split], size, seed, photographs)]
            Index(temporary, tuple(rows)).save(temporary / "index.csv")
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Index(target.resolve(), tuple(rows))


def golden_images(n: int = 16, size: int = 256) -> list[bytes]:
    """`n` encoded crops of `size` px from different photographs, JPEG and PNG; about two in five are simulated fakes.

    The same bytes for the same versions of Pillow and of the packages: what parity is checked on.

    Raises:
        DataError: the photographs are not installed.
    """
    names, images = list(PHOTOGRAPHS), []
    for number in range(n):
        photograph = _load(names[number % len(names)])
        side = size - size % 4
        window = _window(photograph, (0.0, 1.0), side, np.random.default_rng([number, side]))
        if number % 5 in (1, 3):
            window = DECODERS[number % len(DECODERS)](window)
        image = io.BytesIO()
        if number % 4 == 2:
            Image.fromarray(window).save(image, "PNG")
        else:
            Image.fromarray(window).save(image, quality=90, **_ENCODER)
        images.append(image.getvalue())
    return images


def _load(name: str) -> npt.NDArray[np.uint8]:
    """A photograph, from the file that its package ships; the package is not imported, so it cannot download anything."""
    (package, folder), _ = PHOTOGRAPHS[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"the embedded photographs come with {package}, which is not installed: pip install 'edgedet[simulate]'"
        )
    path = Path(found.submodule_search_locations[0]) / folder / name
    if not path.is_file():
        raise DataError(f"{path}: this version of {package} has no such photograph: pip install -U 'edgedet[simulate]'")
    return np.asarray(decode(path))


def _write_split(
    folder: Path, split: Split, count: int, size: int, seed: int, photographs: Mapping[str, npt.NDArray[np.uint8]]
) -> list[Row]:
    home = "train" if split == "ranges" else split
    names = [name for name, (_, of) in PHOTOGRAPHS.items() if of == home]
    if not names:
        raise DataError(f"no photographs are kept for split {split!r}; the splits are {', '.join(PAIRS)}")
    strip = {"ranges": (1 - _RANGES_STRIP, 1.0), "train": (0.0, 1 - _RANGES_STRIP)}.get(split, (0.0, 1.0))
    rows = []
    for number in range(count):
        # Everything about a pair comes from its own generator: asking for more pairs leaves the first ones as they are.
        rng = np.random.default_rng([seed, list(PAIRS).index(split), number])
        real = _window(photographs[names[number % len(names)]], strip, size, rng)
        decoder = DECODERS[number // len(names) % len(DECODERS)]
        quality = int(rng.integers(*_QUALITY, endpoint=True))
        pair = f"{split}-{number:05}"
        rows.append(_save(folder, Row(path=f"{split}/0_real/photo/{number:05}.jpg", label=REAL, generator="photo",
                                      split=split, pair=pair), real, quality))  # fmt: skip
        rows.append(_save(folder, Row(path=f"{split}/1_fake/{decoder.name}/{number:05}.jpg", label=FAKE,
                                      generator=decoder.name, split=split, pair=pair), decoder(real), quality))  # fmt: skip
    return rows


def _window(
    photograph: npt.NDArray[np.uint8], strip: tuple[float, float], size: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A square of the columns within `strip` (fractions of the width), shrunk to `size`: no trace of an older JPEG is left.

    Flat squares (sky, the black round the retina) show no trace of anything: the liveliest of 20 is taken when none will do.
    """
    left, right = (round(edge * photograph.shape[1]) for edge in strip)
    widest = min(right - left, photograph.shape[0])
    best, most = photograph[:0], -1.0
    for _ in range(20):
        side = min(round(size * rng.uniform(*_SHRINK)), widest)
        x = int(rng.integers(left, right - side, endpoint=True))
        y = int(rng.integers(0, photograph.shape[0] - side, endpoint=True))
        square = Image.fromarray(photograph[y : y + side, x : x + side])
        window = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
        lively = float(np.abs(np.diff(window.astype(np.float32), axis=0)).mean())
        if lively > most:
            best, most = window, lively
        if most >= _LIVELY:
            break
    return best


def _save(folder: Path, row: Row, pixels: npt.NDArray[np.uint8], quality: int) -> Row:
    """Encode and write one image; its row with the facts."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, quality=quality, **_ENCODER)
    path = folder / row.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())
    return Row(
        path=row.path, label=row.label, generator=row.generator, split=row.split, pair=row.pair, width=pixels.shape[1],
        height=pixels.shape[0], format="JPEG", quality=quality, sha256=hashlib.sha256(file.getvalue()).hexdigest(),
    )  # fmt: skip
