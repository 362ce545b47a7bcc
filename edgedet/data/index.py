"""The index: a data set's table, one row an image; what every stage takes as data."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.data.store import partial
from edgedet.errors import DataError, ImageError

Split = Literal["train", "ranges", "val", "test", ""]
SPLITS: tuple[Split, ...] = ("train", "ranges", "val", "test")
"""Training; INT8 ranges; thresholds, gates and search; reported once. An empty split is not assigned yet."""

REAL, FAKE, UNLABELLED = 0, 1, -1
LABELS: Mapping[int, str] = MappingProxyType({REAL: "real", FAKE: "fake", UNLABELLED: "unlabelled"})


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One image; `path` is relative to the index's root, in POSIX form; `pair` ties an image to its reconstruction.

    label: a key of :data:`LABELS`.
    """

    path: str
    label: int
    generator: str = ""
    split: Split = ""
    pair: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    quality: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Index:
    """Rows below a root folder. Reals' `generator` names their source; every fake's names what made it."""

    root: Path
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,), fake = 1.

        Raises:
            DataError: an image has none.
        """
        labels = np.array([row.label for row in self.rows], dtype=np.int64)
        without = int((labels == UNLABELLED).sum())
        if without:
            raise DataError(
                f"{self.root}: {without} of {len(self)} images have no label, which is read here: take them out; only "
                "distillation learns from them, what the teacher says"
            )
        return labels

    @cached_property
    def labels_or_nan(self) -> npt.NDArray[np.float32]:
        """(N,), fake = 1, NaN where an image has none."""
        labels = np.array([row.label for row in self.rows], dtype=np.float32)
        return np.where(labels == UNLABELLED, np.float32(np.nan), labels)

    @cached_property
    def generators(self) -> npt.NDArray[np.str_]:
        """(N,) names."""
        return np.array([row.generator for row in self.rows], dtype=np.str_)

    @cached_property
    def digest(self) -> str:
        """The sha256 of what the images are (content, label, generator, split), not of where they lie."""
        lines = sorted(f"{row.sha256}\t{row.label}\t{row.generator}\t{row.split}" for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, position: int) -> bytes:
        """The encoded bytes of image `position`.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.root / self.rows[position].path
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}; scan the data set again") from error

    @contextlib.contextmanager
    def naming(self, position: int) -> Iterator[None]:
        """Around what makes pixels of image `position`.

        Raises:
            ImageError: it is no image; names the file, and says what to do.
        """
        try:
            yield
        except ImageError as error:
            path = self.root / self.rows[position].path
            raise ImageError(f"{path}: {error}; scan the data set again to list and drop it") from error

    def content(self, position: int) -> str:
        """The sha256 of image `position`, as it was scanned; of the file as it is now when the index does not say.

        Raises:
            DataError: the file cannot be read.
        """
        return self.rows[position].sha256 or hashlib.sha256(self.read(position)).hexdigest()

    def where(self, keep: Callable[[Row], bool]) -> Index:
        """The rows for which `keep` holds."""
        return Index(self.root, tuple(row for row in self.rows if keep(row)))

    def split(self, name: str) -> Index:
        """The rows of one split.

        Raises:
            DataError: there are none; the message says which splits there are.
        """
        found = self.where(lambda row: row.split == name)
        if not found.rows:
            there = sorted({row.split or "(unassigned)" for row in self.rows})
            raise DataError(f"{self.root}: no images in split {name!r}; its splits are: {', '.join(there) or 'none'}")
        return found

    def take(self, positions: Iterable[int]) -> Index:
        """The rows at `positions`, in that order."""
        return Index(self.root, tuple(self.rows[int(position)] for position in positions))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV; the root is written relative to the file, so that the two can be moved together."""
        target = Path(path)
        temporary = partial(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.writer(file)
                writer.writerow(["# root", os.path.relpath(self.root.resolve(), target.parent.resolve())])
                writer.writerow(Row.__struct_fields__)
                for row in self.rows:
                    values = (getattr(row, field) for field in Row.__struct_fields__)
                    writer.writerow(["" if value is None else value for value in values])
            temporary.replace(target)
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Index:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: not an index, or a row that is not valid; names the line.
        """
        source = Path(path)
        try:
            with source.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                lines = list(csv.reader(file))
        except (OSError, csv.Error) as error:
            raise DataError(f"{source}: not an index that can be read: {error}") from error
        if len(lines) < 2 or len(lines[0]) != 2 or lines[0][0] != "# root":
            raise DataError(f"{source}: not an index: write one with `edgedet data scan DIR --out INDEX`")
        header = lines[1]
        rows = tuple(_row(header, line, f"{source}:{number}") for number, line in enumerate(lines[2:], start=3))
        return cls((source.parent / lines[0][1]).resolve(), rows)


def readable(name: str) -> str:
    """A generator's name with what is not UTF-8 escaped: manifests are JSON, which cannot hold it."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(header: Sequence[str], line: Sequence[str], where: str) -> Row:
    if len(line) != len(header):
        raise DataError(f"{where}: expected {len(header)} fields, got {len(line)}")
    given = dict(zip(header, line, strict=True))
    if not given.get("quality"):
        given.pop("quality", None)
    try:
        row = msgspec.convert({**given, "generator": readable(given.get("generator", ""))}, Row, strict=False)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from error
    if row.label not in LABELS:
        known = ", ".join(f"{label} ({name})" for label, name in LABELS.items())
        raise DataError(f"{where}: label {row.label} is none of {known}")
    return row
