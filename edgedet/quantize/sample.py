"""The images that ranges are found on: a stratified sample of the ``ranges`` split, disjoint from what decides."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from edgedet.data.index import Index
from edgedet.errors import DataError


def ranges_images(data: Index, count: int, *, seed: int = 0) -> Index:
    """At most `count` images of the ``ranges`` split, in equal shares by label, generator and file format.

    Raises:
        DataError: there is no such split, its images are not hashed, or one of them is in ``val`` or ``test`` as well.
    """
    split = data.split("ranges")
    _refuse_overlap(data, split)
    return stratified(split, count, seed=seed)


def stratified(data: Index, count: int, *, seed: int = 0) -> Index:
    """At most `count` images of `data`, in equal shares by label, generator and file format, in the order of `data`."""
    strata: dict[tuple[int, str, str], list[int]] = defaultdict(list)
    for position in np.random.default_rng(seed).permutation(len(data)):
        row = data.rows[position]
        strata[row.label, row.generator, row.format].append(int(position))
    # One from each stratum in turn: a small stratum gives all it has, the others fill up.
    turns = sorted((turn, key, position) for key, of in strata.items() for turn, position in enumerate(of))
    return data.take(sorted(position for _, _, position in turns[:count]))


def _refuse_overlap(data: Index, split: Index) -> None:
    unhashed = next((row.path for row in split.rows if not row.sha256), None)
    if unhashed is not None:
        raise DataError(f"{data.root}: {unhashed} has no sha256 in the index: scan the data set again")
    judged = {row.sha256: row for row in data.rows if row.split in ("val", "test")}
    for row in split.rows:
        other = judged.get(row.sha256)
        if other is not None:
            raise DataError(
                f"{data.root}: {row.path} (split ranges) has the same content as {other.path} (split {other.split}): "
                "INT8 ranges must not be found on images that judge the result; split the data again"
            )
