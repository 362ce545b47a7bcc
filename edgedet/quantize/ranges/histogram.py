"""What values a graph's tensors take on real images: two streaming passes, bounded memory.

The first pass takes the minimum and maximum, the second a histogram of 2048 bins between them.

Memory: the activations of one batch, and 2048 counts for each tensor, or for each channel where channels are asked for
(16 kB each). The number of images does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edgedet.errors import QuantizeError
from edgedet.quantize.session import Batches, Run, Values, opened

BINS = 2048

_Parts = Callable[[Values], Values]
"""A tensor as (parts, values of the part); each part has a histogram of its own."""


@dataclass
class Histogram:
    """Counts, int64 (BINS,), of values between `low` and `high`; zero is always inside."""

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

    def add(self, values: Values) -> None:
        """Count `values`."""
        if self.width == 0:
            self.counts[0] += values.size
            return
        # One multiplication and a truncation: numpy's own histogram searches the edges and takes five times as long.
        positions = ((values.ravel() - np.float32(self.low)) * np.float32(1 / self.width)).astype(np.int32)
        np.clip(positions, 0, BINS - 1, out=positions)
        self.counts += np.bincount(positions, minlength=BINS)


def observe(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches) -> dict[str, Histogram]:
    """One histogram for each of `tensors`.

    Raises:
        QuantizeError: no images, or a tensor that is not finite on one of them.
    """
    found = _observe(model, tensors, batches, _whole)
    return {name: histograms[0] for name, histograms in found.items()}


def observe_channels(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches) -> dict[str, list[Histogram]]:
    """One histogram for each channel of each of `tensors`: axis 1 of (B, C, H, W), the last axis of any other shape.

    Raises:
        QuantizeError: no images, or a tensor that is not finite on one of them.
    """
    return _observe(model, tensors, batches, channels_of)


def channels_of(values: Values) -> Values:
    """(C, values of the channel): axis 1 of (B, C, H, W), the last axis of any other shape."""
    axis = 1 if values.ndim == 4 else -1
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _whole(values: Values) -> Values:
    return values.reshape(1, -1)


def _observe(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches, parts: _Parts) -> dict[str, list[Histogram]]:
    """The two passes."""
    if not tensors:
        return {}
    run = opened(model, tensors)
    limits = _limits(run, tensors, batches, parts)
    found = {name: _empty(name, *limits[name]) for name in tensors}
    for pixels in batches():
        for histograms, values in zip(found.values(), run(pixels), strict=True):
            for histogram, of_part in zip(histograms, parts(values), strict=True):
                histogram.add(of_part)
    return found


def _limits(run: Run, tensors: Sequence[str], batches: Batches, parts: _Parts) -> dict[str, tuple[Values, Values]]:
    """The minimum and maximum, each (parts,), of every tensor.

    Raises:
        QuantizeError: no images.
    """
    low: dict[str, Values] = {}
    high: dict[str, Values] = {}
    for pixels in batches():
        for name, values in zip(tensors, run(pixels), strict=True):
            of_parts = parts(values)
            # NumPy's minimum and maximum hand on a NaN, Python's lose it.
            low[name] = np.minimum(low.get(name, np.float32(np.inf)), of_parts.min(axis=1))
            high[name] = np.maximum(high.get(name, np.float32(-np.inf)), of_parts.max(axis=1))
    if not low:
        raise QuantizeError("there are no images to find ranges on: give a data set with a ranges split")
    return {name: (low[name], high[name]) for name in tensors}


def _empty(tensor: str, low: Values, high: Values) -> list[Histogram]:
    """Raises QuantizeError: a limit is not finite."""
    for bottom, top in zip(low, high, strict=True):
        if not math.isfinite(bottom) or not math.isfinite(top):
            raise QuantizeError(
                f"tensor {tensor!r} has no finite range on the range-finding images (found {bottom} to {top}): "
                "does the full-precision model give finite logits on them?"
            )
    return [Histogram.empty(float(bottom), float(top)) for bottom, top in zip(low, high, strict=True)]
