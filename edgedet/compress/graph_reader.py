"""Reading an ONNX graph for training: nodes as plain data, and what is trained told from what is fixed (needs torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from edgedet.compress.operators import OPERATORS
from edgedet.errors import QuantizeError
from edgedet.quantize.graph import Array, GraphView, attributes, name_nodes, remove_dead
from edgedet.quantize.placement import WEIGHTED, weight_axis

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_TRAINED = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "LayerNormalization": (1, 2), "BatchNormalization": (1, 2)}
"""Operator -> its inputs that are trained when they are constants."""
_LEAST_OPSET = 18


@dataclass(frozen=True)
class Node:
    """A node without its protobuf; nobody reads the tensors `last` after it."""

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    given: Mapping[str, Any]
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class Integers:
    """A constant in integers: the tensor that stands for it behind its DequantizeLinear, and the initializers that make it."""

    stands: str
    values: str
    scale: str


@dataclass(frozen=True)
class Layer:
    """A layer whose weight, and perhaps bias, is in integers.

    axis: of the weight's output channels, None when it has one scale for all; scale_in: the initializer of its input's scale,
    empty when the input is in float.
    """

    weight: Integers
    bias: Integers | None
    axis: int | None
    scale_in: str


@dataclass(frozen=True)
class Pair:
    """What a QuantizeLinear or a DequantizeLinear of an activation does: scale by name, zero point, limits less that."""

    scale: str
    zero: int
    low: int
    high: int


class GraphReader:
    """What `model` computes for its first output.

    nodes: in order, without those that only make constants; a pair reads its first input only.
    layers, pairs: by node name.
    half: the tensors in half precision; fused: nodes whose output never exists, because the addition behind them is done by the
        same kernel, in float32.
    trained: tensor -> its float values, those of `floats` where they are given (see :class:`.graph_module.GraphModule`).
    constants: the others.
    most: scale -> what it must not be learnt to exceed.

    Raises:
        QuantizeError: an operator or an opset that is not known; names the node.
    """

    def __init__(self, model: onnx.ModelProto, floats: Mapping[str, Array]) -> None:
        part = _first_output(model)
        self.view, self.half = GraphView(part), _half_tensors(part)
        self.layers: dict[str, Layer] = {}
        self.pairs: dict[str, Pair] = {}
        self.trained: dict[str, Array] = {}
        self.constants: dict[str, Array] = {}
        self.most: dict[str, float] = {}
        self._integers = self._find_integers()
        kept = [node for node in self.view.nodes if node.op_type != "Constant" and node.output[0] not in self._integers]
        for node in kept:
            self._read(node, floats)
        self.fused = {node.name for node in kept if self._is_fused(node)}
        self.nodes = _with_last([_plain(node) for node in kept], self.view.outputs[0])

    def learnable(self) -> list[str]:
        """The scales that activations are rounded to; that of pixels, which are integers already, is not among them."""
        rounding = (node.name for node in self.nodes if node.op == QUANTIZE)
        return list(dict.fromkeys(self.pairs[name].scale for name in rounding))

    def _find_integers(self) -> dict[str, Integers]:
        """The DequantizeLinear nodes of constants, by output."""
        found = {}
        for node in self.view.nodes:
            if node.op_type == DEQUANTIZE and self.view.constant(node.input[0]) is not None:
                found[node.output[0]] = Integers(node.output[0], node.input[0], node.input[1])
        return found

    def _read(self, node: NodeProto, floats: Mapping[str, Array]) -> None:
        _require_known(node)
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            self.pairs[node.name] = self._pair(node)
            return
        if node.op_type in WEIGHTED and node.input[1] in self._integers:
            self._layer(node, floats)
        trained = _TRAINED.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if not name or name in self.trained or name in self.constants:
                continue
            value = self._value(name)
            if value is not None:
                # What stands behind integers of a layer in float is a constant that a runtime must not round: it stays.
                free = value.dtype.kind == "f" and name not in self._integers
                learns = free and (place in trained or self._is_bias(node))
                (self.trained if learns else self.constants)[name] = _single(value)

    def _layer(self, node: NodeProto, floats: Mapping[str, Array]) -> None:
        weight = self._integers[node.input[1]]
        bias = self._integers.get(node.input[2]) if len(node.input) > 2 else None
        before = self.view.producer(node.input[0])
        scale_in = before.input[1] if before is not None and before.op_type == DEQUANTIZE else ""
        if bias is not None and not scale_in:
            raise QuantizeError(f"{node.name} ({node.op_type}): has a bias in integers and an input in float")
        axis = weight_axis(node) if self._constant(weight.scale).ndim else None
        self.layers[node.name] = Layer(weight, bias, axis, scale_in)
        for each in (weight, bias):
            if each is not None:
                known = floats.get(each.stands.removesuffix("_half"))
                self.trained[each.stands] = self._dequantized(each, axis if each is weight else 0) if known is None else known

    def _pair(self, node: NodeProto) -> Pair:
        zero = self._constant(node.input[2]) if len(node.input) > 2 else np.uint8(0)
        scale = self._constant(node.input[1])
        if scale.ndim or zero.dtype not in (np.uint8, np.int8):
            came = f"scales {scale.shape} and {zero.dtype}"
            raise QuantizeError(f"{node.name} ({node.op_type}): expected one scale and 8 bits for an activation, got {came}")
        self.constants[node.input[1]] = _single(scale)
        integers = np.iinfo(zero.dtype)
        pair = Pair(node.input[1], int(zero), int(integers.min) - int(zero), int(integers.max) - int(zero))
        self._limit(node, pair)
        return pair

    def _limit(self, node: NodeProto, pair: Pair) -> None:
        """Behind a Clip the integers must not reach further than it does, or no runtime fuses it away."""
        before = self.view.producer(node.input[0])
        if before is not None and before.op_type == "Clip" and len(before.input) > 2 and pair.high:
            high = self.view.constant(before.input[2])
            if high is not None:
                self.most[pair.scale] = float(np.float32(high) / np.float32(pair.high))

    def _is_fused(self, node: NodeProto) -> bool:
        """Whether ONNX Runtime adds to the sums of the convolution `node` before anything is rounded (its FusedConv)."""
        if node.op_type != "Conv" or not self.view.has_one_reader(node.output[0]):
            return False
        (reader,) = self.view.consumers(node.output[0])
        return reader.op_type == "Add" and len(self.view.variables(reader)) == 2

    def _is_bias(self, node: NodeProto) -> bool:
        """Whether `node` adds the bias that a MatMul has no input for."""
        if node.op_type != "Add":
            return False
        before = [self.view.producer(name) for name in self.view.variables(node)]
        return len(before) == 1 and before[0] is not None and before[0].op_type == "MatMul"

    def _value(self, name: str) -> Array | None:
        """The constant called `name`; None for what is computed."""
        if name in self._integers:
            return self._dequantized(self._integers[name], 0)
        return self.view.constant(name)

    def _constant(self, name: str) -> Array:
        value = self.view.constant(name)
        if value is None:
            raise QuantizeError(f"tensor {name!r} must be constant: scales, zero points and rounded values are")
        return value

    def _dequantized(self, integers: Integers, axis: int | None) -> Array:
        values, scale = self._constant(integers.values), self._constant(integers.scale)
        along = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
        return np.asarray(values * _single(scale).reshape(along), dtype=np.float32)


def _first_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with named nodes that computes nothing but the first output."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _LEAST_OPSET:
        raise QuantizeError(f"the graph is of opset {opset}, its operators are known from {_LEAST_OPSET} on: export it again")
    del part.graph.output[1:]
    remove_dead(part.graph)
    name_nodes(part)
    return part


def _half_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}


def _single(value: Array) -> Array:
    """In float32, when it is in half precision: that is what is computed in here."""
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _require_known(node: NodeProto) -> None:
    if node.op_type not in (*OPERATORS, QUANTIZE, DEQUANTIZE) or node.domain not in ("", "ai.onnx"):
        raise QuantizeError(
            f"{node.name}: the operator {node.domain or 'ai.onnx'}.{node.op_type} is not known in training: "
            "quantize after training (`edgedet export --int8`), or add it to compress/operators.py"
        )
    if len([name for name in node.output if name]) != 1:
        raise QuantizeError(f"{node.name} ({node.op_type}): has {len(node.output)} outputs, one is known in training")


def _plain(node: NodeProto) -> Node:
    inputs = node.input[:1] if node.op_type in (QUANTIZE, DEQUANTIZE) else node.input
    return Node(node.name, node.op_type, tuple(inputs), node.output[0], attributes(node))


def _with_last(nodes: list[Node], output: str) -> list[Node]:
    """The same nodes, each knowing what nobody reads after it."""
    seen, found = {output}, []
    for node in reversed(nodes):
        last = tuple(name for name in dict.fromkeys((*node.inputs, node.output)) if name not in seen)
        seen.update(last)
        found.append(Node(node.name, node.op, node.inputs, node.output, node.given, last))
    return found[::-1]
