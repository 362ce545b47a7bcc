"""NVIDIA ModelOpt on the ONNX graph, which places Q/DQ for TensorRT: the better of its two INT8 calibration methods.

https://nvidia.github.io/TensorRT-Model-Optimizer/guides/_onnx_quantization.html
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract import ONNX_RUNTIME, Make, Pixels, Request, Run, main
from modelopt.onnx.quantization import quantize
from onnx_session import layers, session

METHODS = ("entropy", "max")


def quantized(graph: Path, pixels: Pixels, out: Path, *, method: str) -> None:
    # The rest stays in float32: half precision is a loss of its own, and a CPU has no kernels for it.
    quantize(
        str(graph),
        quantize_mode="int8",
        calibration_data=pixels,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out.resolve()),
        log_level="ERROR",
    )


class ModelOptOnnx:
    packages = ("nvidia-modelopt", "onnx", "onnxruntime")
    runtime = ONNX_RUNTIME
    suffix = ".onnx"

    def candidates(self, request: Request) -> Mapping[str, Make]:
        del request
        return {name: functools.partial(quantized, method=name) for name in METHODS}

    def load(self, model: Path, threads: int) -> Run:
        return session(model, threads)

    def facts(self, model: Path) -> dict[str, Any]:
        return {"layers": layers(model)}


if __name__ == "__main__":
    main(ModelOptOnnx())
