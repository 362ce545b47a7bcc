"""Histograms kept between runs: they depend on the graph and on the pixels, and on no method."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from edgedet.data.store import cache_root, writing_file
from edgedet.quantize.ranges.histogram import BINS, Histogram, observe
from edgedet.quantize.session import Batches

_FORMAT = 1
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def observe_once(
    model: onnx.ModelProto, tensors: Sequence[str], batches: Batches, key: str, root: Path | None = None
) -> dict[str, Histogram]:
    """:func:`edgedet.quantize.ranges.observe`, looked up under `root` (default: the user's cache folder) first.

    key: says what `batches` gives: the digest of the images and of their preprocessing.

    Raises:
        QuantizeError: as `observe` does.
        DataError: the cache folder cannot be written.
    """
    path = (root or cache_root()) / "ranges" / f"{_key(model, tensors, key)}.npz"
    found = _load(path, tensors)
    if found is None:
        found = observe(model, tensors, batches)
        _save(path, found)
    return found


def _key(model: onnx.ModelProto, tensors: Sequence[str], key: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {BINS} {key}\n".encode())
    digest.update("\n".join(tensors).encode())
    digest.update(model.graph.SerializeToString(deterministic=True))
    return digest.hexdigest()[:32]


def _save(path: Path, found: dict[str, Histogram]) -> None:
    with writing_file(path) as file:
        np.savez_compressed(
            file,
            tensors=np.array(list(found), dtype=np.str_),
            low=np.array([histogram.low for histogram in found.values()], dtype=np.float64),
            high=np.array([histogram.high for histogram in found.values()], dtype=np.float64),
            counts=np.array([histogram.counts for histogram in found.values()], dtype=np.int64),
        )


def _load(path: Path, tensors: Sequence[str]) -> dict[str, Histogram] | None:
    """What is kept at `path`; None when there is nothing, or a file that is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            names, low, high, counts = (kept[name] for name in ("tensors", "low", "high", "counts"))
    except _DAMAGED:
        return None
    whole = list(names) == list(tensors) and low.shape == high.shape == (len(names),)
    if not whole or counts.shape != (len(names), BINS) or counts.dtype != np.int64:
        return None
    found = (Histogram(float(bottom), float(top), row) for bottom, top, row in zip(low, high, counts, strict=True))
    return dict(zip(tensors, found, strict=True))
