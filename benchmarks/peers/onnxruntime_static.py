"""ONNX Runtime's `quantize_static`: its defaults, and the best of its calibration methods, set as it advises for x86 CPUs.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contract import ONNX_RUNTIME, Make, Pixels, Request, Run, batches, main
from onnx_session import layers, opened, session
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "minmax-average": (CalibrationMethod.MinMax, {"CalibMovingAverage": True}),
    "entropy": (CalibrationMethod.Entropy, {}),
    "percentile-99.99": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99}),
    "percentile-99.999": (CalibrationMethod.Percentile, {"CalibPercentile": 99.999}),
}


class Reader(CalibrationDataReader):
    """The images in batches; `set_range` lets a calibrator ask for some at a time, so that it need not hold all activations."""

    def __init__(self, graph: Path, pixels: Pixels) -> None:
        name = opened(graph).get_inputs()[0].name
        self.batches = [{name: batch} for batch in batches(pixels)]
        self.rest = iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.rest = iter(self.batches[start_index:end_index])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self.rest, None)


def defaults(graph: Path, pixels: Pixels, out: Path) -> None:
    """Nothing but the graph and the images."""
    with _quiet():
        quantize_static(str(graph), str(out), Reader(graph, pixels))


def advised(graph: Path, pixels: Pixels, out: Path, *, method: str) -> None:
    """Pre-processed; unsigned activations and signed weights, which are the fast kernels; weights per channel."""
    calibration, options = METHODS[method]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(graph), str(ready))
        quantize_static(
            str(ready),
            str(out),
            Reader(graph, pixels),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=calibration,
            extra_options={**options, "CalibStridedMinMax": 1},
        )


class OnnxRuntimeStatic:
    packages = ("onnxruntime", "onnx")
    runtime = ONNX_RUNTIME
    suffix = ".onnx"

    def candidates(self, request: Request) -> Mapping[str, Make]:
        if request.mode == "defaults":
            return {"defaults": defaults}
        return {name: functools.partial(advised, method=name) for name in METHODS}

    def load(self, model: Path, threads: int) -> Run:
        return session(model, threads)

    def facts(self, model: Path) -> dict[str, Any]:
        return {"layers": layers(model)}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its calibrators print each step, and it warns that the defaults leave the pre-processing out."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main(OnnxRuntimeStatic())
