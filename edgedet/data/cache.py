"""Pixels decoded once: a memory-mapped array, so that training reads no file twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import PIL

from edgedet.data.index import Index
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.data.store import cache_root, writing_file
from edgedet.errors import DataError
from edgedet.preprocess import Preprocess

_NOT_PIXELS = ("mean", "std", "max_pixels")
"""Fields of `Preprocess` that leave the pixels as they are: artifacts that differ only in these share a cache."""


@dataclass(frozen=True)
class PixelCache:
    """The pixels of an index after preprocessing.

    pixels: uint8 (N, height, width, 3), read-only, in the order of the index's rows; pages are read when touched.
    """

    pixels: npt.NDArray[np.uint8]
    path: Path

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def open(cls, index: Index, preprocess: Preprocess, root: Path | None = None, progress: bool = True) -> PixelCache:
        """The cache of `index` under `root` (default: the user's cache folder), decoded now when it is not there yet.

        It is keyed by the content of the images, their order and the geometry, so it cannot be stale.

        Raises:
            DataError: an image cannot be decoded or is not the one that was scanned, sizes differ under geometry `native`,
                or the disk is full.
        """
        if not index.rows:
            raise DataError(f"{index.root}: there is no image to decode: the index is empty")
        path = (root or cache_root()) / "pixels" / f"{_key(index, preprocess)}.npy"
        found = _load(path, len(index))
        if found is None:
            _decode_all(path, index, preprocess, progress)
            found = _load(path, len(index))
        if found is None:
            raise DataError(f"{path}: was written but cannot be read back; remove it and try again")
        return cls(found, path)


def same_pixels(one: Preprocess, other: Preprocess) -> bool:
    """Whether both make the same pixels of every image; what is done to them inside the network may differ."""
    return _geometry(one) == _geometry(other)


def _geometry(preprocess: Preprocess) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(preprocess).items() if name not in _NOT_PIXELS}


def _key(index: Index, preprocess: Preprocess) -> str:
    digest = hashlib.sha256(msgspec.json.encode([_geometry(preprocess), PIL.__version__], order="sorted"))
    for position in range(len(index)):
        digest.update(index.content(position).encode())
    return digest.hexdigest()[:32]


def _load(path: Path, count: int) -> npt.NDArray[np.uint8] | None:
    """The array at `path`; None when there is none, or one that a crash has cut short."""
    try:
        array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = array.dtype == np.uint8 and array.ndim == 4 and len(array) == count
    return array if whole else None


def _decode_all(path: Path, index: Index, preprocess: Preprocess, progress: bool) -> None:
    """Write the array front to back: a full disk is then an error, where a write to mapped memory would kill the process."""
    threads = threads_for([index.root / row.path for row in index.rows])
    images = ordered(lambda position: _pixels(index, preprocess, position), range(len(index)), threads=threads)
    with writing_file(path) as file:
        _write(file, index, tracked(images, total=len(index), title="decode", show=progress))


def _write(file: BinaryIO, index: Index, images: Iterator[npt.NDArray[np.uint8]]) -> None:
    first: tuple[int, ...] | None = None
    for position, image in enumerate(images):
        if first is None:
            first = image.shape
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(index), *first)}
            np.lib.format.write_array_header_1_0(file, header)
        if image.shape != first:
            raise DataError(
                f"{index.root / index.rows[position].path}: {image.shape[1]}x{image.shape[0]}, but the first image is "
                f"{first[1]}x{first[0]}: geometry `native` needs images of one size here; "
                "choose `crop_only` or a resize, or train on images of one size"
            )
        file.write(image.data)


def _pixels(index: Index, preprocess: Preprocess, position: int) -> npt.NDArray[np.uint8]:
    data, row = index.read(position), index.rows[position]
    if row.sha256 and hashlib.sha256(data).hexdigest() != row.sha256:
        raise DataError(f"{index.root / row.path}: has changed since the data set was scanned: scan it again")
    try:
        return preprocess(data)
    except DataError as error:
        raise DataError(f"{index.root / row.path}: {error}") from error
