"""Ranges straight from images, by one method."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgedet.quantize.ranges.histogram import observe, observe_channels
from edgedet.quantize.ranges.methods import Method, Range, choose
from edgedet.quantize.session import Batches


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


def find_channel_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Batches,
    *,
    method: Method = "mse",
    symmetric: bool = False,
    percentile: float = 99.99,
) -> dict[str, list[Range]]:
    """As :func:`find_ranges`, one range for each channel: axis 1 of (B, C, H, W), the last axis of any other shape.

    Activations are quantized per tensor on every device here; these say how unlike a tensor's channels are.
    """
    found = observe_channels(model, tensors, batches)
    return {
        name: [choose(channel, method, symmetric=symmetric, percentile=percentile) for channel in channels]
        for name, channels in found.items()
    }
