"""Content-paired images: the crop of a photograph, the codec that both sides are saved with, and the set that they make.

Real and fake of a pair differ in the generator's trace alone when nothing else tells them apart: same size, same codec, same
quality, no metadata, and no older JPEG grid in the real that the fake has lost (Rajan et al., "Aligned Datasets Improve
Detection of Latent Diffusion-Generated Images", ICLR 2025; Chen et al., "Dual Data Alignment", NeurIPS 2025).

What is drawn for a photograph depends on its bytes and the seed, not on its name, its place or the other photographs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
from PIL import Image

from edgedet.data.facts import jpeg_quality
from edgedet.data.index import FAKE, REAL, Row
from edgedet.data.store import ASKED_FOR, writing_file
from edgedet.errors import ImageError
from edgedet.preprocess import Header, Pixels, decode, header
from edgedet.recipe import Config

MULTIPLE = 8
"""A latent autoencoder shrinks by 8: the sides of what it takes are multiples of it."""

CAMERA = "camera"
MANIFEST = "manifest.csv"
_GRID = 16  # the period of a JPEG with halved chroma, whose 8x8 blocks cover 16x16 pixels
_END = b"\xff\xd9"  # of every JPEG

Subsampling: TypeAlias = Literal["4:4:4", "4:2:2", "4:2:0"]
Quality = Annotated[int, msgspec.Meta(ge=1, le=100)]
Side = Annotated[int, msgspec.Meta(ge=MULTIPLE, multiple_of=MULTIPLE)]


class PairConfig(Config, frozen=True, kw_only=True):
    """How a photograph becomes the real of a pair, and how both sides are saved.

    crop: the side of a square crop at the photograph's own resolution; None takes the whole photograph, its sides cut to
        multiples of 8 and to at most `largest`. The place of a cut is drawn.
    old_grid: what becomes of the grid that the photograph's own JPEG compression has left, which no reconstruction has in the
        same way. ``downscale``: the photograph is shrunk by a factor drawn from `scale`, which blurs the grid away. ``align``:
        it is cut on its grid, so that the new one falls on the old one; pixels keep their resolution, and reals the rounding of
        their first compression, which saving with the photograph's own tables (`jpeg` = ``photo``) hardly adds to.
    jpeg: ``draw`` takes a quality from `quality` (inclusive) and `subsampling`; ``photo`` takes the photograph's own
        quantization tables and subsampling, or draws when it is no JPEG.
    """

    crop: Side | None = None
    largest: Side = 1024
    old_grid: Literal["downscale", "align"] = "downscale"
    scale: tuple[float, float] = (0.6, 0.95)
    jpeg: Literal["draw", "photo"] = "draw"
    quality: tuple[Quality, Quality] = (75, 96)
    subsampling: Subsampling = "4:2:0"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] < 1:
            raise ValueError(f"`scale` is the least and the largest factor, between 0 and 1, got {self.scale}")
        if self.quality[0] > self.quality[1]:
            raise ValueError(f"`quality` is the least and the largest, got {self.quality}")


@dataclass(frozen=True)
class Codec:
    """How the sides of one pair are encoded. tables: quantization tables instead of the standard ones of `quality`."""

    quality: int
    subsampling: str
    tables: Sequence[Sequence[int]] | None = None

    def encode(self, pixels: Pixels) -> bytes:
        """uint8 (H, W, 3) to a JPEG without metadata."""
        file = io.BytesIO()
        how = {"quality": self.quality} if self.tables is None else {"qtables": self.tables}
        Image.fromarray(pixels).save(file, "JPEG", subsampling=self.subsampling, **how)
        return file.getvalue()


@dataclass(frozen=True)
class Cut:
    """The real of a pair before it is encoded: uint8 (H, W, 3), sides multiples of 8."""

    pixels: Pixels
    codec: Codec


def cut(data: bytes, sha256: str, config: PairConfig) -> Cut:
    """The crop of an encoded photograph, and the codec of its pair.

    Raises:
        ImageError: it cannot be decoded, or is smaller than what is to be cut from it.
    """
    photo, found = decode(data), header(data)
    rng = _drawing(sha256, config.seed, 0)
    scale, x, y, quality = rng.random(), rng.random(), rng.random(), rng.integers(*config.quality, endpoint=True)
    place = _shrunk if config.old_grid == "downscale" else _on_grid
    pixels = np.array(place(photo, found, config, (scale, x, y)))
    return Cut(pixels, _codec(found, config, int(quality)))


def choice(sha256: str, seed: int, count: int) -> int:
    """Which of `count` generators is drawn for the photograph of that content."""
    return int(_drawing(sha256, seed, 1).integers(count))


def _drawing(sha256: str, seed: int, what: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(sha256[:16], 16), what])


def _shrunk(photo: Image.Image, _: Header, config: PairConfig, drawn: tuple[float, float, float]) -> Image.Image:
    """A cut of `photo` shrunk by the drawn factor, resampled straight from its place in the photograph."""
    least, largest = config.scale
    if config.crop is not None:
        least = max(least, config.crop / min(photo.size))
    if least > largest:
        raise _too_small(photo, config, f", shrunk by {largest:g} at the least,")
    scale = least + drawn[0] * (largest - least)
    width, height = (_side(int(side * scale + 1e-6), photo, config) for side in photo.size)
    left, top = ((side - cut / scale) * at for side, cut, at in zip(photo.size, (width, height), drawn[1:], strict=True))
    box = (left, top, min(left + width / scale, photo.width), min(top + height / scale, photo.height))
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _on_grid(photo: Image.Image, found: Header, config: PairConfig, drawn: tuple[float, float, float]) -> Image.Image:
    """A cut of `photo` that begins on the grid of its compression, which turning it upright may have moved."""
    mirrored_x, mirrored_y = found.orientation in (2, 3, 6, 7), found.orientation in (3, 4, 7, 8)
    origin = (photo.width % _GRID if mirrored_x else 0, photo.height % _GRID if mirrored_y else 0)
    sides = [_side(side - start, photo, config) for side, start in zip(photo.size, origin, strict=True)]
    left, top = (
        start + _GRID * int(at * ((side - start - cut) // _GRID + 1))
        for side, start, cut, at in zip(photo.size, origin, sides, drawn[1:], strict=True)
    )
    return photo.crop((left, top, left + sides[0], top + sides[1]))


def _side(available: int, photo: Image.Image, config: PairConfig) -> int:
    """How much of a side of `available` pixels is taken."""
    side = config.crop or min(available, config.largest) // MULTIPLE * MULTIPLE
    if not 0 < side <= available:
        raise _too_small(photo, config)
    return side


def _too_small(photo: Image.Image, config: PairConfig, why: str = "") -> ImageError:
    return ImageError(f"{photo.width}x{photo.height}{why} is smaller than the {config.crop or MULTIPLE} px that are to be cut")


def _codec(found: Header, config: PairConfig, quality: int) -> Codec:
    if config.jpeg == "draw" or not found.tables:
        return Codec(quality, config.subsampling)
    tables = [list(found.tables[key]) for key in sorted(found.tables)]
    if found.orientation in (5, 6, 7, 8):  # turned upright, what were rows of a block are its columns
        tables = [[table[8 * (place % 8) + place // 8] for place in range(64)] for table in tables]
    return Codec(jpeg_quality(found.tables) or quality, found.subsampling or config.subsampling, tables)


def without_colour_like(real: Pixels, fake: Pixels) -> Pixels:
    """`fake` made grey when `real` is grey throughout: the faint colour of a reconstruction would tell it apart."""
    if np.ptp(real, axis=2).any():
        return fake
    return np.repeat(np.asarray(Image.fromarray(fake).convert("L"))[..., None], 3, axis=2)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the set's table. source: the photograph's path; pair: what ties a photograph to its reconstructions."""

    path: str
    label: int
    generator: str
    split: str
    pair: str
    source: str
    jpeg_quality: int


def real_path(photo: Row) -> str:
    """Where the crop of `photo` lies in the set."""
    return f"{photo.split}/0_real/{CAMERA}/{pair_of(photo)}.jpg"


def fake_path(photo: Row, generator: str) -> str:
    """Where the reconstruction of `photo` by `generator` lies."""
    return f"{photo.split}/1_fake/{generator}/{pair_of(photo)}.jpg"


def pair_of(photo: Row) -> str:
    """The name of its pair: the start of its sha256."""
    return photo.sha256[:16]


def is_whole(path: Path) -> bool:
    """Whether a JPEG lies there that is written to its end, also after the machine stopped."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:
        return False


def write_manifest(folder: Path, photos: Iterable[tuple[Row, Sequence[str]]]) -> list[Entry]:
    """Write the table of what lies in `folder` of `photos` (each with its generators); the lines, sorted by path.

    Raises:
        ImageError: an image of the set cannot be read back.
        DataError: it cannot be written.
    """
    entries = sorted((entry for photo, names in photos for entry in _entries(folder, photo, names)), key=lambda each: each.path)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(Entry.__struct_fields__)
    writer.writerows([getattr(entry, field) for field in Entry.__struct_fields__] for entry in entries)
    with writing_file(folder / MANIFEST, ASKED_FOR) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))
    return entries


def _entries(folder: Path, photo: Row, generators: Sequence[str]) -> list[Entry]:
    sides = [(real_path(photo), REAL, CAMERA), *((fake_path(photo, name), FAKE, name) for name in generators)]
    quality = jpeg_quality(header((folder / sides[0][0]).read_bytes()).tables) or 0
    return [
        Entry(path=path, label=label, generator=generator, split=photo.split, pair=pair_of(photo), source=photo.path,
              jpeg_quality=quality)
        for path, label, generator in sides
    ]  # fmt: skip


def digest_of(photos: Iterable[Row]) -> str:
    """The sha256 of which photographs there are and which split each is in."""
    lines = sorted(f"{photo.sha256}\t{photo.split}" for photo in photos)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
