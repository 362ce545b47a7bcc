"""Fixtures that several folders share."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import Demo, make_demo

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Calibration, DetectorSpec, Graph, Kind, Manifest
from edgedet.preprocess import Preprocess

MakeArtifact = Callable[..., Artifact]

# A shell starts what it puts in the background deaf to Ctrl-C, and so its children: the tests that press it need it heard.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_onnx_artifact(tmp_path: Path) -> MakeArtifact:
    """A real, tiny ONNX artifact: the logit is a weighted sum of the image's mean red, green and blue, plus a bias."""
    onnx = pytest.importorskip("onnx")

    def make(
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
        with artifacts.writing(tmp_path / name) as draft:
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
        return Artifact.load(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Artifacts of every stage, made once by the commands themselves."""
    pytest.importorskip("torch")
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all that edgedet's core needs under any Python, from the package index."""
    from edgedet.export.wheel import requirements

    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", str(folder)]
    needs = [line.partition(";")[0] for line in requirements()]
    subprocess.run([*command, *needs], check=True, capture_output=True, timeout=1200)
    return folder
