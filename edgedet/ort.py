"""How ONNX Runtime is asked to run a graph, in one place: the CPU provider, all optimisations but one, quiet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PROVIDER = "CPUExecutionProvider"

LEFT_OUT = ("WeightBiasQuantization",)
"""It rounds weights and biases that a graph leaves in float between Q/DQ pairs. That undoes mixed precision, and of a graph
whose scales are in half precision it makes garbage: the scale of a bias, a product of two, is too small for half."""


def open_session(
    graph: str | os.PathLike[str] | bytes, *, threads: int, spin: bool = False, optimised: Path | None = None
) -> Any:
    """A session on `graph`, a file or its bytes.

    spin: threads wait by spinning, which is quicker from call to call and takes the time of everything else.
    optimised: where to write the graph that is really run.

    Raises:
        whatever ONNX Runtime raises; its errors have no common base below Exception.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    given = graph if isinstance(graph, bytes) else os.fspath(graph)
    return onnxruntime.InferenceSession(given, settings, providers=[PROVIDER], disabled_optimizers=list(LEFT_OUT))
