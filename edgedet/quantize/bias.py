"""Bias correction: what rounding shifts the mean of a layer's outputs by is taken out of the layer's bias.

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2; here with
measured means (their empirical version): for each output channel ``b - E[quantized] + E[float]``, over images and positions,
before the activation.

Layer by layer in the graph's order: each layer is measured with those before it corrected. All at once would correct a shift
once in the layer that causes it and again in every layer behind. The price is one pass over the images for each layer.

Memory: the activations of one batch, and one sum for each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from edgedet.errors import QuantizeError
from edgedet.quantize.draft import Draft
from edgedet.quantize.graph import GraphView, constant_tensor
from edgedet.quantize.ranges.histogram import channels_of
from edgedet.quantize.session import Batches, opened

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Corrected:
    """The draft with other biases, and the layers that have no bias to correct (a MatMul without an Add behind it)."""

    draft: Draft
    skipped: tuple[str, ...]


def correct(draft: Draft, batches: Batches) -> Corrected:
    """`draft` with the biases of its quantized layers corrected on `batches`.

    Raises:
        QuantizeError: no images.
    """
    nodes = GraphView(draft.model).by_name
    layers = {name: str(nodes[name].output[0]) for name in draft.plan.weights}
    wanted = channel_means(draft.model, list(layers.values()), batches)
    skipped = []
    for name, tensor in layers.items():
        if bias_holder(GraphView(draft.model), name) is None:
            skipped.append(name)
            continue
        found = channel_means(draft.write(tensor), [tensor], batches)
        draft = replace(draft, model=add_to_bias(draft.model, name, wanted[tensor] - found[tensor]))
    return Corrected(draft, tuple(skipped))


def channel_means(model: onnx.ModelProto, tensors: Sequence[str], batches: Batches) -> dict[str, Vector]:
    """The mean of each channel, float64 (C,), of each of `tensors`, over images and positions.

    Raises:
        QuantizeError: no images.
    """
    run = opened(model, tensors)
    sums: dict[str, Vector] = {}
    counts = dict.fromkeys(tensors, 0)
    for pixels in batches():
        for name, values in zip(tensors, run(pixels), strict=True):
            channels = channels_of(values)
            sums[name] = sums.get(name, np.zeros(len(channels))) + channels.sum(axis=1, dtype=np.float64)
            counts[name] += channels.shape[1]
    if not sums:
        raise QuantizeError("there are no images to correct biases on: give a data set with a ranges split")
    return {name: sums[name] / counts[name] for name in tensors}


def bias_holder(view: GraphView, layer: str) -> tuple[NodeProto, int] | None:
    """The node and the position of its input that hold the bias of `layer`, or can.

    Conv and Gemm have a third input for it, a MatMul the constant of the Add behind it; None where there is no such Add.
    """
    node = view.by_name[layer]
    if node.op_type != "MatMul":
        return node, 2
    weight, readers = view.constant(node.input[1]), view.consumers(node.output[0])
    if weight is None or not view.has_one_reader(node.output[0]) or readers[0].op_type != "Add":
        return None
    position = 1 - list(readers[0].input).index(node.output[0])
    added = view.constant(readers[0].input[position])
    # A constant for each output channel, and nothing that varies along another axis (a position embedding does).
    return (readers[0], position) if added is not None and added.size == added.shape[-1] == weight.shape[-1] else None


def add_to_bias(model: onnx.ModelProto, layer: str, shift: Vector) -> onnx.ModelProto:
    """A copy of `model` whose `layer` adds `shift`, (O,), to its output channels; a layer without a bias gets one.

    Raises:
        QuantizeError: the layer has no place for a bias, see :func:`bias_holder`.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    view = GraphView(changed)
    holder = bias_holder(view, layer)
    if holder is None:
        raise QuantizeError(f"{layer} has no bias to correct: it is a MatMul without an Add of constants behind it")
    node, position = holder
    has_one = len(node.input) > position and node.input[position]
    before = view.constant(node.input[position]) if has_one else None
    name = f"{layer}_bias_corrected"
    changed.graph.initializer.append(constant_tensor(name, shift if before is None else before + shift, np.float32))
    node.input.extend([""] * (position + 1 - len(node.input)))
    node.input[position] = name
    return changed
