"""Two trained detectors as one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import RECIPE, train_stage, write_images

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, Gate
from edgedet.compress import distill
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.distillation import Distillation
from edgedet.data.index import Index
from edgedet.errors import TrainingError
from edgedet.export import stage as export
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig
from edgedet.models.work import of_artifact
from edgedet.training import ensemble
from edgedet.training.config import TrainingConfig

GATE = Gate(metric="balanced_accuracy", max_drop=1.0)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Index:
    return write_images(tmp_path_factory.mktemp("data"), train=16, val=16, ranges=16)


def trained(data: Index, folder, name: str, seed: int, **arguments: object) -> Artifact:
    training = msgspec.structs.replace(RECIPE.training, epochs=1, seed=seed)
    recipe = msgspec.structs.replace(
        RECIPE, detector=DetectorSpec(name=name, arguments=arguments), training=training, gates=(GATE,)
    )
    return train_stage(data, folder / f"{name}{seed}", recipe)


@pytest.fixture(scope="module")
def members(data, tmp_path_factory) -> list[Artifact]:
    folder = tmp_path_factory.mktemp("members")
    return [trained(data, folder, "edge32", 0, width=8), trained(data, folder, "edge32-teacher", 1, width=8)]


@pytest.fixture(scope="module")
def together(data, members, tmp_path_factory) -> Artifact:
    return ensemble.run(members, data, tmp_path_factory.mktemp("ensemble") / "both")


def test_it_says_the_mean_of_what_its_members_say(together, members):
    pixels = torch.from_numpy(together.golden.pixels)
    with torch.inference_mode():
        each = np.stack([models.build(member)(pixels).numpy() for member in members])
        found = models.build(together)(pixels).numpy()
    assert np.abs(each[0] - each[1]).max() > 0.01, "members that say the same prove nothing"
    np.testing.assert_allclose(found, each.mean(0), atol=1e-5)


def test_its_manifest_names_its_members_and_holds_their_gates(together, members):
    manifest = together.manifest
    assert (manifest.stage, manifest.detector.name, manifest.lineage) == ("ensemble", "ensemble", ())
    assert manifest.detector.arguments["members"] == [msgspec.to_builtins(member.manifest.detector) for member in members]
    assert [each.digest for each in manifest.teachers] == [member.digest for member in members]
    assert manifest.gates == (GATE,)
    assert manifest.calibration.n == manifest.metrics["balanced_accuracy"]["n"] == 16


def test_its_work_is_that_of_its_members(together, members):
    alone = sum(of_artifact(member).macs for member in members)
    assert of_artifact(together).macs == pytest.approx(alone, rel=1e-6)


def test_it_teaches_and_is_exported_like_any_detector(together, data, tmp_path):
    config = ExportConfig(precision="int8", target="cpu-x86", ranges="minmax", parity=ParityGate(mean_relative=0.5))
    graph = export.run(config, together, data, tmp_path / "int8")
    assert [each.stage for each in graph.manifest.lineage] == ["ensemble"]
    assert graph.model_bytes < 0.5 * sum(each.stat().st_size for each in together.path.glob("weights.*"))
    recipe = DistillRecipe(
        stage="distill",
        detector=DetectorSpec(name="edge32", arguments={"width": 8}),
        preprocess={"height": 16, "width": 16},
        training=TrainingConfig(epochs=1, batch_size=16, lr=0.01, amp=False),
        distillation=Distillation(feature_weight=0.5),
    )
    student = distill.run(recipe, together, data, tmp_path / "student")
    assert student.manifest.parent.digest == together.digest


@pytest.mark.slow
def test_it_is_compiled_for_the_reference_card(together, data, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    graph = export.run(ExportConfig(precision="fp16", target="rtx-3090"), together, data, tmp_path / "fp16")
    assert "compute capability 86" in graph.manifest.metrics["compiled"]["evidence"]


def test_what_cannot_be_a_member_is_refused_with_the_reason(members, data, tmp_path):
    with pytest.raises(TrainingError, match="two members or more, got 1"):
        ensemble.run(members[:1], data, tmp_path / "a")
    with pytest.raises(TrainingError, match="is given twice"):
        ensemble.run([members[0], members[0]], data, tmp_path / "a")
    other = trained(data, tmp_path, "npr-student", 0)
    with pytest.raises(TrainingError, match="see the same pixels"):
        ensemble.run([members[0], other], data, tmp_path / "a")
    assert not (tmp_path / "a").exists()
