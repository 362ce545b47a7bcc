"""Post-training quantization of a float graph, whole: placement, ranges on real images, Q/DQ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from edgedet.artifact import Figures
from edgedet.errors import QuantizeError
from edgedet.quantize import costs, fused, qdq
from edgedet.quantize.draft import Draft
from edgedet.quantize.graph import Array
from edgedet.quantize.placement import Plan
from edgedet.quantize.ranges import Batches, Histogram, observe
from edgedet.quantize.ranges.cache import observe_once
from edgedet.quantize.sample import Images
from edgedet.quantize.search import QuantizeOptions, Search
from edgedet.target import NEEDS_VNNI, Target, has_vnni


@dataclass(frozen=True)
class Quantized:
    """The graph with Q/DQ, and what is to be said about it: one line for each fact.

    convolutions: the names of the nodes that are meant to run on INT8 kernels.
    floats: tensor that stands for a rounded weight or bias -> its values before rounding.
    weight_bits: of the integers that weights are rounded to.
    figures: what was tried and decided, for a manifest.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...]
    convolutions: tuple[str, ...]
    floats: Mapping[str, Array]
    weight_bits: int
    figures: Figures


def quantize(
    model: onnx.ModelProto, target: Target, images: Images | Batches, options: QuantizeOptions = QuantizeOptions()
) -> Quantized:
    """`model` in INT8 for `target`.

    images: real images as the preprocessing leaves them; their batches are enough where nothing is decided by trying.

    Raises:
        QuantizeError: the target has no INT8, nothing in the graph can be quantized, a tensor is not finite, something is to be
            tried and no images are held out, or the gate of `options.mixed` holds with no layer in INT8.
    """
    if target.int8 is None:
        raise QuantizeError(f"{target.name} has no INT8 scheme: its precisions are {', '.join(target.precisions)}")
    given = images if isinstance(images, Images) else Images(images)
    bits, said = _weight_bits(target)
    whole = Draft.of(model, target.int8, bits)
    search = Search(whole, target, given, options)
    draft = search.run(_observed(whole, given))
    written = draft.write()
    onnx.checker.check_model(written, full_check=True)
    plan = draft.plan
    pixels = ("the first convolution reads the uint8 pixels: no float pass over the image",) if plan.pixels else ()
    gain, gains = _gain(model, written, target, given)
    needs = {NEEDS_VNNI: True} if bits == 8 and _unsigned(target) else {}
    return Quantized(
        model=written,
        notes=(*plan.notes(), *pixels, *search.notes, *said, *_kernels(written, target, len(plan.weights)), *gains),
        convolutions=tuple(node.name for node in written.graph.node if _quantized_convolution(node, plan)),
        floats=qdq.unrounded(draft.model, plan),
        weight_bits=bits,
        figures={**search.figures, **needs, **({"gain": gain} if gain else {})},
    )


def _observed(draft: Draft, images: Images) -> dict[str, Histogram]:
    if images.key:
        return observe_once(draft.model, draft.plan.observed, images.ranges, images.key)
    return observe(draft.model, draft.plan.observed, images.ranges)


def _quantized_convolution(node: onnx.NodeProto, plan: Plan) -> bool:
    return node.op_type == "Conv" and node.name in plan.weights


def _unsigned(target: Target) -> bool:
    return target.int8 is not None and target.int8.activations == "uint8"


def _weight_bits(target: Target) -> tuple[int, tuple[str, ...]]:
    """8, or 7 where the unsigned x86 kernels of this machine would overflow."""
    if not _unsigned(target):
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


def _gain(
    model: onnx.ModelProto, quantized: onnx.ModelProto, target: Target, images: Images
) -> tuple[Figures, tuple[str, ...]]:
    """How much faster INT8 is, measured; nothing when the target is another machine."""
    if target.runtime != "onnxruntime" or not target.is_this_machine:
        return {}, ()
    figures, said = costs.gain(model, quantized, next(iter(images.ranges()))[:1])
    return figures, (said,)
