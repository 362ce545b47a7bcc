"""Packing a bundle: what travels, the same bytes each time, and what is refused before anything is written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile

import msgspec
import numpy as np
import pytest
from tiny_bundle import TARGET, exported, labelled

from edgedet.artifact import Artifact
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, DataError, ExportError
from edgedet.export import pack, wheel
from edgedet.export.bundle import inspect
from edgedet.runtime.detector import Detector
from edgedet.target import resolve


@pytest.fixture
def artifact(make_onnx_artifact, tmp_path):
    return exported(make_onnx_artifact(weights=(0.1, -0.05, -0.05)), tmp_path / "int8")


def contents(path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name.removeprefix("edgedet-bundle/"): tar.extractfile(member).read() for member in tar}


def test_it_holds_what_a_device_needs(artifact, tmp_path):
    sample = labelled(tmp_path / "data")
    made = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=sample)
    files = contents(made.path)
    assert {name: files[f"artifact/{name}"] for name in (*artifact.manifest.files, "manifest.json")} == {
        path.name: path.read_bytes() for path in artifact.path.iterdir()
    }
    assert set(files) - {name for name in files if name.startswith(("artifact/", "sample/images/"))} == {
        "bundle.json", "install.sh", "Dockerfile", "edgedet.service", "requirements.txt", "requirements-onnxruntime.txt",
            "requirements-serve.txt",
        "sample/index.csv", f"wheels/{wheel.name()}",
    }  # fmt: skip
    assert set(made.bundle.files) == set(files) - {"bundle.json"}
    assert (made.bundle.artifact, made.bundle.target.name, made.bundle.offline) == (artifact.digest, TARGET, False)
    needs = files["requirements.txt"].decode()
    assert "numpy" in needs
    assert "torch" not in needs
    assert "onnxruntime" not in needs, "TensorRT runs it there"
    assert files["requirements-onnxruntime.txt"].startswith(b"onnxruntime")
    with zipfile.ZipFile(io.BytesIO(files[f"wheels/{wheel.name()}"])) as packed:
        assert "edgedet/export/selftest.py" in packed.namelist()
        assert "edgedet/_shipped/export/jetson/install.sh" in packed.namelist()


def test_the_sample_travels_as_it_is_with_the_graphs_logits(artifact, tmp_path):
    sample = labelled(tmp_path / "data")
    made = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=sample)
    with tarfile.open(made.path) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    there = Index.load(tmp_path / "there/edgedet-bundle/sample/index.csv")
    assert there.digest == sample.digest
    assert [there.read(number) for number in range(len(there))] == [sample.read(number) for number in range(len(sample))]
    assert made.bundle.sample is not None
    with Detector.load(artifact, threads=1) as detector:
        expected = [each.logit for each in detector.predict([sample.root / row.path for row in sample.rows])]
    np.testing.assert_allclose(made.bundle.sample.logits, expected, atol=1e-6)
    assert (made.bundle.sample.n, made.bundle.sample.split) == (len(sample), "val")


def test_the_same_contents_give_the_same_bytes(artifact, tmp_path):
    sample = labelled(tmp_path / "data")
    first, second = (pack.write(artifact, resolve(TARGET), tmp_path / name, sample=sample) for name in ("1.tar.gz", "2.tar.gz"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digest == second.digest


def test_the_sample_is_of_the_validation_split_and_even(tmp_path):
    data = labelled(tmp_path / "data", 40)
    chosen = pack.sample_of(data, 8)
    assert len(chosen) == 8
    assert chosen.labels.sum() == 4
    with pytest.raises(DataError, match="no images in split 'val'"):
        pack.sample_of(data.where(lambda row: row.split == "test"), 8)


def test_wheels_are_all_there_or_refused(artifact, tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    names = ("numpy", "pillow", "msgspec", "rich", "markdown_it_py", "tomli")
    for name in names:
        (folder / f"{name}-1.0-py3-none-any.whl").write_bytes(name.encode())
    with pytest.raises(ExportError, match="has no wheel of typer: fill it with `pip download"):
        pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", wheels=folder)
    assert not (tmp_path / "b.tar.gz").exists()
    (folder / "Typer-1.0-py3-none-any.whl").write_bytes(b"")
    (folder / "edgedet-0.0.1-py3-none-any.whl").write_bytes(b"an older one")
    made = pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", wheels=folder)
    assert made.bundle.offline
    carried = {name.removeprefix("wheels/") for name in contents(made.path) if name.startswith("wheels/")}
    assert carried == {wheel.name(), "Typer-1.0-py3-none-any.whl", *(f"{name}-1.0-py3-none-any.whl" for name in names)}


def test_an_encoder_and_an_aggregator_are_not_packed_for_tensorrt(artifact, tmp_path):
    parts = [msgspec.structs.replace(artifact.manifest.graphs[0], role=role) for role in ("encoder", "aggregator")]
    two = Artifact(artifact.path, msgspec.structs.replace(artifact.manifest, graphs=tuple(parts)), artifact.digest)
    with pytest.raises(ExportError, match=f"run on ONNX Runtime, {TARGET} runs TensorRT: export one graph"):
        pack.write(two, resolve(TARGET), tmp_path / "b.tar.gz")


def test_a_graph_for_another_device_or_release_is_refused(make_onnx_artifact, artifact, tmp_path):
    out = tmp_path / "b.tar.gz"
    with pytest.raises(ExportError, match=f"its graph is for {TARGET} at opset 18, rtx-3090"):
        pack.write(artifact, resolve("rtx-3090"), out)
    with pytest.raises(ExportError, match=r"takes opset 20: export it with --target jetson-orin-nano@7\.2"):
        pack.write(artifact, resolve(f"{TARGET}@7.2"), out)
    with pytest.raises(ArtifactError, match="expected a onnx"):
        pack.write(make_onnx_artifact("checkpoint", kind="checkpoint"), resolve(TARGET), out)
    out.touch()
    with pytest.raises(ArtifactError, match="exists already"):
        pack.write(artifact, resolve(TARGET), out)


@pytest.mark.slow
def test_an_installed_wheel_packs_the_same_bundle(artifact, tmp_path):
    here = pack.write(artifact, resolve(TARGET), tmp_path / "here.tar.gz")
    (tmp_path / wheel.name()).write_bytes(wheel.build())
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*command, str(tmp_path / wheel.name())], check=True, capture_output=True, timeout=300)
    command = [sys.executable, "-m", "edgedet", "bundle", str(artifact.path), "--target", TARGET, "--out", "there.tar.gz"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, check=True, timeout=300)
    assert inspect(tmp_path / "there.tar.gz").digest == here.digest
