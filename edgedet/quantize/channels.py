"""How unlike the channels of a layer's input are: one scale serves them all, and the widest one sets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edgedet.artifact import Figures
from edgedet.quantize.graph import Array, GraphView
from edgedet.quantize.placement import weight_axis
from edgedet.quantize.ranges import find_channel_ranges
from edgedet.quantize.session import Batches


@dataclass(frozen=True)
class Spread:
    """The widest channel of a layer's input as a multiple of the median one: in its values, and in the weights that read it."""

    layer: str
    values: float
    weights: float

    def __str__(self) -> str:
        return (
            f"{self.layer}: the widest input channel is {self.values:.3g} times the median, in its weights {self.weights:.3g}"
        )

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        return {"layer": self.layer, "widest_values": self.values, "widest_weights": self.weights}


def spreads(model: onnx.ModelProto, layers: Sequence[str], batches: Batches) -> list[Spread]:
    """Of each of `layers` of a float graph, on real images.

    Raises:
        QuantizeError: no images, or an input that is not finite on one of them.
    """
    view = GraphView(model)
    nodes = [view.by_name[name] for name in layers]
    found = find_channel_ranges(model, list(dict.fromkeys(node.input[0] for node in nodes)), batches, method="minmax")
    return [
        Spread(node.name, _widest([max(-low, high) for low, high in found[node.input[0]]]), _widest(_read_by(view, node)))
        for node in nodes
    ]


def _read_by(view: GraphView, node: onnx.NodeProto) -> npt.NDArray[np.float64]:
    """The largest |weight| of each input channel, (I,)."""
    weight: Array | None = view.constant(node.input[1])
    assert weight is not None  # placement takes constant weights only
    inputs = 1 - weight_axis(node)
    others = tuple(axis for axis in range(weight.ndim) if axis != inputs)
    return np.asarray(np.abs(weight).max(axis=others), dtype=np.float64)


def _widest(magnitudes: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """The largest as a multiple of the median of those that are not zero; 1 when all are zero."""
    alive = np.asarray(magnitudes)[np.asarray(magnitudes) > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0
