"""The audit of a data set: do its two classes differ in anything but what made them, and does one image stand in two splits?

Source: Grommelt et al., "Fake or JPEG? Revealing Common Biases in Generated Image Detection Datasets", 2024: a detector that is
trained on reals in JPEG and fakes in PNG learns the codec.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.data.index import FAKE, REAL, Index
from edgedet.data.nearby import Near, near_duplicates
from edgedet.data.parallel import ordered, threads_for, tracked
from edgedet.data.shortcuts import LIMIT, shortcuts
from edgedet.data.split import leaks
from edgedet.data.store import cache_root, writing_file
from edgedet.data.traits import Traits, traits_of
from edgedet.errors import DataError, ImageError

SAMPLE = 10_000
"""Images that shortcut baselines are fitted on, in equal shares; the rest is counted all the same."""

_SHOWN = 5
_QUANTILES = (0.05, 0.5, 0.95)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, as plain data.

    index: the digest of the data set. classes: by ``real`` and ``fake``, the distribution of each trait.
    shortcuts: by baseline, its AUC as a figure. leaks: couples of paths with the same bytes in two splits.
    near: couples that show the same in two splits, with the bits in which they differ.
    repeats: images whose bytes stand more than once in one split, by split.
    unreadable: paths that could not be decoded, with the reason.
    """

    index: str
    images: int
    classes: dict[str, dict[str, Any]]
    shortcuts: dict[str, dict[str, Any]]
    leaks: list[tuple[str, str]]
    near: list[tuple[str, str, int]]
    repeats: dict[str, int]
    unreadable: list[tuple[str, str]]

    @property
    def biased(self) -> list[str]:
        """The baselines that tell fakes from reals; empty is what a fair data set gives."""
        return [name for name, each in self.shortcuts.items() if each["biased"]]

    @property
    def headline(self) -> str:
        """One line that belongs beside every figure measured on this data set."""
        if self.biased:
            name = self.biased[0]
            said = f"biased: {name} alone has AUC {self.shortcuts[name]['value']:.2f} (limit {LIMIT})"
        else:
            strongest = max((each["value"] or 0.0 for each in self.shortcuts.values()), default=0.0)
            said = f"no shortcut above AUC {LIMIT} (strongest {strongest:.2f})"
        across = len(self.leaks) + len(self.near)
        return f"audited: {said}; {across} of {self.images:,} images stand in another split too"


def audit(index: Index, *, seed: int = 0, progress: bool = True) -> Audit:
    """Read every image of `index` and compare its classes.

    Raises:
        DataError: too few images of a class that can be read, or scikit-learn is not installed.
    """
    traits, unreadable = _traits(index, progress)
    kept = index.take(traits)
    known = list(traits.values())
    positions = _stratified(kept, SAMPLE, seed)
    groups = [kept.rows[at].pair or kept.rows[at].sha256 or kept.rows[at].path for at in positions]
    found = shortcuts([known[at] for at in positions], kept.labels[positions], groups, seed=seed)
    couples = near_duplicates(kept.rows, [each.fingerprint for each in known])
    return Audit(
        index=index.digest,
        images=len(index),
        classes={name: _described([each for each, own in zip(known, kept.labels, strict=True) if own == label])
                 for name, label in (("real", REAL), ("fake", FAKE))},
        shortcuts={each.name: {**each.auc, "biased": each.biased} for each in found},
        leaks=[(leak.path, leak.first_path) for leak in leaks(kept.rows)],
        near=_across(kept, couples),
        repeats=_repeats(kept),
        unreadable=unreadable,
    )


def keep(found: Audit) -> None:
    """Remember the audit of this data set, for the line that evaluations show.

    Raises:
        DataError: the cache cannot be written.
    """
    with writing_file(_place(found.index)) as file:
        file.write(msgspec.json.encode(found))


def recall(digest: str) -> Audit | None:
    """The audit of the data set with this digest; None when it was never audited here."""
    try:
        return msgspec.json.decode(_place(digest).read_bytes(), type=Audit)
    except (OSError, msgspec.DecodeError):
        return None


def headline(index: Index) -> str:
    """The audit's line of `index`, or that there is none."""
    found = recall(index.digest)
    return found.headline if found else "unaudited: `edgedet data audit` says whether format or size give the label away"


def _place(digest: str) -> Any:
    return cache_root() / "audits" / f"{digest[:32]}.json"


def _traits(index: Index, progress: bool) -> tuple[dict[int, Traits], list[tuple[str, str]]]:
    """By place in the index; and (path, reason) of what cannot be decoded."""

    def one(position: int) -> Traits | str:
        try:
            return traits_of(index.read(position))
        except (DataError, ImageError) as error:
            return str(error)

    threads = threads_for([index.root / row.path for row in index.rows])
    found = tracked(ordered(one, range(len(index)), threads=threads), total=len(index), title="audit", show=progress)
    traits: dict[int, Traits] = {}
    unreadable = []
    for position, each in enumerate(found):
        if isinstance(each, Traits):
            traits[position] = each
        else:
            unreadable.append((index.rows[position].path, each))
    return traits, unreadable


def _stratified(index: Index, count: int, seed: int) -> npt.NDArray[np.int64]:
    """At most `count` places, as many of each class, pairs and copies whole, in an order that content decides."""
    keys = [
        hashlib.sha256(f"{seed}:{row.pair or row.sha256 or row.path}".encode("utf-8", "surrogateescape")).digest()
        for row in index.rows
    ]
    chosen: list[int] = []
    for label in (REAL, FAKE):
        places = np.flatnonzero(index.labels == label).tolist()
        chosen += sorted(places, key=lambda at: keys[at])[: count // 2]
    return np.array(sorted(chosen), dtype=np.int64)


def _described(traits: Sequence[Traits]) -> dict[str, Any]:
    """The distribution of each trait over one class."""
    if not traits:
        return {"images": 0}
    qualities = [each.quality for each in traits if each.quality is not None]
    return {
        "images": len(traits),
        "formats": _counted([each.format for each in traits]),
        "chroma": _counted([each.sampling or "none" for each in traits]),
        "jpeg_quality": _spread(qualities) if qualities else None,
        "sizes": _counted([f"{each.width}x{each.height}" for each in traits]),
        "bytes_per_pixel": _spread([each.bytes_per_pixel for each in traits]),
        "exif": sum(each.exif for each in traits) / len(traits),
        "icc": sum(each.icc for each in traits) / len(traits),
    }


def _counted(words: Sequence[str]) -> Mapping[str, int]:
    """The commonest, and how many others there are."""
    counts = Counter(words)
    shown = dict(counts.most_common(_SHOWN))
    others = len(words) - sum(shown.values())
    return {**shown, **({"others": others} if others else {})}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {f"p{round(100 * share)}": float(np.quantile(values, share)) for share in _QUANTILES}


def _across(index: Index, couples: Sequence[Near]) -> list[tuple[str, str, int]]:
    """Those that show the same in two splits, without the same bytes."""
    rows = index.rows
    apart = (each for each in couples if not each.same and rows[each.first].split != rows[each.second].split)
    return [(rows[each.first].path, rows[each.second].path, each.bits) for each in apart]


def _repeats(index: Index) -> dict[str, int]:
    """By split: images that are copies of another one there."""
    seen = Counter((row.split, row.sha256) for row in index.rows if row.sha256)
    found: Counter[str] = Counter()
    for (split, _), count in seen.items():
        found[split] += count - 1
    return {split: count for split, count in found.items() if count}
