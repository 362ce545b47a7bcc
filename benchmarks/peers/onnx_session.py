"""What the tools that write ONNX share: a session on the CPU, and how many layers read INT8."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
from contract import Run


def session(model: Path, threads: int) -> Run:
    loaded = opened(model, threads)
    name = loaded.get_inputs()[0].name
    return lambda pixels: loaded.run(["logit"], {name: pixels})[0]


def opened(model: Path, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # As edgedet runs all of them: this pass rounds biases that a tool left in float (`edgedet.ort` says more).
    left_out = ["WeightBiasQuantization"]
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out)


def layers(model: Path) -> list[int]:
    """How many convolutions and matrix products with constant weights read both inputs dequantized, and how many there are."""
    graph = onnx.load(model).graph
    producer = {name: node for node in graph.node for name in node.output}
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # constants, and what only converts them; a graph's nodes are in order
        if node.op_type == "Constant" or (len(node.input) > 0 and fixed.issuperset(node.input)):
            fixed.update(node.output)

    def dequantized(name: str) -> bool:
        return name in producer and producer[name].op_type == "DequantizeLinear"

    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in fixed]
    return [sum(dequantized(node.input[0]) and dequantized(node.input[1]) for node in weighted), len(weighted)]
