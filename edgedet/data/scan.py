"""A data set on disk to an index: find the images, open every one, keep or cut the splits, and say what was left out.

An image that cannot be decoded is in `errors` with its reason, never dropped silently.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import msgspec
import PIL

from edgedet.data.facts import Facts, facts_of, may_pass
from edgedet.data.index import UNLABELLED, Index, Row, Split
from edgedet.data.labels import LabelMap
from edgedet.data.layouts import listing
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.data.split import SHARES, Leak, Share, assign, leaks
from edgedet.data.store import writing_file
from edgedet.errors import DataError

_FACTS_VERSION = 1


@dataclass(frozen=True)
class ScanResult:
    """The index of the good images, and what is not in it.

    errors: (path, reason), one for every image or folder that could not be taken.
    leaks: images whose bytes also stand in an earlier split; not in the index unless leaks were kept.
    ignored: files that are not called images, by extension. layout: ``folders``, or the table's name.
    """

    index: Index
    errors: tuple[tuple[str, str], ...]
    leaks: tuple[Leak, ...]
    ignored: Mapping[str, int]
    layout: str


class ScanOptions(TypedDict, total=False):
    """What :func:`scan` can be told, for those that pass it on."""

    label_map: Mapping[str, int] | None
    unlabelled: int | None
    seed: int
    shares: Mapping[Split, Share]
    keep_leaks: bool
    progress: bool


def scan(
    source: str | os.PathLike[str],
    *,
    label_map: Mapping[str, int] | None = None,
    unlabelled: int | None = None,
    seed: int = 0,
    shares: Mapping[Split, Share] = SHARES,
    keep_leaks: bool = False,
    cache: Path | None = None,
    progress: bool = True,
) -> ScanResult:
    """Read the data set at `source`, a folder in any layout of `edgedet.data.layouts`, or a table.

    label_map: more names for 0 (real) and 1 (fake). unlabelled: the label of all, when no folder's name says one.
    shares: how much to cut for a split that is missing; ``{}`` cuts nothing.
    cache: a folder where the facts of a listing (paths, sizes, times) are kept, so that a second scan opens no image.

    Raises:
        DataError: there is nothing there, no image in it, or no good one; an image without a label is in val or test.
        UnknownLabel: a folder or value that is neither real nor fake.
    """
    found = listing(Path(source), LabelMap.extended(label_map), unlabelled=unlabelled)
    if not found.rows:
        raise DataError(f"{source}: no images found; {_what_there_is(found.ignored, found.errors)}")
    _require_judges(found.rows)
    facts = _facts_of_all([found.root / row.path for row in found.rows], cache, progress)
    good = [_with_facts(row, fact) for row, fact in zip(found.rows, facts, strict=True) if not fact.error]
    errors = [(row.path, fact.error) for row, fact in zip(found.rows, facts, strict=True) if fact.error]
    contradictions = _contradictions(good)
    good = [row for row in good if row.path not in contradictions]
    if not good:
        raise DataError(f"{source}: none of its {len(found.rows)} images is usable; the first: {errors[0] if errors else ''}")
    leaked = leaks(good)
    if not keep_leaks:
        gone = {leak.path for leak in leaked}
        good = [row for row in good if row.path not in gone]
    rows = assign(good, seed=seed, shares=shares)
    everything_wrong = sorted([*found.errors, *errors, *contradictions.items()])
    return ScanResult(Index(found.root, rows), tuple(everything_wrong), tuple(leaked), dict(found.ignored), found.layout)


def _what_there_is(ignored: Counter[str], errors: Sequence[tuple[str, str]]) -> str:
    kinds = ", ".join(f"{count} x {extension}" for extension, count in ignored.most_common(5)) or "no other files"
    return f"there is {kinds}" + (f", and {errors[0][0]}: {errors[0][1]}" if errors else "")


def _require_judges(rows: Sequence[Row]) -> None:
    """Refuse images without a label where a label is what they are for."""
    wrong = next((row for row in rows if row.label == UNLABELLED and row.split in ("val", "test")), None)
    if wrong is not None:
        raise DataError(f"{wrong.path}: has no label, and is in split {wrong.split}, which judges by labels: move it to train")


def _with_facts(row: Row, fact: Facts) -> Row:
    return Row(
        path=row.path,
        label=row.label,
        generator=row.generator,
        split=row.split,
        pair=row.pair,
        width=fact.width,
        height=fact.height,
        format=fact.format,
        quality=fact.quality,
        sha256=fact.sha256,
    )


def _contradictions(rows: Sequence[Row]) -> dict[str, str]:
    """Images whose bytes are labelled real at one place and fake at another: path to reason."""
    label_of: dict[str, Row] = {}
    wrong: dict[str, str] = {}
    for row in (row for row in rows if row.label != UNLABELLED):
        other = label_of.setdefault(row.sha256, row)
        if other.label != row.label:
            wrong[row.path] = f"the same bytes are labelled the other way at {other.path}"
            wrong[other.path] = f"the same bytes are labelled the other way at {row.path}"
    return wrong


def _facts_of_all(paths: Sequence[Path], cache: Path | None, progress: bool) -> list[Facts]:
    if cache is None:
        return _measure(paths, progress)
    kept = cache / "scans" / f"{_listing_key(paths)}.json"
    try:
        facts = msgspec.json.decode(kept.read_bytes(), type=list[Facts])
    except (OSError, msgspec.DecodeError):
        facts = []
    if len(facts) != len(paths):
        facts = _measure(paths, progress)
    elif again := [position for position, each in enumerate(facts) if may_pass(each)]:
        for position, each in zip(again, _measure([paths[position] for position in again], progress), strict=True):
            facts[position] = each
    else:
        return facts
    with writing_file(kept) as file:
        file.write(msgspec.json.encode(facts))
    return facts


def _measure(paths: Sequence[Path], progress: bool) -> list[Facts]:
    facts = ordered(facts_of, paths, threads=threads_for(paths))
    return list(tracked(facts, total=len(paths), title="scan", show=progress))


def _listing_key(paths: Sequence[Path]) -> str:
    """A digest of the paths, sizes and modification times, and of what decides how a file is read."""
    digest = hashlib.sha256(f"{_FACTS_VERSION} {PIL.__version__}".encode())
    for path in paths:
        try:
            status = path.stat()
            line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n"
        except OSError as error:
            line = f"{path}\0{error.errno}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
