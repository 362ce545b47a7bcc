from dataclasses import replace

import msgspec
import numpy as np
import pytest

from edgedet import Detector
from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, DetectorSpec, Graph, Manifest
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.preprocess import Preprocess
from edgedet.runtime import base
from edgedet.target import NEEDS_VNNI

PIXELS = np.full((3, 8, 8, 3), (200, 10, 100), np.uint8)


def write(path, *, kind: str, graphs: tuple[Graph, ...] = (), files: dict[str, bytes] | None = None) -> Artifact:
    with artifacts.writing(path) as draft:
        for name, content in (files or {}).items():
            (draft.path / name).write_bytes(content)
        draft.manifest = Manifest(
            kind=kind, stage="train", detector=DetectorSpec(name="tiny"), preprocess=Preprocess(), graphs=graphs
        )
    return Artifact.load(path)


def graph(file: str) -> Graph:
    return Graph(file=file, inputs={"pixels": ["batch", 8, 8, 3]}, outputs=["logit"])


def test_onnxruntime_gives_the_logits_and_says_how(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), threads=1, spin=False)
    outputs = runtime.run(PIXELS)
    assert next(iter(outputs)) == "logit"
    np.testing.assert_allclose(outputs["logit"], np.full(3, 10.0), rtol=1e-5)
    about = runtime.describe()
    assert (about["runtime"], about["provider"], about["threads"], about["spin"]) == (
        "onnxruntime",
        "CPUExecutionProvider",
        1,
        False,
    )


def test_pixels_that_the_graph_does_not_take_are_an_error(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), threads=1)
    with pytest.raises(ArtifactError, match=r"refuses uint8 pixels of shape \(3, 8, 8, 4\)"):
        runtime.run(np.zeros((3, 8, 8, 4), np.uint8))


def test_a_graph_without_our_interface_is_refused(make_onnx_artifact):
    with pytest.raises(ArtifactError, match="expected `logit`"):
        base.load(make_onnx_artifact(output="probability"), threads=1)


def test_a_damaged_graph_is_refused_by_name(tmp_path):
    broken = write(tmp_path / "broken", kind="onnx", graphs=(graph("m.onnx"),), files={"m.onnx": b"not a graph"})
    with pytest.raises(ArtifactError, match=r"m\.onnx: ONNX Runtime .* does not accept it"):
        base.load(broken)


def test_an_artifact_of_two_graphs_is_refused(tmp_path):
    files = {"a.onnx": b"", "b.onnx": b""}
    two = write(tmp_path / "two", kind="onnx", graphs=(graph("a.onnx"), graph("b.onnx")), files=files)
    with pytest.raises(RuntimeUnavailable, match="has 2 graphs"):
        base.load(two)


def test_null_gives_zeros_for_any_artifact_and_is_never_chosen_by_itself(make_onnx_artifact):
    artifact = make_onnx_artifact()
    assert base.load(artifact, runtime="null").run(PIXELS)["logit"].tolist() == [0, 0, 0]
    assert base.choose(artifact) == "onnxruntime"


@pytest.mark.parametrize(
    ("kind", "runtime", "message"),
    [
        ("checkpoint", "onnxruntime", "runs onnx artifacts, this is a checkpoint; `edgedet export`"),
        ("engine", "onnxruntime", "runs onnx artifacts, this is a engine"),
        ("onnx", "onnxruntimes", "did you mean 'onnxruntime'"),
    ],
)
def test_a_runtime_that_does_not_fit_is_refused(tmp_path, kind, runtime, message):
    with pytest.raises(RuntimeUnavailable, match=message):
        base.load(write(tmp_path / "a", kind=kind), runtime=runtime)


def test_weights_that_would_overflow_on_this_cpu_are_a_warning(make_onnx_artifact, monkeypatch, caplog):
    made = make_onnx_artifact()
    weighty = replace(made, manifest=msgspec.structs.replace(made.manifest, metrics={"quantization": {NEEDS_VNNI: True}}))
    for vnni, warnings in ((True, 0), (False, 1)):
        monkeypatch.setattr("edgedet.runtime.onnxruntime.has_vnni", lambda vnni=vnni: vnni)
        Detector.load(weighty).close()
        assert len([line for line in caplog.messages if "sums of its 8-bit weights may overflow" in line]) == warnings


def test_threads_must_be_positive(make_onnx_artifact):
    with pytest.raises(RuntimeUnavailable, match="threads must be at least 1, got 0"):
        base.load(make_onnx_artifact(), threads=0)


def test_the_table_says_what_can_be_used_here(monkeypatch):
    assert base.available()["onnxruntime"] == base.available()["null"] == ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert base.available()["torch"] == "torch is not installed: pip install 'edgedet[train]'"
