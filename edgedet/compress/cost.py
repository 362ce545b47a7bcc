"""Measured latency as what a network costs, for pruning towards a time instead of a count."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np

from edgedet.artifact import Artifact, DetectorSpec, Graph, Manifest, writing
from edgedet.bench.scenarios import Cycle, Rules, single_stream
from edgedet.export.onnx import export_onnx
from edgedet.models.pixels import PixelModel
from edgedet.runtime import base

_OPSET = 18


def latency(model: PixelModel, *, seconds: float = 0.5) -> float:
    """The median time in milliseconds of one image through the model's FP32 graph as it is deployed, on ONNX Runtime here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate"
        with writing(path) as draft:
            export_onnx(model.eval().deployed(), model.preprocess, draft.path / "model.onnx", opset=_OPSET)
            draft.manifest = _manifest(model)
        runtime = base.load(Artifact.load(path))
        try:
            blank = np.zeros((1, model.preprocess.height, model.preprocess.width, 3), np.uint8)
            return single_stream(Cycle(runtime.run, [blank]), Rules.lasting(seconds)).p50_ms
        finally:
            runtime.close()


def _manifest(model: PixelModel) -> Manifest:
    shape: list[int | str] = ["batch", model.preprocess.height, model.preprocess.width, 3]
    graph = Graph(file="model.onnx", inputs={"pixels": shape}, outputs=["logit"], opset=_OPSET)
    blank = Manifest(kind="onnx", stage="cost", detector=DetectorSpec(name="candidate"), preprocess=model.preprocess)
    return msgspec.structs.replace(blank, graphs=(graph,))
