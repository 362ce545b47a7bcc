"""Writing quantize/dequantize pairs into a float graph, as a plan and ranges say.

The steps are :func:`edgedet.quantize.placement.place`, :func:`edgedet.quantize.ranges.find_ranges`, and :func:`write` here.
The graph stays an ordinary ONNX graph (Q/DQ around float operators); the runtime fuses each group into one integer kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper

from edgedet.errors import QuantizeError
from edgedet.quantize.graph import Array, GraphView, constant_tensor, remove_dead
from edgedet.quantize.pixels import PixelInput
from edgedet.quantize.placement import ABSORBED, Plan, weight_axis
from edgedet.quantize.ranges import Range
from edgedet.quantize.typed import next_half
from edgedet.target import Scheme

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}
SMALLEST_SCALE = 1e-12
# A bias beyond this many steps would overflow the int32 sum that it starts.
MOST_BIAS_STEPS = 2.0**30


@dataclass(frozen=True)
class Parameters:
    """Of one activation tensor: ``real = scale * (integer - zero_point)``."""

    scale: float
    zero_point: int
    dtype: str


def parameters(found: Range, scheme: Scheme) -> Parameters:
    """Scale and zero point that represent `found`, and zero exactly."""
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    bottom, top = _LIMITS[scheme.activations]
    if scheme.symmetric:
        return Parameters(max(low / bottom, high / top, SMALLEST_SCALE), 0, scheme.activations)
    scale = max((high - low) / (top - bottom), SMALLEST_SCALE)
    return Parameters(scale, int(np.clip(round(bottom - low / scale), bottom, top)), scheme.activations)


def quantize_weight(weight: Array, axis: int | None, bits: int = 8) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 values and scales, (O,) along `axis` or () for the whole tensor; zero point 0, -128 is not used."""
    others = None if axis is None else tuple(position for position in range(weight.ndim) if position != axis)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(axis=others) / top, SMALLEST_SCALE).astype(np.float32)
    return _round(weight, scale, axis, top), scale


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer in integers; no bias when it has none, or when its bias stays in float.

    weight: int8, with its scale float32, (O,) or (); bias: int32 (O,), each step worth `steps`, float32.
    """

    weight: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32] | None = None
    steps: npt.NDArray[np.float32] | None = None


def quantize_layer(
    weight: Array, bias: Array | None, scale_in: float, axis: int | None, bits: int = 8, *, half: bool = False
) -> Layer:
    """`weight` in steps of its scale along `axis`; `bias` (O,), when given, in steps of `scale_in`, the input's, times that.

    half: the weight's scales are numbers that half precision has.
    """
    values, scale = quantize_weight(weight, axis, bits)
    if half:
        scale = next_half(scale).astype(np.float32)
        values = _round(weight, scale, axis, 2 ** (bits - 1) - 1)
    if bias is None:
        return Layer(values, scale)
    least = np.abs(bias) / (scale_in * MOST_BIAS_STEPS)
    scale = np.maximum(scale, least if scale.ndim else least.max()).astype(np.float32)
    steps = np.asarray(np.float32(scale_in) * scale, dtype=np.float32)
    return Layer(_round(weight, scale, axis, 2 ** (bits - 1) - 1), scale, np.round(bias / steps).astype(np.int32), steps)


def unrounded(model: onnx.ModelProto, plan: Plan) -> dict[str, npt.NDArray[np.float32]]:
    """What :func:`write` rounds, before it does: the float values of weights and biases, by the tensor that stands for them."""
    view, found = GraphView(model), dict[str, npt.NDArray[np.float32]]()
    for name in plan.weights:
        weight, bias = _float_layer(view, view.by_name[name], plan.pixels.get(name))
        found[f"{name}_weight_dequantized"] = weight.astype(np.float32)
        if bias is not None:
            found[f"{name}_bias_dequantized"] = bias.astype(np.float32)
    return found


def write(
    model: onnx.ModelProto, plan: Plan, ranges: dict[str, Range], scheme: Scheme, *, weight_bits: int = 8
) -> onnx.ModelProto:
    """`model` with the Q/DQ pairs of `plan`; its inputs, outputs and metadata stay.

    weight_bits: 7 for x86 CPUs whose kernels would overflow, see `edgedet.target.has_vnni`.

    Raises:
        QuantizeError: a planned tensor has no range.
    """
    missing = [name for name in plan.observed if name not in ranges]
    if missing:
        raise QuantizeError(f"no range was found for {', '.join(missing[:3])}: find ranges for every tensor of the plan")
    return _Writer(model, plan, ranges, scheme, weight_bits).run()


class _Writer:
    def __init__(self, model: onnx.ModelProto, plan: Plan, ranges: dict[str, Range], scheme: Scheme, bits: int) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.view, self.plan, self.scheme, self.bits = GraphView(model), plan, scheme, bits
        self.parameters = {name: parameters(ranges[root], scheme) for name, root in plan.tensors.items()}
        self.nodes: list[NodeProto] = []
        self.added: set[str] = set()

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        originals = list(graph.node)
        for name in self.view.inputs:
            self._pair(name)
        for node in originals:
            pixels = self.plan.pixels.get(node.name)
            if pixels is not None:
                self._read_pixels(node, pixels)
            if node.name in self.plan.weights:
                self._weights(node, pixels)
            elif self._is_at_risk(node):
                self._shield(node)
            for position, name in enumerate(node.input):
                if node.name in self.plan.readers.get(name, ()):
                    node.input[position] = f"{name}_dequantized"
            self.nodes.append(node)
            for name in node.output:
                self._pair(name)
        del graph.node[:]
        graph.node.extend(self.nodes)
        remove_dead(graph)
        return self.model

    def _pair(self, tensor: str) -> None:
        """Q and DQ behind `tensor`, when it is planned; tensors that pass another's values on share its scale."""
        if tensor not in self.parameters:
            return
        names = [tensor, *self._constants(self.plan.tensors[tensor], self.parameters[tensor])]
        self._node("QuantizeLinear", names, f"{tensor}_quantized")
        self._node("DequantizeLinear", [f"{tensor}_quantized", *names[1:]], f"{tensor}_dequantized")

    def _read_pixels(self, node: NodeProto, pixels: PixelInput) -> None:
        """`node` reads the graph's uint8 input, which is its quantized input already."""
        name = f"{pixels.tensor}_pixels"
        if name not in self.added:
            constants = self._constants(name, Parameters(pixels.scale, pixels.zero_point, "uint8"))
            self._node("Transpose", [pixels.source], f"{name}_quantized", perm=[0, 3, 1, 2])
            self._node("DequantizeLinear", [f"{name}_quantized", *constants], name)
        node.input[0] = name

    def _weights(self, node: NodeProto, pixels: PixelInput | None) -> None:
        """DQ before the weight of `node`, and before its bias where the scheme has it so."""
        weight, bias = _float_layer(self.view, node, pixels)
        axis = self.plan.weights[node.name] if self.scheme.per_channel else None
        rounded = bias if self.scheme.bias == "int32" else None
        layer = quantize_layer(weight, rounded, self._input_scale(node, pixels), axis, self.bits)
        node.input[1] = self._dequantized(f"{node.name}_weight", layer.weight, layer.scale, axis)
        if bias is None:
            return
        if layer.bias is not None and layer.steps is not None:
            bias_name = self._dequantized(f"{node.name}_bias", layer.bias, layer.steps, 0)
        else:
            bias_name = self._constant(f"{node.name}_bias", bias, np.float32)
        del node.input[2:]
        node.input.append(bias_name)

    def _is_at_risk(self, node: NodeProto) -> bool:
        """Whether `node` is a float layer with constant weights between a DQ and a Q, on ONNX Runtime.

        From version 1.21 on it rounds the weights of such a layer by itself, to 8 bits for the whole tensor, and runs it in
        integers (microsoft/onnxruntime#22969): a layer that was kept in float for its accuracy would lose it after all.
        """
        if self.scheme.bias != "int32" or node.op_type not in ("Conv", "Gemm"):
            return False
        reads = node.name in self.plan.readers.get(node.input[0], ())
        after = self.view.consumers(node.output[0])
        absorbed = after[0].output[0] if len(after) == 1 and after[0].op_type in ABSORBED else ""
        return reads and (node.output[0] in self.parameters or absorbed in self.parameters)

    def _shield(self, node: NodeProto) -> None:
        """Compute the bias of `node`, from integers of 30 bits: ONNX Runtime leaves a layer alone whose bias is no constant."""
        weight = self.view.constant(node.input[1])
        has_bias = len(node.input) > 2 and node.input[2]
        if weight is None or (has_bias and self.view.constant(node.input[2]) is None):
            return
        value = self.view.constant(node.input[2]) if has_bias else np.zeros(weight.shape[weight_axis(node)])
        assert value is not None
        steps = np.maximum(np.abs(value) / MOST_BIAS_STEPS, SMALLEST_SCALE).astype(np.float32)
        name = self._dequantized(f"{node.name}_bias", np.round(value / steps).astype(np.int32), steps, 0)
        del node.input[2:]
        node.input.append(name)

    def _input_scale(self, node: NodeProto, pixels: PixelInput | None) -> float:
        return pixels.scale if pixels is not None else self.parameters[node.input[0]].scale

    def _dequantized(self, name: str, values: Array, scale: Array, axis: int | None) -> str:
        names = [self._constant(f"{name}_quantized", values, values.dtype), self._constant(f"{name}_scale", scale, np.float32)]
        if values.dtype == np.int8:
            # ONNX Runtime makes no integer Gemm of weights whose zero point is left out, though zero is the default.
            names.append(self._constant(f"{name}_zero_point", np.zeros_like(scale), np.int8))
        along = {} if axis is None or not scale.ndim else {"axis": axis}
        self._node("DequantizeLinear", names, f"{name}_dequantized", **along)
        return f"{name}_dequantized"

    def _constants(self, name: str, found: Parameters) -> list[str]:
        names = [f"{name}_scale", f"{name}_zero_point"]
        if name not in self.added:
            self.added.add(name)
            self._constant(names[0], found.scale, np.float32)
            self._constant(names[1], found.zero_point, found.dtype)
        return names

    def _constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        self.model.graph.initializer.append(constant_tensor(name, value, dtype))
        return name

    def _node(self, op: str, inputs: list[str], output: str, **given: Any) -> None:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **given))


def _float_layer(view: GraphView, node: NodeProto, pixels: PixelInput | None) -> tuple[Array, Array | None]:
    """The weight and the bias (O,) of `node`, as they are before rounding."""
    weight = view.constant(node.input[1])
    assert weight is not None  # placement takes constant weights only
    bias = view.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if pixels is None:
        return weight, bias
    return pixels.rewrite(weight, np.zeros(len(weight)) if bias is None else bias)


def _round(weight: Array, scale: Array, axis: int | None, top: int) -> npt.NDArray[np.int8]:
    shape = [-1 if position == axis else 1 for position in range(weight.ndim)] if scale.ndim else []
    return np.clip(np.round(weight / scale.reshape(shape)), -top, top).astype(np.int8)


def count_pairs(model: onnx.ModelProto) -> int:
    """The number of activation tensors that carry a QuantizeLinear."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
