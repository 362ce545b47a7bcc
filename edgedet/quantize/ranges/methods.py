"""The range to represent, picked from a histogram.

``minmax`` takes all of it; ``percentile`` all but the outermost values; ``mse`` the range with the least squared rounding and
clipping error; ``entropy`` the one whose quantized distribution is nearest in Kullback-Leibler divergence (Migacz, GTC 2017).
128 bins, another tool's default, leave that search a single candidate, which is min-max by another name.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgedet.quantize.graph import Array
from edgedet.quantize.ranges.histogram import BINS, Histogram

Method = Literal["minmax", "percentile", "mse", "entropy"]
Range = tuple[float, float]

LEVELS = 256
ENTROPY_LEVELS = 128
ENTROPY_STEP = 8
_CANDIDATES = 100


def choose(histogram: Histogram, method: Method, *, symmetric: bool = False, percentile: float = 99.99) -> Range:
    """The range that `method` picks from `histogram`."""
    if method == "minmax":
        low, high = histogram.low, histogram.high
    elif method == "percentile":
        low, high = _percentile(histogram, percentile)
    elif method == "mse":
        return _least_error(histogram, symmetric)
    else:
        low, high = _least_divergence(histogram)
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def squared_error(histogram: Histogram, low: float, high: float) -> float:
    """The summed squared error of rounding the histogram's values to 256 levels between `low` and `high`, clipped there."""
    return _error_of(histogram, low, (high - low) / (LEVELS - 1), 0)


def symmetric_error(histogram: Histogram, end: float) -> float:
    """The same of int8 with zero point 0: steps of `end` / 127, and zero is one of them, which a ReLU's output is full of."""
    return _error_of(histogram, 0.0, end / (LEVELS // 2 - 1), -LEVELS // 2)


def _error_of(histogram: Histogram, origin: float, step: float, first: int) -> float:
    """Of the 256 levels ``origin + k * step``, k from `first` on."""
    if step <= 0:
        return float(histogram.counts @ histogram.centres**2)
    rounded = origin + np.clip(np.round((histogram.centres - origin) / step), first, first + LEVELS - 1) * step
    return float(histogram.counts @ (histogram.centres - rounded) ** 2)


def _percentile(histogram: Histogram, percentile: float) -> Range:
    """Cut the same share from both ends; an end that is zero (behind a ReLU) is kept, and the other loses its share only."""
    cumulated = np.cumsum(histogram.counts)
    cut = (1 - percentile / 100) / 2 * cumulated[-1]
    first = int(np.searchsorted(cumulated, cut, side="right"))
    last = int(np.searchsorted(cumulated, cumulated[-1] - cut, side="left"))
    low, high = histogram.low + first * histogram.width, histogram.low + (last + 1) * histogram.width
    return min(low, 0.0), min(max(high, 0.0), histogram.high)


def _least_error(histogram: Histogram, symmetric: bool) -> Range:
    """Shrink the ends in turn, each to where the error is least with the other fixed; both together when symmetric."""
    low, high = histogram.low, histogram.high
    shares = np.linspace(1.0, 1 / _CANDIDATES, _CANDIDATES)
    if symmetric:
        ends = max(-low, high) * shares
        best = float(min(ends, key=lambda end: symmetric_error(histogram, end)))
        return -best, best
    for _ in range(2):
        high = float(min(histogram.high * shares, key=lambda end: squared_error(histogram, low, end)))
        low = float(min(histogram.low * shares, key=lambda end: squared_error(histogram, end, high)))
    return low, high


def _least_divergence(histogram: Histogram) -> Range:
    """Clip |values| where the clipped distribution and its 128-level version differ least."""
    magnitudes = np.abs(histogram.centres)
    top = max(-histogram.low, histogram.high)
    if top == 0:
        return 0.0, 0.0
    counts = np.bincount((magnitudes / top * BINS).astype(np.int64).clip(0, BINS - 1), histogram.counts, BINS)
    # Zeros are represented exactly whatever the range; behind a ReLU they would drown the rest.
    counts[0] = counts[1]
    sizes = range(ENTROPY_LEVELS, BINS + 1, ENTROPY_STEP)
    best = min(sizes, key=lambda size: _divergence(counts, size))
    limit = best / BINS * top
    return max(histogram.low, -limit), min(histogram.high, limit)


def _divergence(counts: Array, size: int) -> float:
    """KL(P || Q): P the first `size` bins with the outliers in the last, Q the same without them in 128 levels."""
    clipped = counts[:size].copy()
    level = np.arange(size) * ENTROPY_LEVELS // size
    filled = clipped > 0
    mass, bins = np.bincount(level, clipped), np.bincount(level, filled)
    quantized = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    clipped[-1] += counts[size:].sum()
    reference, quantized = clipped / clipped.sum(), quantized / max(quantized.sum(), 1e-30)
    both = reference > 0
    return float((reference[both] * np.log(reference[both] / np.maximum(quantized[both], 1e-12))).sum())
