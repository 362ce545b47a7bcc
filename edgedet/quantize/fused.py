"""What ONNX Runtime makes of a graph: the operators that it really runs, after fusion.

A Q/DQ graph promises integer kernels; whether they are used is read from the optimised graph, not assumed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx

from edgedet.ort import open_session

INTEGER = (
    "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd", "QLinearConcat", "QLinearAveragePool",
)  # fmt: skip
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Operator -> how often it stands in the optimised graph; integer convolutions on channels-last data end in ``/nhwc``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model.SerializeToString(), threads=1, optimised=path)
        nodes = onnx.load(path).graph.node
    return Counter(node.op_type + ("/nhwc" if _channels_last(node) else "") for node in nodes)


def integer_layers(found: Counter[str]) -> int:
    """The number of convolutions and matrix products that run on integer kernels."""
    return sum(count for name, count in found.items() if name.removesuffix("/nhwc") in INTEGER[:4])


def _channels_last(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "channels_last" and attribute.i for attribute in node.attribute)
