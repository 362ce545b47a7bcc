"""Reading and rewriting ONNX graphs: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from edgedet.errors import QuantizeError

Array = npt.NDArray[Any]
_SMALL = 64


class GraphView:
    """What a graph says, indexed; the graph must not change while a view of it is in use.

    Raises:
        QuantizeError: nodes without a name of their own; :func:`name_nodes` gives them one.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self.inputs = [value.name for value in model.graph.input if value.name not in self._initializers]
        self.input_types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self.outputs = [value.name for value in model.graph.output]
        self._model = model
        if len({node.name for node in self.nodes}) != len(self.nodes):
            raise QuantizeError("the graph has nodes that share a name or have none: name them first")

    @cached_property
    def by_name(self) -> dict[str, NodeProto]:
        """Node name -> node."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def _producers(self) -> dict[str, NodeProto]:
        return {output: node for node in self.nodes for output in node.output if output}

    @cached_property
    def _consumers(self) -> dict[str, list[NodeProto]]:
        table: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                table.setdefault(name, []).append(node)
        return table

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes `tensor`; None for inputs and constants."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> list[NodeProto]:
        """The nodes that read `tensor`, each once, in graph order."""
        return self._consumers.get(tensor, [])

    def constant(self, tensor: str) -> Array | None:
        """The value of an initializer or a Constant node; None for what is computed."""
        if tensor in self._arrays:
            return self._arrays[tensor]
        node = self.producer(tensor)
        if tensor in self._initializers:
            value = numpy_helper.to_array(self._initializers[tensor])
        elif node is not None and node.op_type == "Constant" and "value" in (given := attributes(node)):
            value = numpy_helper.to_array(given["value"])
        else:
            return None
        self._arrays[tensor] = value
        return value

    def variables(self, node: NodeProto) -> list[str]:
        """The inputs of `node` that are not constant."""
        return [name for name in node.input if name and self.constant(name) is None]

    @cached_property
    def shapes_of_one(self) -> dict[str, list[int]]:
        """Tensor -> its shape for a batch of one image, as far as it can be inferred; 0 is an unknown side."""
        graph = onnx.shape_inference.infer_shapes(_of_one_image(self._model), data_prop=True).graph
        values = [value for value in (*graph.input, *graph.value_info) if value.type.tensor_type.HasField("shape")]
        return {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in values}

    def has_one_reader(self, tensor: str) -> bool:
        """Whether exactly one node reads `tensor`, and it is no output of the graph."""
        return len(self.consumers(tensor)) == 1 and tensor not in self.outputs


def _of_one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` for a batch of one, its large constants as inputs: shapes depend on small ones only, and copies cost time."""
    one = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    one.graph.name = model.graph.name
    one.graph.node.extend(model.graph.node)
    one.graph.input.extend(model.graph.input)
    for value in one.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            one.graph.initializer.append(tensor)
        else:
            one.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return one


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of `node` as plain values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node without a name of its own one, in place."""
    seen: set[str] = set()
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{position}"
        while node.name in seen:
            node.name += "_"
        seen.add(node.name)


def constant_tensor(name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> onnx.TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def remove_dead(graph: onnx.GraphProto) -> None:
    """Drop the nodes and initializers that no output needs, in place; the rest keeps its order."""
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    _replace(graph.node, reversed(kept))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _replace(graph.value_info, [value for value in graph.value_info if value.name in needed])


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)
