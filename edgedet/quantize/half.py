"""Half precision, written into a graph, as TensorRT needs it from 10.12 on: a node runs in the precision of its tensors.

The trunk runs in half precision, and the scales of its Q/DQ pairs are half as well. In FP32 stay:

- the pixels up to the first layer, and what makes the logit of the last layer's output (the difference of two classes);
- nodes that read or write magnitudes above :data:`LIMIT` on real images: sums inside them could pass 65504, where half ends;
- nodes with a constant that half cannot hold (an epsilon of 1e-10 would be zero), or without a half-precision form;
- what lies between such nodes, where that saves casts: their number is the least possible (:mod:`edgedet.quantize.cut`).

Q/DQ pairs need no casts: QuantizeLinear takes either precision and DequantizeLinear gives either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from edgedet.errors import QuantizeError
from edgedet.quantize.cut import Wire, single_side
from edgedet.quantize.front import LAYERS, front_end_nodes
from edgedet.quantize.graph import Array, GraphView, attributes, name_nodes
from edgedet.quantize.placement import head_nodes
from edgedet.quantize.session import Batches, opened
from edgedet.quantize.typed import float_tensors, gives_either, half_inputs, opset_of, takes_either, write

LIMIT = 512.0
"""Activations beyond it stay in FP32; the default of NVIDIA's AutoCast."""

_LARGEST = float(np.finfo(np.float16).max)
_MOST_LOSS = 2.0**-8
"""Of a constant, relative. A normal half number loses 2**-11 at most; below 6e-5 they are denormal and lose more."""
_SCALED = ("QuantizeLinear", "DequantizeLinear")
_LEAST_OPSET = 19  # of scales in half precision
_OUTPUTS = "the outputs"  # as the name of a node that reads them in FP32


@dataclass(frozen=True)
class Half:
    """The graph in half precision, and what is to be said about it, one line for each fact."""

    model: onnx.ModelProto
    notes: tuple[str, ...]


def to_half(model: onnx.ModelProto, magnitudes: Mapping[str, float]) -> Half:
    """`model`, a float32 graph with or without Q/DQ pairs, in half precision; its inputs and outputs keep their types.

    magnitudes: tensor -> its largest absolute value on real images, see :func:`find_magnitudes`; the names are those of the
        graph before it got Q/DQ pairs, which keep them.

    Raises:
        QuantizeError: Q/DQ pairs below opset 19, where scales cannot be half; control flow, or half precision already.
    """
    named = _named(model)
    _require_form(named)
    kept = _Kept(named, magnitudes)
    single = kept.single()
    written, casts = write(named, kept.floats, single)
    onnx.checker.check_model(written, full_check=True)
    return Half(written, kept.notes(single, casts))


def find_magnitudes(model: onnx.ModelProto, batches: Batches) -> dict[str, float]:
    """The largest absolute value of every float tensor that `model` computes, on the images of `batches`.

    The graph that is run reduces each tensor by itself, so only two numbers a tensor are kept.

    Raises:
        QuantizeError: no images, or a tensor that is not a number on one of them.
    """
    view = GraphView(_named(model))
    tensors = sorted(name for name in float_tensors(model) if view.constant(name) is None)
    ends = [(f"{name}_{end}", end, name) for name in tensors for end in ("ReduceMin", "ReduceMax")]
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.node.extend(helper.make_node(end, [name], [new], name=new, keepdims=0) for new, end, name in ends)
    run = opened(wider, [new for new, _, _ in ends])
    found = [np.abs(np.array(run(pixels), dtype=np.float64)) for pixels in batches()]
    if not found:
        raise QuantizeError("half precision is checked on real images, and the ranges split has none")
    largest = np.max(found, axis=0).reshape(-1, 2).max(axis=1)
    for name, value in zip(tensors, largest, strict=True):
        if np.isnan(value):
            raise QuantizeError(f"tensor {name!r} is not a number on the range-finding images: is the model trained?")
    return dict(zip(tensors, map(float, largest), strict=True))


class _Kept:
    """The nodes that must stay in FP32, each with its reason."""

    def __init__(self, model: onnx.ModelProto, magnitudes: Mapping[str, float]) -> None:
        self.view, self.floats, self.magnitudes = GraphView(model), float_tensors(model), magnitudes
        self.opset = opset_of(model)
        self.front, self.tail = front_end_nodes(self.view), self._tail()
        self.typed = [node for node in self.view.nodes if self._is_typed(node)]
        found = ((node.name, self._reason(node)) for node in self.typed)
        self.reasons = {name: reason for name, reason in found if reason}

    def single(self) -> set[str]:
        """The names of the nodes in FP32, those included that only lie between others."""
        wires = list(self._wires())
        layers = {node.name for node in self.typed if node.op_type in LAYERS}
        return single_side(wires, {*self.reasons, _OUTPUTS}, layers - self.reasons.keys()) - {_OUTPUTS}

    def notes(self, single: set[str], casts: int) -> tuple[str, ...]:
        """How many nodes run in which precision, and for each reason that is not the rule the names of its nodes."""
        between = len(single - self.reasons.keys())
        total = len(self.typed)
        said = [f"{total - len(single)} nodes in FP16, {len(single)} in FP32 ({between} to save casts), {casts} casts"]
        for reason in dict.fromkeys(self.reasons.values()):
            if reason not in (_FRONT, _TAIL):
                names = [name for name, given in self.reasons.items() if given == reason]
                said.append(f"in FP32, {reason}: {', '.join(names)}")
        return tuple(said)

    def _is_typed(self, node: NodeProto) -> bool:
        if not any(name in self.floats for name in (*node.input, *node.output)) or node.op_type == "Constant":
            return False
        if takes_either(node, self.floats):
            return self._scale_is_lost(node)
        return not gives_either(node, self.floats)

    def _reason(self, node: NodeProto) -> str:
        """Why `node` must stay in FP32; empty when it need not."""
        if node.name in self.front:
            return _FRONT
        if node.name in self.tail:
            return _TAIL
        if half_inputs(node, self.opset, self.floats) is None:
            return "no half-precision form"
        if any(self.magnitudes.get(name, 0.0) > LIMIT for name in (*node.input, *node.output)):
            return f"activations beyond {LIMIT:.0f}"
        if any(self._is_lost(node, position) for position in range(len(node.input))):
            return "a constant that half cannot hold"
        return ""

    def _is_lost(self, node: NodeProto, position: int) -> bool:
        """Whether the constant behind an input of `node` would not survive in half precision."""
        value = self.view.constant(node.input[position])
        maker = self.view.producer(node.input[position])
        if value is None:
            # The integers of a constant are rounded again for the scale that half has; those of an activation cannot be.
            return maker is not None and bool(self.view.variables(maker)) and self._scale_is_lost(maker)
        if node.input[position] not in self.floats:
            return False
        # What a small bias loses is small beside what it is added to.
        return _overflows(value) or (not (node.op_type in LAYERS and position == 2) and _loss(value) > _MOST_LOSS)

    def _scale_is_lost(self, node: NodeProto) -> bool:
        scale = self.view.constant(node.input[1]) if node.op_type in _SCALED else None
        return scale is not None and max(map(_loss, scale.reshape(-1, 1))) > _MOST_LOSS

    def _tail(self) -> set[str]:
        """What comes after the last layer."""
        heads, names = head_nodes(self.view), set[str]()
        for node in self.view.nodes:
            before = (self.view.producer(name) for name in self.view.variables(node))
            if any(maker is not None and maker.name in heads | names for maker in before):
                names.add(node.name)
        return names

    def _wires(self) -> Iterator[Wire]:
        typed = {node.name for node in self.typed}
        for node in self.typed:
            for name in node.output:
                readers = tuple(reader.name for reader in self.view.consumers(name) if reader.name in typed)
                ends = (_OUTPUTS,) if name in self.view.outputs else ()
                if name in self.floats and (readers or ends):
                    yield Wire(node.name, (*readers, *ends))


_FRONT, _TAIL = "before the first layer", "after the last layer"


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    named = onnx.ModelProto()
    named.CopyFrom(model)
    name_nodes(named)
    return named


def _require_form(model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    for node in model.graph.node:
        if node.op_type in _SCALED and opset < _LEAST_OPSET:
            wrong = f"half-precision scales need opset {_LEAST_OPSET}, the graph has {opset}: export at 20"
            raise QuantizeError(f"{node.name}: {wrong}")
        if any(isinstance(value, onnx.GraphProto) for value in attributes(node).values()):
            wrong = "holds a graph of its own: half precision is for graphs without control flow"
            raise QuantizeError(f"{node.name} ({node.op_type}) {wrong}")
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise QuantizeError(f"constant {tensor.name!r} is in half precision already: give the FP32 graph")


def _overflows(value: Array) -> bool:
    return bool((np.abs(value[np.isfinite(value)]) > _LARGEST).any())


def _loss(value: Array) -> float:
    """What rounding to half costs, relative to the length of `value`."""
    exact = value[np.isfinite(value)].astype(np.float64)
    length = float(np.linalg.norm(exact))
    return float(np.linalg.norm(exact.astype(np.float16) - exact)) / length if length else 0.0
