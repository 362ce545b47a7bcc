"""The INT8 graph of a tiny teacher, trained: it is the graph that was trained, it learns, or it is refused."""

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tiny_training import write_images

from edgedet import target as targets
from edgedet.compress import qat
from edgedet.compress.distillation import Distillation
from edgedet.compress.graph_module import GraphModule
from edgedet.compress.qat import QatRecipe, compare
from edgedet.data.augment import Augment
from edgedet.data.dataset import open_set
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, ParityError, TrainingError
from edgedet.export import stage as export
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig
from edgedet.training.config import TrainingConfig

RECIPE = QatRecipe(
    stage="qat",
    ranges="minmax",
    images=16,
    held_out=8,
    training=TrainingConfig(epochs=2, batch_size=16, lr=1e-3, optimizer="adam", amp=False),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Index:
    """The teacher's images, and a ranges split of their kind."""
    return write_images(tmp_path_factory.mktemp("whole"), train=32, val=24, ranges=24)


@pytest.fixture(scope="module", params=["cpu-x86", "rtx-3090"])
def trained(request, teacher, whole, tmp_path_factory):
    return qat.run(RECIPE, teacher, whole, tmp_path_factory.mktemp("qat") / "int8", target=request.param)


def test_what_is_written_is_the_int8_graph_of_the_target(trained, teacher):
    manifest = trained.manifest
    assert (manifest.kind, manifest.stage, manifest.graphs[0].precision) == ("onnx", "qat", "int8")
    assert manifest.parent.digest == teacher.digest
    assert manifest.gates == teacher.manifest.gates
    operators = {node.op_type for node in onnx.load(trained.graph).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    assert manifest.graphs[0].opset == targets.resolve(manifest.graphs[0].target).opset
    assert trained.file("metrics.jsonl").is_file()


def test_the_graph_gives_what_was_trained(trained):
    found = trained.manifest.metrics["qat"]
    assert found["n"] == 24
    assert found["flips"] == 0
    assert found["max_difference"] <= qat.LARGEST_DIFFERENCE
    golden = trained.golden
    session = ort.InferenceSession(str(trained.graph), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"pixels": golden.pixels})[0]
    np.testing.assert_allclose(logits, golden.parent_logits, atol=qat.LARGEST_DIFFERENCE)


def test_its_weights_have_learned(trained, teacher, whole, tmp_path):
    target = trained.manifest.graphs[0].target
    config = ExportConfig(precision="int8", target=target, ranges="minmax", images=16, held_out=8, parity=ParityGate())
    before = export.run(config, teacher, whole, tmp_path / "int8", assessed=False)
    weights = [
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(each.graph).graph.initializer}
        for each in (before, trained)
    ]
    assert weights[0].keys() == weights[1].keys()
    rounded = [name for name in weights[0] if name.endswith("weight_quantized")]
    assert sum((weights[0][name] != weights[1][name]).any() for name in rounded) == len(rounded)


def test_a_graph_that_is_not_what_was_trained_is_refused(trained, whole):
    graph = onnx.load(trained.graph)
    module = GraphModule(graph).eval()
    val = open_set(whole.split("val"), trained.manifest.preprocess)
    assert compare(graph, module, val, trained.manifest.calibration)["flips"] == 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    with pytest.raises(ParityError, match="differs from the trained forward pass: the"):
        compare(graph, module, val, trained.manifest.calibration)


def test_an_interrupted_training_is_resumed_and_never_overwritten(teacher, whole, tmp_path, monkeypatch):
    out = tmp_path / "int8"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            qat.run(RECIPE, teacher, whole, out, target="cpu-x86")
    assert not out.exists()
    with pytest.raises(TrainingError, match="holds an unfinished run: add --resume"):
        qat.run(RECIPE, teacher, whole, out, target="cpu-x86")
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        qat.run(msgspec.structs.replace(RECIPE, images=RECIPE.images - 1), teacher, whole, out, target="cpu-x86", resume=True)
    made = qat.run(RECIPE, teacher, whole, out, target="cpu-x86", resume=True)
    assert made.manifest.metrics["qat"]["flips"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_a_graph_learns_from_degraded_views_of_the_same_answers(teacher, whole, tmp_path):
    augment = Augment(jpeg=0.5, noise=0.3)
    training = msgspec.structs.replace(RECIPE.training, epochs=1, augment=augment, consistency_weight=0.5)
    config = msgspec.structs.replace(RECIPE, training=training)
    made = qat.run(config, teacher, whole, tmp_path / "int8", target="cpu-x86")
    assert made.manifest.metrics["qat"]["flips"] == 0


def test_only_a_checkpoint_can_be_trained(trained, whole, tmp_path):
    with pytest.raises(ArtifactError, match="expected a checkpoint"):
        qat.run(RECIPE, trained, whole, tmp_path / "again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": TrainingConfig(amp=True)}, "`training.amp` must be false"),
        ({"distillation": Distillation(feature_weight=0.5)}, "`distillation.feature_weight` must be 0"),
        ({"distillation": Distillation(attention_weight=0.5)}, "`distillation.attention_weight` must be 0"),
        ({"distillation": Distillation(patch_weight=0.5)}, "`distillation.patch_weight` must be 0"),
    ],
)
def test_settings_that_a_graph_cannot_be_trained_with_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        QatRecipe(**{**msgspec.structs.asdict(RECIPE), **changes})
