"""The front-end of a graph: what happens to the pixels before the first layer.

Cast, layout change, normalisation, and residual front-ends (NPR, DFT, high-pass filters), which subtract values that are nearly
equal: in float32 that is exact on pixels, and every lower precision rounds what is left.
"""

from __future__ import annotations

from onnx import NodeProto

from edgedet.quantize.graph import GraphView

PREFIX = "front_end/"
"""What the exporter puts before the names of the nodes that stem from a module called ``front_end``."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def front_end_nodes(view: GraphView) -> set[str]:
    """The names of the nodes that compute with pixels and with the output of no layer.

    A layer of a module called ``front_end`` counts as none; quantize/dequantize pairs and what depends on shapes only are not
    among them.
    """
    names, tensors = set[str](), set(view.inputs)
    for node in view.nodes:
        variables = view.variables(node)
        if variables and tensors.issuperset(variables) and _is_before_layers(node):
            names.add(node.name)
            tensors.update(node.output)
    return names


def _is_before_layers(node: NodeProto) -> bool:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Shape", "Size"):
        return False
    return node.op_type not in LAYERS or node.name.startswith(PREFIX)
