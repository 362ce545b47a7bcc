"""An ONNX graph as a torch module: what is trained is the graph that the device gets (needs torch).

A float graph runs as it is. In a Q/DQ graph, the pairs around activations become fake quantization, and layers in integers are
rounded anew in every forward pass from float weights and biases, with the arithmetic of `edgedet.quantize.qdq`. What is in half
precision is computed in float32 and rounded after every node, as ONNX Runtime does on a CPU. :meth:`GraphModule.write` puts
what was learnt back into the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgedet.compress import fake
from edgedet.compress.fake import Scaled, Sum
from edgedet.compress.graph_reader import DEQUANTIZE, QUANTIZE, GraphReader, Integers, Layer, Node, Pair
from edgedet.compress.operators import OPERATORS
from edgedet.errors import QuantizeError
from edgedet.quantize.graph import Array, constant_tensor
from edgedet.quantize.qdq import quantize_layer

Value = Tensor | Scaled | Sum | None

_ON_INTEGERS = ("Relu", "MaxPool", "Clip")
"""Commute with a positive scale (a Clip with its limits divided by it): taken of the integers, they round nothing."""


class GraphModule(nn.Module):
    """`model`, with one input, uint8 pixels (B, H, W, 3), as a module that gives its first output, the logit (B,).

    floats: tensor that stands for a rounded weight or bias -> its values before rounding, where they are known
        (`edgedet.quantize.model.Quantized.floats`); else training starts from the rounded ones.
    weight_bits: of the integers that weights are rounded to.
    learn_scales: the scales of activations are trained too, each as ``found * exp(learnt)``: it stays positive, and a step of
        the optimiser moves it by a share of itself.

    Raises:
        QuantizeError: an operator that is not known here; names it and the node.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        floats: Mapping[str, Array] | None = None,
        *,
        weight_bits: int = 8,
        learn_scales: bool = False,
    ) -> None:
        super().__init__()
        reader = GraphReader(model, floats or {})
        self.weight_bits, self.in_half, self.fused = weight_bits, reader.half, reader.fused
        self.input, self.output = reader.view.inputs[0], reader.view.outputs[0]
        self.nodes, self.layers, self.pairs, self.most = reader.nodes, reader.layers, reader.pairs, reader.most
        self.trained = nn.ParameterDict({_key(name): nn.Parameter(_tensor(value)) for name, value in reader.trained.items()})
        learnt = reader.learnable() if learn_scales else []
        self.learnt = nn.ParameterDict({_key(name): nn.Parameter(torch.zeros(())) for name in learnt})
        self.shapes: dict[str, Tensor] = {}
        self.places: dict[str, str] = {}
        for name, value in reader.constants.items():
            self._keep(name, _tensor(value))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B,)."""
        values: dict[str, Value] = {self.input: pixels}
        for node in self.nodes:
            inputs = [values[name] if name in values else self._constant(name) for name in node.inputs]
            made = self._run(node, inputs)
            rounds = node.output in self.in_half and node.op not in (QUANTIZE, DEQUANTIZE) and node.name not in self.fused
            values[node.output] = fake.half(_require(_real(made))) if rounds else made
            for name in node.last:
                values.pop(name, None)
        logits = _real(values[self.output])
        assert logits is not None
        return logits

    @torch.no_grad()
    def write(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """`model`, the graph that this module was made of, with the weights, biases and scales that it has now."""
        written = onnx.ModelProto()
        written.CopyFrom(model)
        known = {tensor.name for tensor in written.graph.initializer}
        new = {name: self._parameter(name) for name in known if _key(name) in self.trained}
        new |= {pair.scale: self._scale(pair.scale).cpu().numpy() for pair in self.pairs.values()}
        for layer in self.layers.values():
            new |= self._rounded(layer)
        for tensor in written.graph.initializer:
            if tensor.name in new:
                kind = np.float16 if tensor.name in self.in_half else new[tensor.name].dtype
                tensor.CopyFrom(constant_tensor(tensor.name, new[tensor.name], kind))
        return written

    def _run(self, node: Node, inputs: list[Value]) -> Value:
        if node.name in self.pairs:
            return self._pair(node, self.pairs[node.name], inputs[0])
        if node.name in self.layers:
            return self._layer(node, self.layers[node.name], inputs)
        try:
            x, *others = inputs
            if node.op == "Add" and (made := _sum(x, others[0])):
                return made
            if node.op == "Relu" and isinstance(x, Sum):
                return Sum(x.first, x.second, relu=True)
            if node.op in _ON_INTEGERS and isinstance(x, Scaled):
                return Scaled(self._on_integers(node, x, [*map(_real, others)]), x.scale)
            return OPERATORS[node.op](node.given, *map(_real, inputs))
        except QuantizeError as error:
            raise QuantizeError(f"{node.name} ({node.op}): {error}") from error

    def _on_integers(self, node: Node, x: Scaled, limits: list[Tensor | None]) -> Tensor:
        if node.op != "Clip":
            return OPERATORS[node.op](node.given, x.values)
        low, high = (*limits, None, None)[:2]
        values = x.values
        if low is not None:
            values = torch.relu(values) if not low else -fake.at_most(-values, -low / x.scale)
        return values if high is None else fake.at_most(values, high / x.scale)

    def _pair(self, node: Node, pair: Pair, x: Value) -> Scaled:
        """Round, or, behind a rounding, nothing: integers and scale are kept apart. Pixels are integers already."""
        assert x is not None
        if node.op == QUANTIZE:
            factor = (_per_image(x) * max(pair.high, -pair.low)) ** -0.5
            return fake.activation(x, self._scale(pair.scale, factor), pair.zero, pair.low, pair.high)
        if isinstance(x, Scaled) and x.zero is not None:
            return x
        if not isinstance(x, Tensor) or x.is_floating_point():
            raise QuantizeError(f"{node.name} ({node.op}): its input is computed in integers: only pixels and pairs are known")
        return Scaled(x.float() - pair.zero, self._scale(pair.scale), pair.zero)

    def _layer(self, node: Node, layer: Layer, inputs: list[Value]) -> Value:
        """A layer on integers: their sums, and the scale of input and weight as one."""
        x = inputs[0]
        half = layer.weight.stands in self.in_half
        if not isinstance(x, Scaled) or x.scale.ndim or half:
            x = Scaled(_require(_real(x)), torch.ones((), device=self._weight(layer.weight).device))
        bias = self._weight(layer.bias) if layer.bias is not None else None
        weight, bias, scale = fake.layer(self._weight(layer.weight), bias, x.scale, self._rounding(layer))
        if half:
            weight = fake.half(weight * fake.along(scale, layer.axis, weight.ndim))
            scale = torch.ones_like(x.scale)
        sums = OPERATORS[node.op](node.given, x.values, weight, *([] if bias is None else [bias]))
        per_channel = (-1, *[1] * (sums.ndim - 2)) if node.op == "Conv" else (-1,)
        steps = x.scale * (scale.reshape(per_channel) if scale.ndim else scale)
        if layer.bias is None and len(inputs) > 2 and inputs[2] is not None:
            return sums * steps + _require(_real(inputs[2])).reshape(per_channel)
        return Scaled(sums, steps)

    def _rounding(self, layer: Layer) -> fake.Rounding:
        return fake.Rounding(layer.axis, 2 ** (self.weight_bits - 1) - 1, layer.weight.scale in self.in_half)

    def _weight(self, integers: Integers) -> Tensor:
        weight: Tensor = self.trained[_key(integers.stands)]
        return weight

    def _scale(self, name: str, factor: float = 1.0) -> Tensor:
        """The scale `name`; `factor` slows its learning down by the number of values that pull at it (LSQ, section 2.2)."""
        scale = _require(self._constant(name))
        if _key(name) in self.learnt:
            scale = scale * torch.exp(fake.slowed(self.learnt[_key(name)], factor))
            scale = scale.clamp_max(self.most.get(name, math.inf))
        return fake.half(scale) if name in self.in_half else scale

    def _constant(self, name: str) -> Tensor | None:
        if _key(name) in self.trained:
            value = self.trained[_key(name)]
            return fake.half(value) if name in self.in_half else value
        if name in self.places:
            return self.get_buffer(self.places[name])
        return self.shapes[name] if name else None

    def _keep(self, name: str, value: Tensor) -> None:
        """Floats follow the module to its device; integers are shapes and places, which are computed on the CPU."""
        if not value.is_floating_point():
            self.shapes[name] = value
            return
        self.places[name] = f"constant{len(self.places)}"
        self.register_buffer(self.places[name], value, persistent=False)

    def _parameter(self, name: str) -> Array:
        value: Array = self.trained[_key(name)].detach().cpu().contiguous().numpy()
        return value

    def _rounded(self, layer: Layer) -> dict[str, Array]:
        """The initializers of a layer in integers."""
        bias = self._parameter(layer.bias.stands) if layer.bias is not None else None
        scale_in = float(self._scale(layer.scale_in).item()) if layer.scale_in else 1.0
        weight = self._parameter(layer.weight.stands)
        half = layer.weight.scale in self.in_half
        made = quantize_layer(weight, bias, scale_in, layer.axis, self.weight_bits, half=half)
        new: dict[str, Array] = {layer.weight.values: made.weight, layer.weight.scale: made.scale}
        if layer.bias is not None and made.bias is not None and made.steps is not None:
            new |= {layer.bias.values: made.bias, layer.bias.scale: made.steps}
        return new


def _sum(first: Value, second: Value) -> Sum | None:
    """Two roundings added, which a runtime does in one kernel; None when they are not."""
    both = isinstance(first, Scaled) and isinstance(second, Scaled) and None not in (first.zero, second.zero)
    return Sum(first, second) if both else None  # type: ignore[arg-type]


def _per_image(x: Tensor | Scaled | Sum) -> int:
    values = x.values if isinstance(x, Scaled) else x.first.values if isinstance(x, Sum) else x
    return values[0].numel()


def _real(value: Value) -> Tensor | None:
    return value.real if isinstance(value, Scaled | Sum) else value


def _require(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _key(name: str) -> str:
    """`name` as the name of a parameter, which has no dots."""
    return name.replace(".", "/")


def _tensor(value: Array) -> Tensor:
    return torch.from_numpy(np.array(value))
