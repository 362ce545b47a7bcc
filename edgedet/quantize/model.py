"""Post-training quantization of a float graph, whole: placement, ranges on real images, Q/DQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from edgedet.errors import QuantizeError
from edgedet.quantize import fused, qdq
from edgedet.quantize.graph import Array, GraphView, name_nodes
from edgedet.quantize.placement import Plan, place
from edgedet.quantize.ranges import Batches, Method, find_ranges
from edgedet.target import Target, has_vnni


@dataclass(frozen=True)
class Quantized:
    """The graph with Q/DQ, and what is to be said about it: one line for each fact.

    convolutions: the names of the nodes that are meant to run on INT8 kernels.
    floats: tensor that stands for a rounded weight or bias -> its values before rounding.
    weight_bits: of the integers that weights are rounded to.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]
    convolutions: tuple[str, ...]
    floats: Mapping[str, Array]
    weight_bits: int


def quantize(
    model: onnx.ModelProto, target: Target, batches: Batches, *, method: Method = "mse", percentile: float = 99.99
) -> Quantized:
    """`model` in INT8 for `target`; the ranges are found on `batches`, real images as the preprocessing leaves them.

    Raises:
        QuantizeError: the target has no INT8, nothing in the graph can be quantized, or a tensor is not finite.
    """
    if target.int8 is None:
        raise QuantizeError(f"{target.name} has no INT8 scheme: its precisions are {', '.join(target.precisions)}")
    named = onnx.ModelProto()
    named.CopyFrom(model)
    name_nodes(named)
    plan = place(GraphView(named), target.int8)
    if not plan.weights:
        raise QuantizeError("nothing to quantize in this graph: " + ("; ".join(plan.notes()) or "it has no convolution"))
    found = find_ranges(
        named, plan.observed, batches, method=method, symmetric=target.int8.symmetric, percentile=percentile
    )
    bits, said = _weight_bits(target)
    written = qdq.write(named, plan, found, target.int8, weight_bits=bits)
    onnx.checker.check_model(written, full_check=True)
    pixels = ("the first convolution reads the uint8 pixels: no float pass over the image",) if plan.pixels else ()
    notes = (*plan.notes(), *pixels, *said, *_kernels(written, target, len(plan.weights)))
    convolutions = tuple(node.name for node in written.graph.node if _quantized_convolution(node, plan))
    return Quantized(written, notes, convolutions, qdq.unrounded(named, plan), bits)


def _quantized_convolution(node: onnx.NodeProto, plan: Plan) -> bool:
    return node.op_type == "Conv" and node.name in plan.weights


def _weight_bits(target: Target) -> tuple[int, tuple[str, ...]]:
    """8, or 7 where the unsigned x86 kernels of this machine would overflow."""
    if target.int8 is None or target.int8.activations != "uint8":
        return 8, ()
    if has_vnni():
        return 8, ("weights have 8 bits: this CPU has VNNI",)
    return 7, ("weights have 7 bits: this CPU has no VNNI flag, and its 16-bit sums of uint8 x int8 would overflow",)


def _kernels(model: onnx.ModelProto, target: Target, planned: int) -> tuple[str, ...]:
    """What ONNX Runtime runs in integers, read from its optimised graph; nothing when the target is another machine."""
    if target.runtime != "onnxruntime" or not target.is_this_machine:
        return ()
    found = fused.operators(model)
    moves = found["QuantizeLinear"] + found["DequantizeLinear"]
    return (f"{fused.integer_layers(found)} of {planned} quantized layers run on integer kernels, {moves} Q/DQ left",)
