"""NNCF on OpenVINO's form of the graph, run by OpenVINO: the best of its default and its other presets.

https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from contract import Make, Pixels, Request, Run, main

PRESETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "mixed": {"preset": nncf.QuantizationPreset.MIXED},
    "mixed-full-bias-correction": {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False},
}
TRANSFORMER: dict[str, dict[str, Any]] = {"transformer": {"model_type": nncf.ModelType.TRANSFORMER}}
LAYERS = ("Convolution", "FullyConnected", "MatMul", "Gemm")


def quantized(graph: Path, pixels: Pixels, out: Path, *, options: Mapping[str, Any]) -> None:
    images = nncf.Dataset([pixels[number : number + 1] for number in range(len(pixels))])
    model = nncf.quantize(ov.convert_model(graph), images, subset_size=len(pixels), **options)
    ov.save_model(model, out, compress_to_fp16=False)


class NncfOpenvino:
    packages = ("nncf", "openvino")
    runtime = "openvino"
    suffix = ".xml"

    def candidates(self, request: Request) -> Mapping[str, Make]:
        attention = any(node.get_type_name() == "Softmax" for node in ov.convert_model(request.graph).get_ops())
        presets = {**PRESETS, **(TRANSFORMER if attention else {})}
        return {name: functools.partial(quantized, options=options) for name, options in presets.items()}

    def load(self, model: Path, threads: int) -> Run:
        compiled = compiled_for_cpu(model, threads)
        request, output = compiled.create_infer_request(), compiled.output(0)
        return lambda pixels: np.array(request.infer(pixels)[output])

    def facts(self, model: Path) -> dict[str, Any]:
        """From the graph that it runs, not from the one that it was given."""
        kinds = [_kind(node) for node in compiled_for_cpu(model, 1).get_runtime_model().get_ops()]
        found = [precision for layer, precision in kinds if layer in LAYERS]
        return {"layers": [sum(precision in ("u8", "i8") for precision in found), len(found)]}


def compiled_for_cpu(model: Path, threads: int) -> ov.CompiledModel:
    # What is not INT8 runs in float32, as it does in the other rows; OpenVINO would take bfloat16 where the CPU has it.
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return ov.Core().compile_model(model, "CPU", settings)


def _kind(node: ov.Node) -> tuple[str, str]:
    """The kernel of a node of a compiled graph, and the precision that it runs in."""
    said = node.get_rt_info()
    layer, precision = (str(said[key].astype(str)) if key in said else "" for key in ("layerType", "runtimePrecision"))
    return layer, precision


if __name__ == "__main__":
    main(NncfOpenvino())
