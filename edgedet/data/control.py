"""A controlled copy of a data set: every image, real or fake, cropped to one size and written by one encoder.

What is left to tell them apart is the picture. Crops are taken at native resolution, never resized, and begin on the 8-pixel
grid, so that an old JPEG grid stays where the new one is; each image's quality is drawn from one distribution for both classes.
Source: Grommelt et al., 2024, and the protocol that equalises format before anything is compared.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import numpy as np

from edgedet.artifact import check_free
from edgedet.data.facts import facts_of
from edgedet.data.index import REAL, Index, Row
from edgedet.data.pairs import Codec
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.data.store import ASKED_FOR, explained, partial
from edgedet.data.traits import GRID
from edgedet.errors import DataError
from edgedet.preprocess import decode
from edgedet.recipe import Config

_NO_TABLES = 96  # for reals that were no JPEGs: light, and common on the web


class ControlConfig(Config, frozen=True, kw_only=True):
    """size: side of the crops, in pixels. quality: of every image; None draws from the qualities of the reals."""

    size: Annotated[int, msgspec.Meta(ge=16, multiple_of=8)] = 224
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    seed: int = 0


def control(config: ControlConfig, index: Index, out: Path, *, progress: bool = True) -> tuple[Index, list[tuple[str, str]]]:
    """Write a controlled copy of `index` below `out`, with its own index, and say what is not in it: (path, reason).

    An image smaller than the crop is left out, as is its pair; none is enlarged. `out` appears in one step, whole.

    Raises:
        ArtifactError: `out` exists. DataError: nothing is left, or `out` cannot be written.
    """
    check_free(out)
    temporary = partial(out)
    with explained(out, ASKED_FOR):
        try:
            rows, left_out = _copied(config, index, temporary, progress)
            Index(temporary, rows).save(temporary / "index.csv")
            temporary.replace(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Index(out.resolve(), rows), left_out


def _copied(
    config: ControlConfig, index: Index, folder: Path, progress: bool
) -> tuple[tuple[Row, ...], list[tuple[str, str]]]:
    """The rows of the copies in `folder`, and what is left out."""
    qualities = [config.quality] if config.quality is not None else _qualities(index)
    names = _names(index.rows)

    def one(position: int) -> Row | str:
        row = index.rows[position]
        try:
            copy = _copy(config, row, index.read(position), qualities)
        except DataError as error:
            return str(error)
        return _written(row, copy, folder, names[position])

    threads = threads_for([index.root / row.path for row in index.rows])
    found = list(
        tracked(ordered(one, range(len(index)), threads=threads), total=len(index), title="control", show=progress)
    )
    broken = {row.pair for row, each in zip(index.rows, found, strict=True) if isinstance(each, str) and row.pair}
    rows: list[Row] = []
    left_out: list[tuple[str, str]] = []
    for row, each in zip(index.rows, found, strict=True):
        if isinstance(each, str):
            left_out.append((row.path, each))
        elif row.pair in broken:
            left_out.append((row.path, "the other image of its pair is left out"))
            (folder / each.path).unlink()
        else:
            rows.append(each)
    if not rows:
        raise DataError(f"{index.root}: no image is left: {left_out[0][1] if left_out else 'it is empty'}")
    return tuple(rows), left_out


def _names(rows: Sequence[Row]) -> list[str]:
    """Where each image's copy lies: at its own path as a JPEG; where several would meet, all but the first are numbered."""
    names: list[str] = []
    taken: set[str] = set()
    for row in rows:
        path = PurePosixPath(row.path)
        plain = PurePosixPath(*(part for part in path.parts if part not in (path.anchor, ".."))).with_suffix("")
        number, name = 1, f"{plain}.jpg"
        while name.casefold() in taken:  # some file systems do not tell a.jpg from A.jpg
            number, name = number + 1, f"{plain}-{number + 1}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def _qualities(index: Index) -> list[int]:
    """Those of the reals, as often as they occur."""
    return [row.quality or _NO_TABLES for row in index.rows if row.label == REAL] or [_NO_TABLES]


def _copy(config: ControlConfig, row: Row, data: bytes, qualities: Sequence[int]) -> bytes:
    """The crop of an image that is drawn for it, encoded with the quality that is."""
    pixels = np.asarray(decode(data))
    height, width = pixels.shape[:2]
    if min(height, width) < config.size:
        raise DataError(f"{width}x{height} is smaller than the crop of {config.size}: lower --size")
    # A pair draws the same crop and the same quality.
    name = row.pair or row.sha256 or row.path
    rng = np.random.default_rng([config.seed, *hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]])
    top, left = (GRID * int(rng.integers(0, (side - config.size) // GRID + 1)) for side in (height, width))
    quality = int(qualities[int(rng.integers(len(qualities)))])
    return Codec(quality, "4:2:0").encode(pixels[top : top + config.size, left : left + config.size])


def _written(row: Row, copy: bytes, folder: Path, name: str) -> Row:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(copy)  # Pillow, when it writes the file itself, does not notice that a disk is full
    facts = facts_of(target)
    return msgspec.structs.replace(
        row,
        path=name,
        width=facts.width,
        height=facts.height,
        format=facts.format,
        quality=facts.quality,
        sha256=facts.sha256,
    )
