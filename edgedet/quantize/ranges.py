"""Finding the range of every tensor on real images: two streaming passes, bounded memory.

The first pass takes each tensor's minimum and maximum, the second a histogram of 2048 bins between them. A method then picks
the range to represent: ``minmax`` all of it; ``percentile`` all but the outermost values; ``mse`` the one with the least
squared rounding and clipping error; ``entropy`` the one whose quantized distribution is nearest in Kullback-Leibler divergence
(Migacz, GTC 2017). 128 bins, another tool's default, leave that search a single candidate, which is min-max by another name.

Memory: the activations of one batch, and 2048 counts for each tensor; the number of images does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from edgedet.errors import QuantizeError
from edgedet.quantize.graph import Array

Method = Literal["minmax", "percentile", "mse", "entropy"]
Range = tuple[float, float]
Batches = Callable[[], Iterable[npt.NDArray[np.uint8]]]
"""Gives the same batches, uint8 (N, H, W, 3), each time it is called."""

BINS = 2048
LEVELS = 256
_CANDIDATES = 100
_ENTROPY_LEVELS = 128
_ENTROPY_STEP = 8


@dataclass
class Histogram:
    """Counts, int64 (BINS,), of a tensor's values between `low` and `high`; zero is always inside."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, low: float, high: float) -> Histogram:
        """No values yet."""
        return cls(min(low, 0.0), max(high, 0.0), np.zeros(BINS, dtype=np.int64))

    @property
    def width(self) -> float:
        """Of one bin."""
        return (self.high - self.low) / BINS

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """Of the bins, (BINS,)."""
        return self.low + (np.arange(BINS, dtype=np.float64) + 0.5) * self.width

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count `values`."""
        if self.width == 0:
            self.counts[0] += values.size
            return
        # One multiplication and a truncation: numpy's own histogram searches the edges and takes five times as long.
        positions = ((values.ravel() - np.float32(self.low)) * np.float32(1 / self.width)).astype(np.int32)
        np.clip(positions, 0, BINS - 1, out=positions)
        self.counts += np.bincount(positions, minlength=BINS)


def find_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Batches,
    *,
    method: Method = "mse",
    symmetric: bool = False,
    percentile: float = 99.99,
) -> dict[str, Range]:
    """The range (low, high) to represent for each of `tensors`, with low <= 0 <= high.

    symmetric: the range is for int8 with zero point 0, so that ``low = -high``.
    percentile: the share of the values, in percent, that ``percentile`` keeps.

    Raises:
        QuantizeError: no images, or a tensor that is not finite on one of them.
    """
    histograms = observe(model, tensors, batches)
    return {name: choose(found, method, symmetric=symmetric, percentile=percentile) for name, found in histograms.items()}


def observe(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches) -> dict[str, Histogram]:
    """The two passes.

    Raises:
        QuantizeError: no images, or a tensor that is not finite on one of them.
    """
    values_of = _exposed(model, tensors)
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for pixels in batches():
        for position, values in enumerate(values_of(pixels)):
            low[position] = min(low[position], values.min())
            high[position] = max(high[position], values.max())
    for name, bottom, top in zip(tensors, low, high, strict=True):
        if not math.isfinite(bottom) or not math.isfinite(top):
            raise QuantizeError(
                f"tensor {name!r} has no finite range on the range-finding images (found {bottom} to {top}): "
                "are there images, and does the full-precision model give finite logits on them?"
            )
    histograms = [Histogram.empty(float(bottom), float(top)) for bottom, top in zip(low, high, strict=True)]
    for pixels in batches():
        for histogram, values in zip(histograms, values_of(pixels), strict=True):
            histogram.add(values)
    return dict(zip(tensors, histograms, strict=True))


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
    step = (high - low) / (LEVELS - 1)
    if step <= 0:
        return float(histogram.counts @ histogram.centres**2)
    rounded = low + np.clip(np.round((histogram.centres - low) / step), 0, LEVELS - 1) * step
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
        best = float(min(ends, key=lambda end: squared_error(histogram, -end, end)))
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
    sizes = range(_ENTROPY_LEVELS, BINS + 1, _ENTROPY_STEP)
    best = min(sizes, key=lambda size: _divergence(counts, size))
    limit = best / BINS * top
    return max(histogram.low, -limit), min(histogram.high, limit)


def _divergence(counts: Array, size: int) -> float:
    """KL(P || Q): P the first `size` bins with the outliers in the last, Q the same without them in 128 levels."""
    clipped = counts[:size].copy()
    level = np.arange(size) * _ENTROPY_LEVELS // size
    filled = clipped > 0
    mass, bins = np.bincount(level, clipped), np.bincount(level, filled)
    quantized = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
    clipped[-1] += counts[size:].sum()
    reference, quantized = clipped / clipped.sum(), quantized / max(quantized.sum(), 1e-30)
    both = reference > 0
    return float((reference[both] * np.log(reference[both] / np.maximum(quantized[both], 1e-12))).sum())


def _exposed(
    model: onnx.ModelProto, tensors: Sequence[str]
) -> Callable[[npt.NDArray[np.uint8]], Iterator[npt.NDArray[np.float32]]]:
    """A function from pixels to the values of `tensors`, run with these added to the graph's outputs."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    already = {value.name for value in model.graph.output}
    wider.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in already)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = ort.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name

    def run(pixels: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.float32]]:
        yield from session.run(list(tensors), {source: pixels})

    return run
