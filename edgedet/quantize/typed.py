"""Writing two precisions into a float graph: which node runs in which is given, casts go where they differ.

Every tensor exists in the precision of its maker, and in the other one when somebody reads it so: through one Cast, except
where a node gives either precision by itself, as DequantizeLinear does with the type of its scale.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from edgedet.quantize.graph import Array, GraphView, attributes, constant_tensor, remove_dead

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
_SUFFIX = {FLOAT: "float", HALF: "half"}


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """The names of all float32 tensors, constants included."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT}


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that `model` uses."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0))


def gives_either(node: NodeProto, floats: Collection[str]) -> bool:
    """Whether `node` makes a float tensor of integers: its own type decides the precision."""
    if node.op_type == "DequantizeLinear":
        return node.output[0] in floats
    return node.op_type == "Cast" and node.input[0] not in floats and node.output[0] in floats


def takes_either(node: NodeProto, floats: Collection[str]) -> bool:
    """Whether `node` makes integers of a float tensor of any precision."""
    if node.op_type == "QuantizeLinear":
        return node.input[0] in floats
    return node.op_type == "Cast" and node.input[0] in floats and node.output[0] not in floats


def half_inputs(node: NodeProto, opset: int, floats: Collection[str]) -> list[bool] | None:
    """For each input of `node` whether it becomes half with the node; None when the node has no half-precision form.

    Read from the operator's own definition: some inputs (the factors of Resize) are float32 whatever the node's type.
    """
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    if not any(name in floats for name in node.input):
        return None  # an attribute has its type
    becomes = []
    for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for position, name in enumerate(names):
            formal = formals[min(position, len(formals) - 1)].type_str
            free = "tensor(float16)" in allowed.get(formal, ())
            if name in floats and not free and (formal in allowed or names is node.output):
                return None
            becomes.append(name in floats and free)
    return becomes[: len(node.input)]


def write(model: onnx.ModelProto, floats: Collection[str], single: Collection[str]) -> tuple[onnx.ModelProto, int]:
    """`model` with every node in half precision but those named in `single`, and the number of casts that it took.

    floats: :func:`float_tensors` of `model`.
    single: names of nodes; all others that touch floats must have a half-precision form, see :func:`half_inputs`.
    """
    return _Writer(model, floats, single).run()


class _Writer:
    """`versions` has the name of each tensor in each precision in which it exists so far, `made` its maker's precision."""

    def __init__(self, model: onnx.ModelProto, floats: Collection[str], single: Collection[str]) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.view, self.floats, self.single = GraphView(model), floats, single
        self.opset = opset_of(model)
        self.nodes: list[NodeProto] = []
        self.versions: dict[tuple[str, int], str] = {(name, FLOAT): name for name in self.view.inputs}
        self.made = dict.fromkeys(self.view.inputs, FLOAT)
        self.givers: dict[str, NodeProto] = {}
        self.casts = 0

    def run(self) -> tuple[onnx.ModelProto, int]:
        graph = self.model.graph
        for node in list(graph.node):
            self._node(node)
        for name in self.view.outputs:
            if name in self.floats:
                self._version(name, FLOAT)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        remove_dead(graph)
        return self.model, self.casts

    def _node(self, node: NodeProto) -> None:
        if gives_either(node, self.floats):
            self.givers[node.output[0]] = node
            return
        if takes_either(node, self.floats):
            kind = FLOAT if node.name in self.single else self.made.get(node.input[0], HALF)
            self._read(node, [name in self.floats for name in node.input], kind)
        elif self._is_typed(node):
            kind = FLOAT if node.name in self.single else HALF
            becomes = half_inputs(node, self.opset, self.floats) if kind == HALF else None
            self._read(node, becomes or [name in self.floats for name in node.input], kind)
            self._make(node, kind)
        self.nodes.append(node)

    def _is_typed(self, node: NodeProto) -> bool:
        return node.op_type != "Constant" and any(name in self.floats for name in (*node.input, *node.output))

    def _read(self, node: NodeProto, becomes: list[bool], kind: int) -> None:
        for position, name in enumerate(node.input):
            if becomes[position]:
                node.input[position] = self._version(name, kind)
            elif name in self.floats:
                node.input[position] = self._version(name, FLOAT)

    def _make(self, node: NodeProto, kind: int) -> None:
        """The outputs of `node` are of `kind`; one that leaves the graph keeps its name for float32."""
        for position, name in enumerate(node.output):
            if name in self.floats:
                self.made[name] = kind
                new = f"{name}_half" if kind == HALF and name in self.view.outputs else name
                self.versions[name, kind] = node.output[position] = new

    def _version(self, tensor: str, kind: int) -> str:
        """The name of `tensor` in the precision `kind`, which is made when it does not exist."""
        if (tensor, kind) not in self.versions:
            self.versions[tensor, kind] = self._new(tensor, kind)
        return self.versions[tensor, kind]

    def _new(self, tensor: str, kind: int) -> str:
        value = self.view.constant(tensor)
        own = FLOAT if value is not None or tensor in self.givers or tensor in self.view.outputs else self.made[tensor]
        name = tensor if kind == own else f"{tensor}_{_SUFFIX[kind]}"
        if value is not None:
            if kind == HALF:
                self.model.graph.initializer.append(constant_tensor(name, value, np.float16))
        elif tensor in self.givers:
            self._give(self.givers[tensor], name, kind)
        else:
            before = self._version(tensor, self.made[tensor])
            self.nodes.append(helper.make_node("Cast", [before], [name], name=f"{name}_cast", to=kind))
            self.casts += 1
        return name

    def _give(self, giver: NodeProto, name: str, kind: int) -> None:
        node = NodeProto()
        node.CopyFrom(giver)
        node.output[0] = name
        if kind == HALF:
            node.name = f"{giver.name}_half"
        if node.op_type == "Cast":
            next(attribute for attribute in node.attribute if attribute.name == "to").i = kind
        elif kind == HALF and self.view.constant(node.input[0]) is not None:
            self._round_again(node, name)
        else:
            node.input[1] = self._version(giver.input[1], kind)
        self.nodes.append(node)

    def _round_again(self, node: NodeProto, name: str) -> None:
        """Constant integers of `node` for the next half-precision scales, which may be much larger where half is denormal."""
        values, scale = self.view.constant(node.input[0]), self.view.constant(node.input[1])
        assert values is not None
        assert scale is not None
        along = attributes(node).get("axis", 1) if scale.ndim else 0
        shape = [-1 if position == along else 1 for position in range(values.ndim)] if scale.ndim else []
        larger = next_half(scale)
        again = np.round(values * (scale.astype(np.float64) / larger).reshape(shape)).astype(values.dtype)
        for position, (part, value) in enumerate((("quantized", again), ("scale", larger))):
            node.input[position] = f"{name}_{part}"
            self.model.graph.initializer.append(constant_tensor(node.input[position], value, value.dtype))


def next_half(value: Array) -> npt.NDArray[np.float16]:
    """The smallest half-precision numbers that are no smaller than `value`, which is positive."""
    near = value.astype(np.float16)
    return np.where(near.astype(value.dtype) < value, np.nextafter(near, np.float16(np.inf)), near).astype(np.float16)
