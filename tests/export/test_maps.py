"""Heat-maps as further outputs of the exported graph, in each precision, proven against the network's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, ModelError, ParityError
from edgedet.export import compile as compiler
from edgedet.export import maps as export_maps
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.models.maps import with_maps
from edgedet.preprocess import Preprocess
from edgedet.runtime import base

SPEC = DetectorSpec(name="edgenet", arguments={"stem": 16, "widths": [16, 32], "depths": [1, 1], "strides": [2, 2]})
ANY = ParityGate()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return untrained(tmp_path_factory.mktemp("maps") / "checkpoint", SPEC, Preprocess(height=32, width=32), golden=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return as_ranges(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def fp32(checkpoint: Artifact) -> Artifact:
    return run(ExportConfig(maps=True, target="cpu-x86"), checkpoint, None, checkpoint.path.with_name("fp32"))


def outputs(artifact: Artifact) -> dict[str, np.ndarray]:
    return base.load(artifact, threads=1).run(artifact.golden.pixels)


def test_the_graph_gives_the_networks_own_map_behind_the_logit(checkpoint: Artifact, fp32: Artifact) -> None:
    maps = with_maps(models.build(checkpoint), "edgenet")
    with torch.inference_mode():
        _, expected = maps(torch.from_numpy(checkpoint.golden.pixels))
    found = outputs(fp32)
    assert list(found) == fp32.manifest.graphs[0].outputs == ["logit", "cam"]
    assert found["cam"].shape == (8, 4, 4)
    np.testing.assert_allclose(found["cam"], expected.numpy(), atol=1e-4 * float(expected.abs().max()))
    np.testing.assert_allclose(found["logit"], checkpoint.golden.logits, atol=1e-4)
    assert fp32.manifest.metrics["maps"]["cam"]["max_relative"] < 1e-6  # of the graph to itself


def test_without_being_asked_there_is_the_logit_alone(checkpoint: Artifact, tmp_path: Path) -> None:
    plain = run(ExportConfig(target="cpu-x86"), checkpoint, None, tmp_path / "plain")
    assert plain.manifest.graphs[0].outputs == ["logit"]
    assert "maps" not in plain.manifest.metrics
    with pytest.raises(ArtifactError, match="gives nothing but the logit: export its checkpoint with --maps"):
        run(ExportConfig(target="cpu-x86", maps=True), plain, None, tmp_path / "again")


def test_in_int8_the_map_is_like_the_one_in_full_precision(fp32: Artifact, data: Index, tmp_path: Path) -> None:
    config = ExportConfig(target="cpu-x86", precision="int8", ranges="minmax", images=8, parity=ANY)
    child = run(config, fp32, data, tmp_path / "int8", assessed=False)  # a graph as parent keeps its outputs
    assert child.manifest.graphs[0].outputs == ["logit", "cam"]
    assert child.manifest.metrics["maps"]["cam"]["correlation"] > 0.98
    ops = [node.op_type for node in onnx.load(child.graph).graph.node]
    assert ops.count("DequantizeLinear") > 4
    r = np.corrcoef(outputs(child)["cam"].ravel(), outputs(fp32)["cam"].ravel())[0, 1]
    assert r == pytest.approx(child.manifest.metrics["maps"]["cam"]["correlation"], abs=1e-6)


@pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_for_the_rtx_3090_it_compiles_as_without_the_map(
    checkpoint: Artifact, data: Index, tmp_path: Path, precision: str
) -> None:
    config = ExportConfig(target="rtx-3090", precision=precision, ranges="minmax", images=8, parity=ANY, maps=True)
    child = run(config, checkpoint, data, tmp_path / precision, assessed=False)
    assert child.manifest.metrics["compiled"]["int8_convolutions"] == (3 if precision == "int8" else 0)
    assert child.manifest.metrics["maps"]["cam"]["correlation"] > 0.98
    assert outputs(child)["cam"].dtype == np.float32
    assert not [note for note in child.manifest.notes if note.startswith("lint")]


def test_a_detector_without_maps_is_refused(tmp_path: Path) -> None:
    spec = DetectorSpec(name="cifake-cnn")
    plain = untrained(tmp_path / "plain", spec, models.lookup("cifake-cnn").preprocess, golden=2)
    with pytest.raises(ModelError, match="gives its logit and nothing else"):
        run(ExportConfig(maps=True), plain, None, tmp_path / "out")


def test_a_map_that_is_not_the_networks_is_refused() -> None:
    values = np.linspace(-1, 1, 50, dtype=np.float32).reshape(2, 5, 5)
    export_maps.hold({"cam": values * (1 + 1e-5)}, {"cam": values}, "child")
    with pytest.raises(ParityError, match=r"child: output `cam` is off by 0\.01 of its largest value"):
        export_maps.hold({"cam": values + 0.01}, {"cam": values}, "child")
    with pytest.raises(ParityError):
        export_maps.hold({"cam": values * np.nan}, {"cam": values}, "child")
    assert export_maps.likeness({"cam": values}, {"cam": values}) == {
        "cam": {"max_relative": 0.0, "correlation": pytest.approx(1)}
    }
    assert export_maps.likeness({"cam": 0 * values}, {"cam": values})["cam"]["correlation"] is None
