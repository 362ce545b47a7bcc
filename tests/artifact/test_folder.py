"""An artifact is whole or absent, and nothing in it can be changed without being noticed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from full_disk import no_file_beyond

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Calibration, DetectorSpec, Gate, Graph, Manifest, writing
from edgedet.errors import ArtifactError, DigestMismatch
from edgedet.preprocess import Preprocess


def manifest(**given: Any) -> Manifest:
    tiny = {"kind": "onnx", "stage": "export", "detector": DetectorSpec(name="tiny"), "preprocess": Preprocess()}
    return Manifest(**tiny | given)


def written(path: Path, **given: Any) -> Artifact:
    """An artifact with one graph and one file in a folder; what is in them does not matter here."""
    with writing(path) as draft:
        (draft.path / "model.onnx").write_bytes(b"graph" * 100)
        (draft.path / "more").mkdir()
        (draft.path / "more" / "extra.json").write_text("{}")
        graph = Graph(file="model.onnx", inputs={"pixels": ["batch", 8, 8, 3]}, outputs=["logit"])
        draft.manifest = manifest(graphs=(graph,), **given)
    return Artifact.load(path)


def edit(path: Path, change: Any) -> None:
    tree = json.loads((path / "manifest.json").read_text())
    change(tree)
    (path / "manifest.json").write_text(json.dumps(tree))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    calibration = Calibration(temperature=1.5, bias=-0.2, thresholds={"half": 0.5, "fpr1": 0.9}, operating_point="fpr1")
    gates = (Gate(metric="auc", max_drop=0.01),)
    given = {"seed": 7, "structure": {"conv1": [8, 3]}, "gates": gates, "calibration": calibration}
    artifact = written(tmp_path / "a", **given)
    for name, value in given.items():
        assert getattr(artifact.manifest, name) == value
    assert set(artifact.manifest.files) == {"model.onnx", "more/extra.json"}
    assert artifact.graph.read_bytes() == b"graph" * 100
    assert artifact.model_bytes == 500
    assert not [path for path in tmp_path.iterdir() if path.name != "a"]


def test_the_digest_depends_on_every_byte(tmp_path: Path) -> None:
    assert written(tmp_path / "a").digest == written(tmp_path / "b").digest
    assert written(tmp_path / "c", seed=1).digest != written(tmp_path / "d", seed=2).digest


@pytest.mark.parametrize("name", ["model.onnx", "more/extra.json"])
def test_an_edited_file_is_refused_by_digest(tmp_path: Path, name: str) -> None:
    artifact = written(tmp_path / "a")
    data = bytearray((artifact.path / name).read_bytes())
    data[-1] ^= 1
    (artifact.path / name).write_bytes(data)
    with pytest.raises(DigestMismatch, match=rf"{name} has sha256 .* the manifest says .* was changed after"):
        Artifact.load(artifact.path)
    assert Artifact.load(artifact.path, verify=False).digest == artifact.digest


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path / "a")
    artifact.graph.unlink()
    with pytest.raises(DigestMismatch, match=r"model\.onnx is missing"):
        Artifact.load(artifact.path)


@pytest.mark.parametrize("outside", ["../secret", "/etc/hostname", "more/../../secret"])
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, outside: str) -> None:
    artifact = written(tmp_path / "a")
    (tmp_path / "secret").write_bytes(b"")
    edit(artifact.path, lambda tree: tree["files"].update({outside: "0" * 64}))
    with pytest.raises(ArtifactError, match="outside the artifact"):
        Artifact.load(artifact.path, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(schema=99), "manifest schema 99, this edgedet reads 1"),
        (lambda tree: tree.pop("schema"), "manifest schema None"),
        (lambda tree: tree.update(kind="pickle"), "damaged.*pickle"),
        (lambda tree: tree.update(surprise=1), "damaged.*surprise"),
        (lambda tree: tree["calibration"].update(temperature=0), "damaged.*`temperature` must be positive"),
        (lambda tree: tree["preprocess"].update(height="tall"), "damaged.*height"),
    ],
)
def test_a_damaged_manifest_says_what_is_wrong(tmp_path: Path, change: Any, message: str) -> None:
    artifact = written(tmp_path / "a")
    edit(artifact.path, change)
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(artifact.path)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
def test_a_manifest_that_is_no_json_is_an_artifact_error(tmp_path: Path, raw: bytes) -> None:
    artifact = written(tmp_path / "a")
    (artifact.path / "manifest.json").write_bytes(raw)
    with pytest.raises(ArtifactError, match="manifest"):
        Artifact.load(artifact.path)


def test_no_artifact_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an artifact: no manifest"):
        Artifact.load(tmp_path)


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a") as draft:
        (draft.path / "model.onnx").write_bytes(bytes(1 // 0))
    with pytest.raises(ArtifactError, match="set no manifest"), writing(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_of_the_same_number_has_left_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / f".a.partial-{os.getpid()}"
    left.mkdir()
    (left / "torn").touch()
    made = written(tmp_path / "a")
    assert "torn" not in made.manifest.files
    assert not left.exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "a")
    with pytest.raises(ArtifactError, match="exists already"):
        written(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="exists already"):
        artifacts.check_free(tmp_path / "link")


@pytest.mark.parametrize("limit", [64, 300, 1000], ids=["graph", "golden", "manifest"])
def test_a_full_disk_leaves_nothing_but_an_error(tmp_path: Path, limit: int) -> None:
    with no_file_beyond(limit), pytest.raises(ArtifactError, match="cannot be written"):
        written(tmp_path / "a", notes=("long" * 500,))
    assert not list(tmp_path.iterdir())


def test_the_lineage_grows_from_the_first_ancestor(tmp_path: Path) -> None:
    teacher = written(tmp_path / "teacher", kind="checkpoint", stage="train")
    student = written(tmp_path / "student", kind="checkpoint", stage="distill", lineage=teacher.lineage_for_child())
    graph = written(tmp_path / "graph", lineage=student.lineage_for_child())
    lineage = [(line.stage, line.digest) for line in graph.manifest.lineage]
    assert lineage == [("train", teacher.digest), ("distill", student.digest)]
    assert graph.manifest.parent == student.as_ancestor()
    assert teacher.manifest.parent is None


def test_the_wrong_kind_says_which_stage_makes_the_right_one(tmp_path: Path) -> None:
    artifact = written(tmp_path / "a")
    artifact.require("onnx")
    with pytest.raises(ArtifactError, match=r"expected a checkpoint \(made by train, distill, prune or qat\), got a onnx"):
        artifact.require("checkpoint")
    with pytest.raises(ArtifactError, match=r"has no weights\.safetensors; its files are model\.onnx, more/extra\.json"):
        artifact.file("weights.safetensors")
