"""Finding gates in a graph: a sigmoid of pooled features that multiplies the features (SE, CBAM, RAM, style recalibration), and
a softmax of scores, one from each token, that weighs the tokens (sequence pooling).

A SiLU, ``x * sigmoid(x)``, is an activation and no gate: its sigmoid reads the very tensor that it multiplies.
"""

from __future__ import annotations

from onnx import NodeProto

from edgedet.quantize.graph import GraphView

SIGMOIDS = ("Sigmoid", "HardSigmoid")
REDUCTIONS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2")
LAYERS = ("Conv", "Gemm", "MatMul")
_SHAPES = ("Reshape", "Unsqueeze", "Squeeze", "Expand", "Transpose", "Flatten", "Identity")
_MOST_LAYERS = 2
"""A gate is a bottleneck of two layers at most; a longer way back is the trunk."""


def gate_nodes(view: GraphView) -> set[str]:
    """The names of all nodes between a reduction of the features and the sigmoid of a gate, both included.

    Of a softmax, the layer that gives its scores; those of attention have none, a product of two tensors gives them.
    """
    names: set[str] = set()
    for node in view.nodes:
        if node.op_type == "Softmax":
            names |= _scores(view, node.input[0])
        if node.op_type != "Mul" or len(view.variables(node)) != 2:
            continue
        first, second = node.input
        for tensor, features in ((first, second), (second, first)):
            for sigmoid in _sigmoids(view, tensor) or []:
                if features not in sigmoid.input:
                    names |= {sigmoid.name} | _branch(view, sigmoid)
    return names


def _sigmoids(view: GraphView, tensor: str) -> list[NodeProto] | None:
    """The sigmoids that `tensor` is made of, as one or as a product or sum of several; None when it is no gate."""
    node = view.producer(tensor)
    if node is None:
        return None
    if node.op_type in SIGMOIDS:
        return [node]
    if node.op_type in _SHAPES:
        return _sigmoids(view, node.input[0])
    if node.op_type not in ("Mul", "Add"):
        return None
    found: list[NodeProto] = []
    for part in view.variables(node):
        inner = _sigmoids(view, part)
        if inner is None:
            return None
        found += inner
    return found or None


def _scores(view: GraphView, tensor: str) -> set[str]:
    """The layer with constant weights that gives `tensor`, but for a bias and a change of shape; nothing when there is none."""
    node = view.producer(tensor)
    if node is None or len(view.variables(node)) != 1:
        return set()
    if node.op_type in LAYERS:
        return {node.name}
    return _scores(view, view.variables(node)[0]) if node.op_type in (*_SHAPES, "Add") else set()


def _branch(view: GraphView, sigmoid: NodeProto) -> set[str]:
    """The nodes before `sigmoid` back to the reductions; without one, its nearest layer."""
    nodes, reduced = _back(view, sigmoid.input[0], _MOST_LAYERS)
    if reduced:
        return nodes
    node = view.producer(sigmoid.input[0])
    while node is not None and node.op_type not in LAYERS and len(view.variables(node)) == 1:
        node = view.producer(view.variables(node)[0])
    return {node.name} if node is not None and node.op_type in LAYERS else set()


def _back(view: GraphView, tensor: str, layers: int) -> tuple[set[str], bool]:
    """The nodes on the ways from `tensor` back to a reduction through at most `layers` layers, and whether there are any."""
    node = view.producer(tensor)
    if node is None:
        return set(), False
    if node.op_type in REDUCTIONS:
        return {node.name}, True
    layers -= node.op_type in LAYERS
    if layers < 0:
        return set(), False
    ways = [_back(view, name, layers) for name in view.variables(node)]
    found = [nodes for nodes, reduced in ways if reduced]
    return ({node.name}.union(*found), True) if found else (set(), False)
