"""A real, tiny ONNX artifact: the logit is a weighted sum of the image's mean red, green and blue, plus a bias."""

from pathlib import Path

import numpy as np
import pytest

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Calibration, DetectorSpec, Graph, Kind, Manifest
from edgedet.preprocess import Preprocess


def make(
    root: Path,
    name: str = "tiny",
    *,
    weights: tuple[float, float, float] = (0.1, 0.0, -0.1),
    bias: float = 0.0,
    calibration: Calibration | None = None,
    preprocess: Preprocess | None = None,
    output: str = "logit",
    kind: Kind = "onnx",
    **manifest: object,
) -> Artifact:
    """The artifact `name` below `root`; `manifest`: more of its fields."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {
        "axes": np.array([1, 2], np.int64),
        "weights": np.array(weights, np.float32)[:, None],
        "bias": np.array([bias], np.float32),
        "last": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", kinds.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info(output, kinds.FLOAT, ["batch"])],
        [onnx.numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with artifacts.writing(root / name) as draft:
        onnx.save(model, draft.path / "model.onnx")
        draft.manifest = Manifest(
            kind=kind,
            stage="export",
            detector=DetectorSpec(name="tiny"),
            preprocess=preprocess or Preprocess(height=8, width=8),
            calibration=calibration or Calibration(),
            graphs=(Graph(file="model.onnx", inputs={"pixels": ["batch", 8, 8, 3]}, outputs=[output]),),
            **manifest,
        )
    return Artifact.load(root / name)
