import io
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import Artifact, Calibration, DetectorSpec, Gate, Manifest
from edgedet.data.index import Index, Row
from edgedet.errors import ArtifactError, DataError, ExportError, ParityError
from edgedet.export import compile as compiler
from edgedet.export.lint import Finding
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.training.stage import write_golden, write_weights

SPEC = DetectorSpec(name="edgenet", arguments={"stem": 8, "widths": [8, 16], "depths": [1, 1], "strides": [1, 2]})
PREPROCESS = Preprocess(height=16, width=16, mean=(128 / 255,) * 3, std=(128 / 255,) * 3)
GATE = Gate(metric="balanced_accuracy", max_drop=0.02)


def photograph(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, 16)[:, None, None] * random.uniform(0.2, 1, (1, 16, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(ramp + random.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    model = PixelModel(models.create(SPEC), PREPROCESS)
    images = tuple(photograph(seed) for seed in range(16))
    out = tmp_path_factory.mktemp("artifacts") / "student"
    with artifacts.writing(out) as draft:
        write_weights(draft.path, model)
        write_golden(draft.path, model, images, None)
        draft.manifest = Manifest(
            kind="checkpoint",
            stage="train",
            detector=SPEC,
            preprocess=PREPROCESS,
            gates=(GATE,),
            calibration=Calibration(bias=5.0),
        )
    return Artifact.load(out)


@pytest.fixture(scope="module")
def fp32(checkpoint: Artifact) -> Artifact:
    return run(ExportConfig(target="cpu-x86"), checkpoint, None, checkpoint.path.with_name("fp32"))


@pytest.fixture
def data(tmp_path: Path) -> Index:
    rows = []
    for number in range(12):
        content = photograph(100 + number)
        (tmp_path / f"{number}.png").write_bytes(content)
        rows.append(Row(path=f"{number}.png", label=number % 2, generator="g", split="ranges", sha256=str(number)))
    return Index(tmp_path, tuple(rows))


def test_a_checkpoint_becomes_a_graph_with_its_history(checkpoint: Artifact, fp32: Artifact) -> None:
    manifest = fp32.manifest
    assert (manifest.kind, manifest.stage) == ("onnx", "export")
    assert manifest.parent is not None
    assert manifest.parent.digest == checkpoint.digest
    assert manifest.gates == (GATE,)
    assert manifest.calibration == checkpoint.manifest.calibration
    (graph,) = manifest.graphs
    assert (graph.inputs, graph.outputs) == ({"pixels": ["batch", 16, 16, 3]}, ["logit"])
    assert (graph.opset, graph.precision, graph.target) == (20, "fp32", "cpu-x86")
    assert {entry.key: entry.value for entry in onnx.load(fp32.graph).metadata_props}["edgedet.parent"] == checkpoint.digest


def test_parity_with_the_parent_is_measured_on_its_golden_photographs(checkpoint: Artifact, fp32: Artifact) -> None:
    before, after = checkpoint.golden, fp32.golden
    assert after.images == before.images
    assert after.parent_logits == pytest.approx(before.logits, abs=1e-6)
    assert after.logits == pytest.approx(before.logits, abs=1e-5)
    figures = fp32.manifest.metrics["parity"]
    assert figures["batch_sizes"] == [1, 2, 7, 16]
    assert figures["max_difference"] < 1e-5


def test_int8_is_smaller_close_and_says_what_it_left_in_float(fp32: Artifact, data: Index, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("edgedet.export.stage.assess", lambda draft, data, parent: draft.manifest)
    child = run(ExportConfig(target="cpu-x86", precision="int8"), fp32, data, tmp_path / "int8")
    assert child.model_bytes < fp32.model_bytes
    assert np.corrcoef(child.golden.logits, fp32.golden.logits)[0, 1] > 0.95
    assert child.golden.parent_logits == pytest.approx(fp32.golden.logits, abs=1e-5)
    assert "1 Gemm left in float: last linear layer" in child.manifest.notes
    assert child.manifest.graphs[0].precision == "int8"
    assert len(child.manifest.lineage) == 2


@pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")
def test_int8_for_the_rtx_3090_compiles_with_every_convolution_in_int8(fp32: Artifact, data: Index, tmp_path: Path) -> None:
    config = ExportConfig(target="rtx-3090", precision="int8", parity=ParityGate())
    child = run(config, fp32, data, tmp_path / "rtx", assessed=False)
    found = child.manifest.metrics["compiled"]
    # Eight channels on both sides are fewer than TensorRT's kernels take, but for the first convolution.
    assert (found["int8_convolutions"], found["convolutions"]) == (2, 3)
    assert "1 Conv left in float: fewer than 16 channels" in child.manifest.notes
    assert "no measurement" in found["evidence"]


@pytest.fixture
def compiled_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are about the graph; that it compiles is held above and in test_every_model."""
    monkeypatch.setattr(compiler, "available", lambda: False)


def scale_types(artifact: Artifact) -> set[str]:
    """The types of the scales of all Q/DQ pairs."""
    graph = onnx.load(artifact.graph).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {str(constants[node.input[1]].dtype) for node in graph.node if "QuantizeLinear" in node.op_type}


@pytest.mark.usefixtures("compiled_nothing")
@pytest.mark.parametrize(
    ("target", "opset", "scales"),
    [("jetson-orin-nano", 18, {"float32"}), ("jetson-orin-nano@7.2", 20, {"float16", "float32"})],
)
def test_what_is_around_int8_depends_on_tensorrts_version(
    target: str, opset: int, scales: set[str], checkpoint: Artifact, data: Index, tmp_path: Path
) -> None:
    config = ExportConfig(target=target, precision="int8", parity=ParityGate())
    child = run(config, checkpoint, data, tmp_path / "jetson", assessed=False)
    assert child.manifest.graphs[0].opset == opset
    assert scale_types(child) == scales  # float32 is the pixels' own
    assert np.corrcoef(child.golden.logits, checkpoint.golden.logits)[0, 1] > 0.95


@pytest.mark.usefixtures("compiled_nothing")
@pytest.mark.parametrize(("target", "opset"), [("rtx-3090", 20), ("jetson-orin-nano", 18)])
def test_half_precision_is_in_the_graph_and_close(
    target: str, opset: int, checkpoint: Artifact, data: Index, tmp_path: Path
) -> None:
    child = run(ExportConfig(target=target, precision="fp16"), checkpoint, data, tmp_path / "fp16", assessed=False)
    (graph,) = child.manifest.graphs
    assert (graph.precision, graph.opset) == ("fp16", opset)
    assert any("nodes in FP16" in note for note in child.manifest.notes)
    assert child.manifest.metrics["parity"]["max_relative"] < 5e-3
    weights = [tensor for tensor in onnx.load(child.graph).graph.initializer if len(tensor.dims) == 4 and tensor.dims[2] == 3]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}


def test_a_graph_that_tensorrt_would_refuse_is_not_written(fp32: Artifact, tmp_path: Path, monkeypatch) -> None:
    finding = Finding("operator", "error", "node_x", "TensorRT has no importer for Det", "rewrite it with others")
    monkeypatch.setattr("edgedet.export.precision.lint", lambda model, target: [finding])
    with pytest.raises(ExportError, match=r"1 findings: node_x: TensorRT has no importer for Det \(rewrite it with others\)$"):
        run(ExportConfig(target="rtx-3090"), fp32, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_of_another_opset_is_not_taken_for_a_target(fp32: Artifact, data: Index, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="opset 20, jetson-orin-nano takes 18: export from the checkpoint"):
        run(ExportConfig(target="jetson-orin-nano", precision="int8"), fp32, data, tmp_path / "jetson")


def test_a_child_that_differs_too_much_is_not_written(fp32: Artifact, data: Index, tmp_path: Path) -> None:
    config = ExportConfig(target="cpu-x86", precision="int8", parity=ParityGate(max_relative=1e-9))
    with pytest.raises(ParityError, match=r"max_relative is .*, the parity gate allows 1e-09"):
        run(config, fp32, data, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_a_parent_whose_golden_logits_do_not_come_out_again_is_refused(checkpoint: Artifact, tmp_path: Path) -> None:
    # The same artifact with other weights behind the same golden logits.
    torch.manual_seed(1)
    golden = checkpoint.golden
    with artifacts.writing(tmp_path / "other") as draft:
        write_weights(draft.path, PixelModel(models.create(SPEC), PREPROCESS))
        golden.save(draft.path / artifacts.GOLDEN)
        draft.manifest = msgspec.structs.replace(checkpoint.manifest, files={})
    with pytest.raises(ParityError, match="against the golden logits that it was written with"):
        run(ExportConfig(target="cpu-x86"), Artifact.load(tmp_path / "other"), None, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (ExportConfig(target="cpu-x86", precision="int8"), DataError, "give --data, a data set with a ranges split"),
        (ExportConfig(target="rtx-3090", precision="fp16"), DataError, "what FP16 would overflow is found on real images"),
        (ExportConfig(target="cpu-x86", precision="fp16"), ExportError, "takes fp32 or int8, not fp16"),
    ],
)
def test_what_cannot_be_done_is_refused(config: ExportConfig, error, message: str, fp32: Artifact, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        run(config, fp32, None, tmp_path / "out")


def test_an_artifact_in_the_way_is_kept(fp32: Artifact) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        run(ExportConfig(target="cpu-x86"), fp32, None, fp32.path)
