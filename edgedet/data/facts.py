"""What is to be known of one image file: opened, decoded, measured, hashed."""

from __future__ import annotations

import functools
import hashlib
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.errors import ImageError
from edgedet.preprocess import DEFAULT_MAX_PIXELS, decode, header

_UNREAD = "cannot be read"


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """Of a good file: size in pixels as a detector sees it (upright), container, JPEG quality, content hash. Else: `error`."""

    width: int = 0
    height: int = 0
    format: str = ""
    quality: int | None = None
    sha256: str = ""
    error: str = ""


def may_pass(facts: Facts) -> bool:
    """Whether the file may be fine the next time: the disk or the memory failed, not the image."""
    return facts.error.startswith(_UNREAD) or "MemoryError" in facts.error


def facts_of(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> Facts:
    """The facts of the file at `path`; whatever is wrong with it is in `error`, on one line. Never raises for a bad file."""
    try:
        # A pipe or a device with an image's name would block, or never end.
        if not stat.S_ISREG(path.stat().st_mode):
            return Facts(error="not a regular file")
        data = path.read_bytes()
    except OSError as error:
        return Facts(error=f"{_UNREAD}: {error.strerror or error}")
    try:
        pixels = decode(data, max_pixels=max_pixels)
    except ImageError as error:
        return Facts(error=" ".join(str(error).split()))
    found = header(data, max_pixels=max_pixels)
    return Facts(pixels.width, pixels.height, found.container, jpeg_quality(found.tables), hashlib.sha256(data).hexdigest())


def jpeg_quality(tables: Mapping[int, Sequence[int]] | None) -> int | None:
    """The libjpeg quality, 1 to 100, whose luminance table is nearest to the file's (sum of absolute differences).

    Exact for files that libjpeg wrote with its standard tables (ITU-T T.81, table K.1); None when there are no tables.
    """
    if not tables or 0 not in tables or len(tables[0]) != 64:
        return None
    return _nearest_quality(tuple(tables[0]))


@functools.lru_cache(maxsize=4096)
def _nearest_quality(table: tuple[int, ...]) -> int:
    distance = np.abs(_luminance_tables() - np.array(table)).sum(axis=1)
    # Several of the lowest and highest qualities share tables: the higher one is meant more often.
    return int(np.flatnonzero(distance == distance.min())[-1]) + 1


_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80,
    62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98,
    112, 100, 103, 99,
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def _luminance_tables() -> npt.NDArray[np.int64]:
    """(100, 64): the standard luminance table at quality 1 to 100, as libjpeg scales it."""
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    tables: npt.NDArray[np.int64] = np.clip((np.array(_LUMINANCE) * scales[:, None] + 50) // 100, 1, 255)
    return tables
