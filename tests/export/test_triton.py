"""The configuration is read with a small reader of protobuf's text format, and held against the graph that it is about."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from edgedet.artifact import Artifact, Calibration, Graph
from edgedet.errors import ArtifactError, ExportError
from edgedet.export import triton
from edgedet.ort import open_session
from edgedet.preprocess import Preprocess

# Of Triton's model_config.proto: message -> field -> type; a list is repeated, a word in capitals is an enum.
SCHEMA = {
    "ModelConfig": {
        "name": str, "backend": str, "max_batch_size": int, "input": ["ModelInput"], "output": ["ModelOutput"],
        "dynamic_batching": "ModelDynamicBatching", "instance_group": ["ModelInstanceGroup"],
        "optimization": "ModelOptimizationPolicy", "model_warmup": ["ModelWarmup"], "parameters": ["Parameter"],
    },
    "ModelInput": {"name": str, "data_type": "ENUM", "dims": [int], "reshape": "ModelTensorReshape"},
    "ModelOutput": {"name": str, "data_type": "ENUM", "dims": [int], "reshape": "ModelTensorReshape"},
    "ModelTensorReshape": {"shape": [int]},
    "ModelDynamicBatching": {"max_queue_delay_microseconds": int},
    "ModelInstanceGroup": {"count": int, "kind": "ENUM"},
    "ModelOptimizationPolicy": {"execution_accelerators": "ExecutionAccelerators"},
    "ExecutionAccelerators": {"gpu_execution_accelerator": ["Accelerator"]},
    "Accelerator": {"name": str, "parameters": ["TextEntry"]},
    "TextEntry": {"key": str, "value": str},
    "ModelWarmup": {"name": str, "batch_size": int, "inputs": ["WarmupEntry"]},
    "WarmupEntry": {"key": str, "value": "WarmupInput"},
    "WarmupInput": {"data_type": "ENUM", "dims": [int], "zero_data": bool},
    "Parameter": {"key": str, "value": "ModelParameter"},
    "ModelParameter": {"string_value": str},
}  # fmt: skip
TOKEN = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|-?\d+|\w+|[{}\[\]:,]')


def read(text: str) -> dict:
    """A ``ModelConfig``; a field that the schema does not have, or of another type, is an error."""
    tokens = [token for token in TOKEN.findall(text) if not token.isspace()]
    assert "".join(tokens) == "".join(TOKEN.sub(lambda found: "" if found[0].isspace() else found[0], text))
    message, rest = _message("ModelConfig", [*tokens, "}"])
    assert not rest
    return message


def _message(kind: str, tokens: list[str]) -> tuple[dict, list[str]]:
    found: dict = {}
    while tokens[0] != "}":
        field, tokens = tokens[0], tokens[1:]
        expected = SCHEMA[kind][field]
        many, one = (True, expected[0]) if isinstance(expected, list) else (False, expected)
        if isinstance(one, str) and one != "ENUM":
            tokens = tokens[1:] if tokens[0] == ":" else tokens
            assert tokens[0] == "{"
            value, tokens = _message(one, tokens[1:])
            values = [value]
        else:
            assert tokens[0] == ":"
            values, tokens = _scalars(one, tokens[1:])
        assert many or field not in found
        found[field] = found.get(field, []) + values if many else values[0]
    return found, tokens[1:]


def _scalars(kind, tokens: list[str]) -> tuple[list, list[str]]:
    if tokens[0] != "[":
        return [_scalar(kind, tokens[0])], tokens[1:]
    end = tokens.index("]")
    return [_scalar(kind, token) for token in tokens[1:end] if token != ","], tokens[end + 1 :]


def _scalar(kind, token: str):
    if kind == "ENUM":
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", token), token
        return token
    if kind is bool:
        return {"true": True, "false": False}[token]
    return json.loads(token) if kind is str else int(token)


@pytest.fixture
def written(make_onnx_artifact, tmp_path):
    calibration = Calibration(temperature=1.5, bias=-0.25, thresholds={"half": 0.5, "fpr1": 0.75}, operating_point="fpr1")
    made = make_onnx_artifact("my detector", calibration=calibration)
    return made, triton.write(made, tmp_path / "repository")


def test_the_repository_has_the_layout_that_triton_looks_for(written, tmp_path):
    made, folder = written
    files = sorted(path.relative_to(tmp_path / "repository").as_posix() for path in (tmp_path / "repository").rglob("*.*"))
    assert files == ["my-detector/1/model.onnx", "my-detector/config.pbtxt", "my-detector/manifest.json"]
    assert (folder / "1" / "model.onnx").read_bytes() == made.graph.read_bytes()
    assert not list(tmp_path.glob(".repository*"))


def test_the_configuration_is_that_of_the_graph(written):
    _, folder = written
    config = read((folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert (config["name"], config["backend"]) == ("my-detector", "onnxruntime")
    session = open_session(folder / "1" / "model.onnx", threads=1)
    (declared,), (given,) = config["input"], session.get_inputs()
    assert (declared["name"], declared["data_type"], given.type) == (given.name, "TYPE_UINT8", "tensor(uint8)")
    for batch in (1, config["max_batch_size"]):
        sides = [8 if side == -1 else side for side in declared["dims"]]
        (logits,) = session.run(None, {declared["name"]: np.zeros((batch, *sides), np.uint8)})
        (output,) = config["output"]
        assert (output["name"], output["data_type"], logits.dtype) == ("logit", "TYPE_FP32", np.float32)
        assert logits.shape == (batch, *output["reshape"]["shape"])  # what the graph gives
        assert logits.reshape(batch, *output["dims"]).size == logits.size  # what the client sees
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_CPU"}]
    assert config["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    (warm,) = config["model_warmup"]
    assert warm["inputs"] == [
        {"key": "pixels", "value": {"data_type": "TYPE_UINT8", "dims": [8, 8, 3], "zero_data": True}}
    ]


def test_a_client_finds_the_calibration_in_the_parameters(written):
    made, folder = written
    config = read((folder / "config.pbtxt").read_text(encoding="utf-8"))
    said = {each["key"]: each["value"]["string_value"] for each in config["parameters"]}
    logit = 0.7
    score = 1 / (1 + np.exp(-(logit + float(said["edgedet_bias"])) / float(said["edgedet_temperature"])))
    assert score == pytest.approx(made.manifest.calibration.score(logit))
    assert float(said["edgedet_threshold"]) == 0.75
    assert said["edgedet_artifact"] == made.digest


def test_a_graph_placed_for_tensorrt_runs_through_it(make_onnx_artifact):
    graph = Graph(file="model.onnx", inputs={}, outputs=["logit"], target="rtx-3090", precision="fp16")
    made = make_onnx_artifact("gpu")
    gpu = Artifact(made.path, made.manifest.__class__(**{**fields(made.manifest), "graphs": (graph,)}), made.digest)
    config = read(triton.config(gpu, "gpu"))
    assert config["instance_group"] == [{"count": 1, "kind": "KIND_GPU"}]
    assert config["optimization"]["execution_accelerators"]["gpu_execution_accelerator"] == [
        {"name": "tensorrt", "parameters": [{"key": "precision_mode", "value": "FP16"}]}
    ]


def fields(struct) -> dict:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_graph_with_a_fixed_batch_is_declared_whole(make_onnx_artifact, tmp_path):
    onnx = pytest.importorskip("onnx")
    made = make_onnx_artifact("fixed")
    model = onnx.load(made.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, made.graph)
    config = read(triton.config(made, "fixed"))
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [4, -1, -1, 3]
    assert config["output"][0]["dims"] == [4]
    assert "dynamic_batching" not in config


def test_what_triton_cannot_take_is_refused(make_onnx_artifact, tmp_path):
    with pytest.raises(ArtifactError, match="expected a onnx"):
        triton.write(make_onnx_artifact("kept", kind="checkpoint"), tmp_path / "out")
    two = make_onnx_artifact("two", preprocess=Preprocess(geometry="native", patch=8))
    graphs = tuple(Graph(file="model.onnx", role=role, inputs={}, outputs=[]) for role in ("encoder", "aggregator"))
    patchwise = Artifact(two.path, two.manifest.__class__(**{**fields(two.manifest), "graphs": graphs}), two.digest)
    with pytest.raises(ExportError, match="a Triton model is one"):
        triton.write(patchwise, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        triton.write(make_onnx_artifact("mine"), tmp_path / "out")
