"""Images that show the same: equal bytes, and fingerprints that differ in a few bits, within a split and across splits."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.data.index import Row

NEAR_BITS = 3
"""Of 64: the most by which the fingerprints of near-duplicates differ."""

_BANDS = NEAR_BITS + 1  # of two fingerprints that differ in so many bits, one band at least is equal
_BAND_BITS = 64 // _BANDS
_MOST_IN_A_BAND = 64  # more share it than can be told apart: a plain pattern, not a photograph


@dataclass(frozen=True)
class Near:
    """Two images by their place, and the bits in which their fingerprints differ; 0 bytes differ when `same`."""

    first: int
    second: int
    bits: int
    same: bool


def near_duplicates(rows: Sequence[Row], fingerprints: Sequence[int], *, most_bits: int = NEAR_BITS) -> list[Near]:
    """Couples of images that show the same, in order of place. A pair (a photograph and its reconstruction) is none.

    fingerprints: of :func:`edgedet.data.traits.fingerprint`; 0 matches nothing.
    """
    values = np.array(fingerprints, dtype=np.uint64)
    found: dict[tuple[int, int], Near] = {}
    for first, second in _candidates(values):
        a, b = rows[first], rows[second]
        same = bool(a.sha256) and a.sha256 == b.sha256
        if (a.pair and a.pair == b.pair and not same) or (first, second) in found:
            continue
        bits = int(values[first] ^ values[second]).bit_count()
        if same or bits <= most_bits:
            found[first, second] = Near(first, second, bits, same)
    return [found[key] for key in sorted(found)]


def _candidates(values: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Places of fingerprints that have one of their bands in common."""
    couples: list[tuple[int, int]] = []
    mask = np.uint64(2**_BAND_BITS - 1)
    places = np.flatnonzero(values)
    for band in range(_BANDS):
        keys = (values[places] >> np.uint64(band * _BAND_BITS)) & mask
        together: dict[int, list[int]] = defaultdict(list)
        for place, key in zip(places.tolist(), keys.tolist(), strict=True):
            together[key].append(place)
        for members in together.values():
            couples += _close(members, values) if len(members) > _MOST_IN_A_BAND else _all_couples(members)
    return couples


def _all_couples(members: Sequence[int]) -> list[tuple[int, int]]:
    return [(first, second) for number, first in enumerate(members) for second in members[number + 1 :]]


def _close(members: Sequence[int], values: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Of many, only those that are equal in all bands: sorted, equal ones stand side by side."""
    ordered = sorted(members, key=lambda place: int(values[place]))
    return [(min(a, b), max(a, b)) for a, b in itertools.pairwise(ordered) if values[a] == values[b]]
