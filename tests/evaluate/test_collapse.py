"""A network that rounding empties: one channel, ten thousand times the others and read by nobody, takes all 255 steps."""

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import RECIPE, train_stage, write_images

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, Graph, Manifest
from edgedet.data.index import Index
from edgedet.errors import Collapsed
from edgedet.evaluate.collapse import COLLAPSE, collapse
from edgedet.export import stage as export
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig
from edgedet.preprocess import Preprocess
from edgedet.report import build
from edgedet.training import stage

SPEC = DetectorSpec(name="edge32", arguments={"width": 8})
UNJUDGED = ExportConfig(precision="int8", target="cpu-x86", ranges="minmax", images=16, held_out=8, parity=ParityGate())


def manifest(precision: str, low: float, high: float) -> Manifest:
    graph = Graph(file="m.onnx", inputs={}, outputs=["logit"], precision=precision)
    auc = {"value": (low + high) / 2, "low": low, "high": high, "n": 100}
    return Manifest(
        kind="onnx", stage="export", detector=SPEC, preprocess=Preprocess(), metrics={"auc": auc}, graphs=(graph,)
    )


def found(child: Manifest, parent: Manifest) -> dict:
    return collapse(child, child.metrics, Artifact("parent", parent, "digest"))


@pytest.mark.parametrize(
    ("child", "parent", "lost"),
    [
        ((0.5, 0.5), (0.9, 0.99), True),  # all logits the same
        ((0.45, 0.6), (0.9, 0.99), True),
        ((0.6, 0.71), (0.9, 0.99), False),  # 0.42 of at least 0.8 may be left: that is more than half
        ((0.3, 0.75), (0.6, 0.99), False),  # nobody knows
        ((0.5, 0.5), (0.45, 0.6), False),  # the parent told nothing
        ((0.9, 0.99), (0.9, 0.99), False),
    ],
)
def test_a_collapse_is_the_certain_loss_of_half_of_what_the_parents_ranking_told(child, parent, lost):
    assert bool(found(manifest("int8", *child), manifest("fp32", *parent))) == lost


def test_only_a_loss_of_precision_is_called_a_collapse():
    assert found(manifest("fp16", 0.5, 0.5), manifest("fp32", 0.9, 0.99))[COLLAPSE]["precision"] == "fp16"
    assert not found(manifest("fp32", 0.5, 0.5), manifest("fp32", 0.9, 0.99))
    assert not found(manifest("int8", 0.5, 0.5), manifest("int8", 0.9, 0.99))
    assert not collapse(manifest("int8", 0.5, 0.5), {}, None)
    unmeasured = msgspec.structs.replace(manifest("fp32", 0.9, 0.99), metrics={})
    assert not found(manifest("int8", 0.5, 0.5), unmeasured)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Index:
    return write_images(tmp_path_factory.mktemp("data"), train=96, val=80, ranges=24)


@pytest.fixture(scope="module")
def planted(data, tmp_path_factory) -> Artifact:
    """A trained detector, without one channel of its stem, in whose place there is now something large."""
    folder = tmp_path_factory.mktemp("planted")
    training = msgspec.structs.replace(RECIPE.training, epochs=4)
    trained = train_stage(data, folder / "trained", msgspec.structs.replace(RECIPE, detector=SPEC, training=training))
    model = models.build(trained)
    stem, reader = model.net.features[0], model.net.features[1]
    with torch.no_grad():
        stem[1].weight[0] = 1e4
        stem[1].bias[0] = 1e4
        reader[0].weight[:, 0] = 0
    before = msgspec.structs.replace(trained.manifest, files={}, metrics={})
    stage.write(folder / "planted", stage.Written(before, model, trained.golden.images, None, {}), data)
    return Artifact.load(folder / "planted")


def test_a_graph_that_collapses_is_refused_by_that_name(planted, data, tmp_path):
    assert planted.manifest.metrics["auc"]["low"] > 0.8
    with pytest.raises(Collapsed, match=r"COLLAPSED under int8: of the parent's order of the golden images 0% is left"):
        export.run(msgspec.structs.replace(UNJUDGED, parity=None), planted, data, tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


@pytest.fixture(scope="module")
def collapsed(planted, data, tmp_path_factory) -> Artifact:
    """What is written where no parity gate stands in its way."""
    return export.run(UNJUDGED, planted, data, tmp_path_factory.mktemp("int8") / "int8")


def test_a_collapse_is_the_first_note_and_a_figure(collapsed, planted):
    lost = collapsed.manifest.metrics[COLLAPSE]
    assert lost["auc"]["high"] < 0.6
    assert lost["parent_auc"] == planted.manifest.metrics["auc"]
    assert collapsed.manifest.notes[0] == lost["text"]
    assert lost["text"].startswith("COLLAPSED under int8: on the validation split the parent's AUC is ")
    assert np.ptp(collapsed.golden.logits) < 0.01 * np.ptp(planted.golden.logits)


def test_the_report_shows_it(collapsed):
    assert build._subject(collapsed).notes[0].startswith("COLLAPSED under int8")
