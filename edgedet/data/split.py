"""Train, ranges, val, test: keep what a data set brings, cut what it lacks, and find what stands on two sides.

Content that is the same, and images that are a pair (a photograph and its reconstruction), stay on one side: a group. Groups
are drawn per stratum (label, generator, container), in an order that depends on content and seed alone, not on file names.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from edgedet.data.index import SPLITS, UNLABELLED, Row, Split
from edgedet.errors import DataError


@dataclass(frozen=True)
class Share:
    """How much of the images a split gets: `fraction`, but at least `at_least` of them unless that is more than `cap`."""

    fraction: float
    at_least: int = 0
    cap: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.fraction < 1 and 0 <= self.cap <= 1 and self.at_least >= 0):
            raise DataError(f"a split's share is a fraction from 0 up to 1, got {self}")

    def of(self, total: int) -> float:
        """The images wanted out of `total`."""
        return max(self.fraction * total, min(self.at_least, self.cap * total))


SHARES: Mapping[Split, Share] = MappingProxyType(
    {
        "ranges": Share(0.01, at_least=512, cap=0.05),  # range-finding is done converging by then
        "val": Share(0.05, at_least=2000, cap=0.10),  # TPR at 1 % FPR needs 1,000 reals
        "test": Share(0.10, at_least=2000, cap=0.15),
    }
)
"""What a missing split is cut to; train keeps the rest."""


@dataclass(frozen=True)
class Leak:
    """The same bytes in two splits: `path` in `split`, and `first_path` in `first_split`, which comes before it in SPLITS."""

    path: str
    split: Split
    first_path: str
    first_split: Split


def leaks(rows: Iterable[Row]) -> list[Leak]:
    """Every image whose bytes also stand in an earlier split (train, ranges, val, test), sorted by path."""
    by_content: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.sha256 and row.split:
            by_content[row.sha256].append(row)
    found = []
    for copies in by_content.values():
        first = min(copies, key=lambda row: (SPLITS.index(row.split), row.path))
        found += [Leak(row.path, row.split, first.path, first.split) for row in copies if row.split != first.split]
    return sorted(found, key=lambda leak: leak.path)


def assign(rows: Sequence[Row], *, seed: int = 0, shares: Mapping[Split, Share] = SHARES) -> tuple[Row, ...]:
    """`rows`, in their order, with every split that is missing cut out of train; unassigned rows count as train.

    Nothing is taken from val or test: a data set without train images (one that is only for testing) stays as it is. Images
    without a label, and what stays with them, are for train only: nothing is judged by them.
    """
    pool = [position for position, row in enumerate(rows) if row.split in ("train", "")]
    strata = _strata(rows, pool, seed)
    count = sum(len(group) for groups in strata for group in groups)
    there = {row.split for row in rows}
    wanted = {split: share.of(count) for split, share in shares.items() if split not in there and share.of(count) > 0}
    chosen: dict[int, Split] = dict.fromkeys(pool, "train")
    left: dict[Split, float] = dict.fromkeys(wanted, 0.0)
    for groups in strata:
        size = sum(map(len, groups))
        for split, target in wanted.items():
            # What a small stratum could not give exactly is owed by the next one.
            left[split] += target * size / count
            for group in _take(groups, left[split]):
                chosen.update(dict.fromkeys(group, split))
                left[split] -= len(group)
    return tuple(
        row if row.split == chosen.get(position, row.split) else msgspec.structs.replace(row, split=chosen[position])
        for position, row in enumerate(rows)
    )


def _take(groups: list[list[int]], due: float) -> list[list[int]]:
    """Remove groups from the end of `groups` until about `due` images are taken."""
    taken: list[list[int]] = []
    while groups and len(groups[-1]) / 2 <= due:
        taken.append(groups.pop())
        due -= len(taken[-1])
    return taken


def _strata(rows: Sequence[Row], pool: Sequence[int], seed: int) -> list[list[list[int]]]:
    """The groups of positions whose images all have a label, by stratum, each stratum shuffled."""
    strata: dict[tuple[tuple[int, str, str], ...], list[tuple[bytes, list[int]]]] = defaultdict(list)
    for group in _groups(rows, pool):
        if any(rows[at].label == UNLABELLED for at in group):
            continue
        kinds = tuple(sorted({(rows[at].label, rows[at].generator, rows[at].format) for at in group}))
        content = min(rows[at].sha256 or rows[at].path for at in group)
        strata[kinds].append((hashlib.sha256(f"{seed}:{content}".encode("utf-8", "surrogateescape")).digest(), group))
    return [[group for _, group in sorted(strata[kinds])] for kinds in sorted(strata)]


def _groups(rows: Sequence[Row], pool: Sequence[int]) -> list[list[int]]:
    """Positions that must stay together: the same content or the same pair, directly or through others."""
    parent = {position: position for position in pool}

    def top(position: int) -> int:
        while parent[position] != position:
            parent[position] = position = parent[parent[position]]
        return position

    first: dict[tuple[str, str], int] = {}
    for position in pool:
        row = rows[position]
        for key in (("content", row.sha256), ("pair", row.pair)):
            if key[1]:
                parent[top(position)] = top(first.setdefault(key, position))
    members: dict[int, list[int]] = defaultdict(list)
    for position in pool:
        members[top(position)].append(position)
    return list(members.values())
