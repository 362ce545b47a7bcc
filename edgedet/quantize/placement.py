"""Which tensors of a graph are quantized for a target, decided by the graph's patterns, never by names.

- Convolutions, Gemm and MatMul with constant weights read quantized inputs; weights per output channel.
- A ReLU or clip behind a convolution or an Add is absorbed: its output carries the scale, the tensor before it has none.
- A residual Add is quantized when both its inputs already are (``both``), or reads its shortcut quantized, so that it fuses
  with the convolution before it (``shortcut``). MaxPool and reshapes keep their input's scale.
- In float: the last linear layer (its rounding error would be the logit's), gates that multiply features (sigmoid of pooled
  or channel-reduced features, DETECTORS: under 0.1 % of the MACs and most of the loss), and every operator that the target
  does not list: softmax, LayerNorm, GELU, the filters and the subtraction of a residual front-end.
- Where the target's kernels work on tiles (``min_channels``): layers too small to fill one, and products with one row an image.

What stays in float is listed with its reason: a stage writes it into the manifest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from onnx import NodeProto

from edgedet.patches import FEATURES
from edgedet.quantize.front import PREFIX
from edgedet.quantize.gates import gate_nodes
from edgedet.quantize.graph import Array, GraphView, attributes
from edgedet.quantize.pixels import PixelInput, find_pixel_input
from edgedet.target import Scheme

WEIGHTED = ("Conv", "Gemm", "MatMul")
PASSIVE = ("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
ABSORBED = ("Relu", "Clip")


@dataclass(frozen=True)
class Left:
    """A node that could have been quantized and was not."""

    node: str
    op: str
    reason: str


@dataclass
class Plan:
    """Where Q/DQ goes.

    tensors: tensor -> the tensor whose range it takes (itself, unless it only passes another's values on).
    readers: tensor -> the names of the nodes that read the dequantized version; the others read the original.
    weights: node name -> the axis of its weight's output channels.
    pixels: convolutions (by name) that read the uint8 graph input.
    left: what stays in float, and why.
    """

    tensors: dict[str, str] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, PixelInput] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)

    @property
    def observed(self) -> list[str]:
        """The tensors whose ranges must be found."""
        return list(dict.fromkeys(self.tensors.values()))

    def notes(self) -> tuple[str, ...]:
        """What was left in float, one line for each reason."""
        groups = Counter((left.op, left.reason) for left in self.left)
        return tuple(f"{count} {op} left in float: {reason}" for (op, reason), count in sorted(groups.items()))


def place(view: GraphView, scheme: Scheme, keep: Collection[str] = ()) -> Plan:
    """Decide for every node of `view`; those named in `keep` stay in float, and what depends on them follows."""
    return _Placer(view, scheme, keep).run()


class _Placer:
    """One walk through the graph in order; `in_int8` is the set of tensors whose producer runs in INT8."""

    def __init__(self, view: GraphView, scheme: Scheme, keep: Collection[str]) -> None:
        self.view, self.scheme, self.keep, self.plan = view, scheme, keep, Plan()
        self.in_int8: set[str] = set()
        self.able: set[str] = set()  # nodes that can be quantized, whether they are or not
        self.gates = gate_nodes(view)
        # An encoder's features are no logit: no layer of it is the last one.
        self.heads = head_nodes(view) if view.outputs[0] != FEATURES else set[str]()
        self.first = next((node.name for node in view.nodes if node.op_type == "Conv"), None)
        self.depth: dict[str, int] = {}

    def run(self) -> Plan:
        for node in self.view.nodes:
            below = max((self.depth.get(name, 0) for name in node.input), default=0)
            self.depth.update(dict.fromkeys(node.output, below + (node.op_type in WEIGHTED)))
            if node.op_type in WEIGHTED:
                self._weighted(node)
            elif node.op_type == "Add" and self.scheme.residual == "shortcut":
                self._shortcut(node)
            elif node.op_type in ("Add", "Concat"):
                self._joining(node)
            elif node.op_type == "AveragePool" and "AveragePool" in self.scheme.ops:
                self._average(node)
            elif node.op_type in PASSIVE and node.input[0] in self.in_int8 and self._listed(node):
                self.in_int8.add(node.output[0])
        return self.plan

    def _listed(self, node: NodeProto) -> bool:
        return node.op_type != "MaxPool" or "MaxPool" in self.scheme.ops

    def _weighted(self, node: NodeProto) -> None:
        reason = self._refusal(node)
        if reason is None:
            self.able.add(node.name)
        if reason or node.name in self.keep:
            self.plan.left.append(Left(node.name, node.op_type, reason or "INT8 would cost too much there (mixed precision)"))
            return
        self.plan.weights[node.name] = weight_axis(node)
        pixels = None if self.scheme.symmetric or node.op_type != "Conv" else find_pixel_input(self.view, node)
        if pixels is not None:
            self.plan.pixels[node.name] = pixels
        else:
            self._read(node, node.input[0])
        if self.scheme.outputs and (node.op_type == "Conv" or self._activation(node.output[0])):
            self._write(node)

    def _refusal(self, node: NodeProto) -> str | None:
        """Why `node` cannot be quantized; None when it can."""
        if node.op_type not in self.scheme.ops:
            return "the target has no INT8 kernel for it"
        if node.name in self.heads:
            return "last linear layer"
        if node.name in self.gates:
            return "gate that multiplies features"
        if node.name.startswith(PREFIX):
            return "residual front-end"
        weight = self.view.constant(node.input[1])
        if weight is None or self.view.constant(node.input[0]) is not None:
            return "no constant weights (attention, Gram matrices)"
        if weight.ndim != (4 if node.op_type == "Conv" else 2):
            return f"weights of {weight.ndim} dimensions"
        given = attributes(node)
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
            return "Gemm with alpha, beta or transA"
        return self._small(node, weight)

    def _small(self, node: NodeProto, weight: Array) -> str | None:
        """Why `node` does not fill the tiles of the target's INT8 kernels; the rules are those of NVIDIA's Model Optimizer."""
        least = self.scheme.min_channels
        if min(weight.shape[:2]) < least and not (node.op_type == "Conv" and self._fits(node, weight)):
            return f"fewer than {least} channels"
        if least > 1 and node.op_type != "Conv" and math.prod(self.view.shapes_of_one.get(node.input[0], [0, 0])[:-1]) == 1:
            return "one row an image (GEMV)"
        return None

    def _fits(self, node: NodeProto, weight: Array) -> bool:
        """Whether a convolution with few channels, or few in each group, has an INT8 kernel all the same."""
        outputs, inputs, height, width = map(int, weight.shape)
        if attributes(node).get("group", 1) > 1:
            return outputs % 8 == 0 and min(height, width) >= 3
        octets = outputs % 8 == 0 or inputs % 8 == 0
        return octets and height == width and (node.name == self.first or max(outputs, inputs) >= self.scheme.min_channels)

    def _shortcut(self, node: NodeProto) -> None:
        """An Add behind a quantized convolution, which fuses with it: the other input is read quantized.

        Behind two of them, the one with more layers before it is fused. That does not depend on what is kept in float, so that
        keeping a node quantizes no tensor that was not quantized before.
        """
        inputs = self.view.variables(node)
        if "Add" not in self.scheme.ops or len(set(inputs)) != 2 or len(node.input) != 2:
            return
        fusible = [name for name in inputs if self._is_fusible(name)]
        if not fusible:
            return
        branch = max(fusible, key=lambda name: self.depth.get(name, 0))
        before = self.view.producer(branch)
        if before is not None and before.name in self.plan.weights:
            self._read(node, next(name for name in inputs if name != branch))

    def _is_fusible(self, tensor: str) -> bool:
        """Whether a convolution that can be quantized makes `tensor`, for one reader only."""
        before = self.view.producer(tensor)
        if before is None or before.op_type != "Conv":
            return False
        return before.name in self.able and self.view.has_one_reader(tensor)

    def _joining(self, node: NodeProto) -> None:
        """An Add or Concat whose inputs are all quantized already."""
        inputs = self.view.variables(node)
        if len(inputs) < 2 or len(inputs) != len(node.input) or not self.in_int8.issuperset(inputs):
            return
        if node.op_type not in self.scheme.ops:
            return
        for tensor in inputs:
            self._read(node, tensor)
        self._write(node)

    def _average(self, node: NodeProto) -> None:
        """Average pooling between two quantized layers; before the head it stays in float, where it costs nothing."""
        readers = self.view.consumers(node.output[0])
        if node.input[0] in self.in_int8 and readers and all(reader.op_type == "Conv" for reader in readers):
            self._read(node, node.input[0])
            self._write(node)

    def _read(self, node: NodeProto, tensor: str) -> None:
        """`node` reads `tensor` quantized."""
        self._quantize(tensor)
        self.plan.readers[tensor].add(node.name)

    def _write(self, node: NodeProto) -> None:
        """`node` writes its output, after the activation behind it, quantized."""
        tensor = self._activation(node.output[0]) or node.output[0]
        self.in_int8.add(tensor)
        self._quantize(tensor)

    def _activation(self, tensor: str) -> str | None:
        """The output of the activation that alone reads `tensor`; None when there is none to absorb."""
        after = self.view.consumers(tensor)
        absorbed = self.view.has_one_reader(tensor) and after[0].op_type in ABSORBED
        return str(after[0].output[0]) if absorbed else None

    def _quantize(self, tensor: str) -> None:
        if tensor in self.plan.tensors:
            return
        self.plan.tensors[tensor] = tensor
        self.plan.readers[tensor] = set()
        if tensor not in self.in_int8:
            return
        # No float version of it exists: everyone reads the dequantized one.
        self.plan.readers[tensor] = {reader.name for reader in self.view.consumers(tensor)}
        producer = self.view.producer(tensor)
        if producer is not None and producer.op_type in PASSIVE:
            self._quantize(producer.input[0])
            self.plan.tensors[tensor] = self.plan.tensors[producer.input[0]]


def weight_axis(node: NodeProto) -> int:
    """The axis of the output channels in `node`'s weight."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attributes(node).get("transB", 0) else 1


def head_nodes(view: GraphView) -> set[str]:
    """The last weighted nodes before the logit, and the last linear layers before the other outputs."""
    heads = {node.name for node in _last_weighted(view, view.outputs[:1])}
    others = _last_weighted(view, view.outputs[1:])
    return heads | {node.name for node in others if node.op_type != "Conv"}


def _last_weighted(view: GraphView, tensors: Iterable[str]) -> list[NodeProto]:
    """The nodes with constant weights, quantized or not, that are reached from `tensors` without passing another."""
    found: dict[str, NodeProto] = {}
    stack, seen = list(tensors), set[str]()
    while stack:
        tensor = stack.pop()
        node = view.producer(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.op_type in WEIGHTED and sum(not _is_fixed(view, name) for name in node.input[:2]) == 1:
            found[node.name] = node
        else:
            stack.extend(view.variables(node))
    return list(found.values())


def _is_fixed(view: GraphView, tensor: str) -> bool:
    """Whether `tensor` is a constant, or stands for one that was quantized."""
    node = view.producer(tensor)
    quantized = node is not None and node.op_type == "DequantizeLinear"
    return view.constant(node.input[0] if quantized and node is not None else tensor) is not None
