"""From whatever a data set looks like on disk to rows: which files, and what folders or tables say of them.

Folders: every image below a folder whose name is a label's, with split folders and generator folders in any order, which
covers CIFAKE ``{train,test}/{REAL,FAKE}``, CNNDetection ``<split>/<generator>[/<class>]/{0_real,1_fake}``, the other order
``<split>/{0_real,1_fake}/<generator>`` and GenImage ``<generator>[/<name>]/{train,val}/{ai,nature}``. Tables: a CSV that names
file and label; a folder that has an ``index.csv`` or ``manifest.csv`` is read by it.

No file is opened here but the tables. Hidden files and files that are not called images are left out; the latter are counted.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from edgedet.data.index import LABELS, Index, Row, Split, readable
from edgedet.data.labels import LabelMap
from edgedet.errors import DataError

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
TABLES = ("index.csv", "manifest.csv")

SPLIT_NAMES: MappingProxyType[str, Split] = MappingProxyType(
    {
        "train": "train", "training": "train",
        "ranges": "ranges", "calibration": "ranges",
        "val": "val", "valid": "val", "validation": "val",
        "test": "test", "testing": "test",
    }
)  # fmt: skip

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path"),
    "label": ("label", "class", "target", "is_fake", "is_ai"),
    "generator": ("generator", "model", "method"),
    "split": ("split", "subset", "set"),
    "pair": ("pair", "pair_id"),
}


@dataclass
class Listing:
    """What was found: rows without the facts that need the file itself, and what could not be taken.

    layout: ``folders``, or the name of the table. errors: (path, reason). ignored: files by extension.
    """

    root: Path
    layout: str
    rows: list[Row] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def listing(source: Path, labels: LabelMap, *, unlabelled: int | None = None) -> Listing:
    """The images of `source`, a folder or a table.

    unlabelled: the label of all images of a folder in which no folder's name is a label's.

    Raises:
        DataError: there is nothing at `source`, or a table without the columns it needs.
        UnknownLabel: a folder or value that is neither real nor fake.
    """
    if source.is_dir():
        table = _table_in(source)
        return _from_table(table, labels) if table else _from_folders(source, labels, unlabelled)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    return _from_table(source, labels)


def _table_in(folder: Path) -> Path | None:
    """The table of `folder`, or of the lone folder in it (an archive often has one on top)."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for name in TABLES:
        if folder / name in inside:
            return folder / name
    return _table_in(inside[0]) if len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink() else None


def _from_folders(root: Path, labels: LabelMap, unlabelled: int | None) -> Listing:
    found = Listing(root.resolve(), "folders")
    paths = sorted(_images(found))
    folders = dict.fromkeys(path.rpartition("/")[0] for path in paths)
    if any(labels.get(name) is not None for folder in folders for name in PurePosixPath(folder).parts):
        unlabelled = None
    known = {folder: _row_of_folder(root, folder, labels, unlabelled) for folder in folders}
    for path in paths:
        like = known[path.rpartition("/")[0]]
        found.rows.append(Row(path=path, label=like.label, generator=like.generator, split=like.split))
    return found


def _row_of_folder(root: Path, folder: str, labels: LabelMap, unlabelled: int | None) -> Row:
    """What the names on the way to `folder` say; the outermost that is neither split nor label is the generator."""
    split: Split = ""
    label: int | None = None
    generator = ""
    for name in PurePosixPath(folder).parts:
        if label is None and labels.get(name) is not None:
            label = labels.get(name)
        elif labels.get(name) not in (None, label):
            raise DataError(f"{root / folder}: is below a folder of reals and a folder of fakes; which is it?")
        elif not split and name.casefold() in SPLIT_NAMES:
            split = SPLIT_NAMES[name.casefold()]
        else:
            generator = generator or name
    label = unlabelled if label is None else label
    if label is None:
        raise labels.unknown_folder(str(root / folder))
    return Row(path=folder, label=label, generator=readable(generator) or _unnamed(label), split=split)


def _unnamed(label: int) -> str:
    return LABELS[label]


def _images(found: Listing) -> Iterator[str]:
    """Paths of images below the root, relative to it; what cannot be listed goes to the errors."""
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            status = (found.root / folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                found.errors.append((folder, "a link to a folder that is read already: not followed"))
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(found.root / folder), key=lambda entry: entry.name)
        except OSError as error:
            found.errors.append((folder or ".", f"folder cannot be listed: {error.strerror}"))
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry)
            if kind == "folder":
                folders.append(path)
            elif kind == "image":
                yield path
            elif kind == "misnamed":
                found.errors.append((path, "a directory, not an image"))
            elif kind == "other":
                found.ignored[Path(entry.name).suffix.lower() or "(none)"] += 1


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return "hidden"
    named_image = os.path.splitext(entry.name)[1].lower() in EXTENSIONS  # noqa: PTH122 (called for every file)
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link to itself
        is_folder = False
    if is_folder:
        return "misnamed" if named_image else "folder"
    return "image" if named_image else "other"


def _from_table(table: Path, labels: LabelMap) -> Listing:
    lines = _read_csv(table)
    if lines[0][:1] == ["# root"]:
        index = Index.load(table)
        plain = [Row(**{name: getattr(row, name) for name in _COLUMNS}) for row in index.rows]
        return Listing(index.root, table.name, plain)
    columns = _columns(table, lines[0])
    rows = [_row_of_line(columns, line, f"{table}:{number}", labels) for number, line in enumerate(lines[1:], start=2)]
    return _relative(table, rows)


def _read_csv(table: Path) -> list[list[str]]:
    try:
        # A byte order mark, which spreadsheets write, is not part of the first column's name.
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: not a table that can be read: {error}") from error
    if not lines:
        raise DataError(f"{table}: is empty; expected a header and a line for every image")
    return lines


def _columns(table: Path, header: Sequence[str]) -> dict[str, int]:
    """Where each column of a row stands in `header`."""
    names = [name.strip().casefold().replace(" ", "_") for name in header]
    columns = {
        what: names.index(next(alias for alias in aliases if alias in names))
        for what, aliases in _COLUMNS.items()
        if set(aliases) & set(names)
    }
    for needed in ("path", "label"):
        if needed not in columns:
            raise DataError(
                f"{table}: no column for the {needed}; its columns are {', '.join(header[:20])}; "
                f"name one of them {' or '.join(_COLUMNS[needed])}"
            )
    return columns


def _row_of_line(columns: dict[str, int], line: Sequence[str], where: str, labels: LabelMap) -> Row:
    if len(line) <= max(columns.values()):
        raise DataError(f"{where}: has {len(line)} fields, too few for its header")
    value = {what: line[column].strip() for what, column in columns.items()}
    split = value.get("split", "").casefold()
    if split and split not in SPLIT_NAMES:
        raise DataError(f"{where}: unknown split {value['split']!r}; allowed: {', '.join(SPLIT_NAMES)}")
    label = labels.of_value(value["label"], where)
    return Row(
        path=value["path"].replace("\\", "/"),
        label=label,
        generator=readable(value.get("generator", "")) or _unnamed(label),
        split=SPLIT_NAMES[split] if split else "",
        pair=value.get("pair", ""),
    )


def _relative(table: Path, rows: Sequence[Row]) -> Listing:
    """Paths relative to the table's folder, or to the folder above all of them when some lie outside it."""
    home = str(table.parent.resolve())
    full = [os.path.normpath(os.path.join(home, row.path)) for row in rows]  # noqa: PTH118 (keeps links)
    root = os.path.commonpath([home, *(os.path.dirname(path) for path in full)])  # noqa: PTH120
    prefix = len(root.rstrip(os.sep)) + 1
    placed = [
        Row(path=Path(path[prefix:]).as_posix(), label=row.label, generator=row.generator, split=row.split, pair=row.pair)
        for path, row in zip(full, rows, strict=True)
    ]
    return Listing(Path(root), table.name, placed)
