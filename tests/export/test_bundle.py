"""The bundle as a file: nothing in it can be changed unseen, whoever reads it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bundle import TARGET, exported, labelled

from edgedet.errors import ArtifactError, DigestMismatch
from edgedet.export import bundle as bundles
from edgedet.export import pack
from edgedet.target import resolve

Contents = dict[str, bytes]


@pytest.fixture
def packed(make_onnx_artifact, tmp_path):
    artifact = exported(make_onnx_artifact(), tmp_path / "int8")
    return pack.write(artifact, resolve(TARGET), tmp_path / "b.tar.gz", sample=labelled(tmp_path / "data"))


def rewritten(path: Path, change: Callable[[Contents], object]) -> Path:
    """The same bundle after `change` of what is in it."""
    with tarfile.open(path) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}
    change(contents)
    out = path.with_name("changed.tar.gz")
    with tarfile.open(out, "w:gz") as tar:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out


def unpacked(path: Path, out: Path) -> Path:
    with tarfile.open(path) as tar:
        tar.extractall(out, filter="data")
    return out / bundles.FOLDER


def test_what_was_written_is_read_in_the_file_and_unpacked(packed, tmp_path):
    assert bundles.inspect(packed.path) == packed
    assert bundles.load(unpacked(packed.path, tmp_path / "there")) == packed.bundle
    assert packed.installer.startswith(b"#!/bin/sh\n")


CHANGES = {
    "was changed": lambda files: files.update({"edgedet-bundle/artifact/model.onnx": b"other"}),
    "is missing": lambda files: files.pop("edgedet-bundle/artifact/golden.npz"),
    "was added": lambda files: files.update({"edgedet-bundle/wheels/other.whl": b""}),
    "does not belong into a bundle": lambda files: files.update({"elsewhere": b""}),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_bundle_that_was_tampered_with_is_refused(packed, words):
    with pytest.raises(DigestMismatch, match=words):
        bundles.inspect(rewritten(packed.path, CHANGES[words]))


@pytest.mark.parametrize("name", ["../outside", "/outside", "edgedet-bundle/../../outside"])
def test_nothing_in_it_reaches_outside(packed, name):
    with pytest.raises(DigestMismatch, match="does not belong into a bundle"):
        bundles.inspect(rewritten(packed.path, lambda files: files.update({name: b""})))


def test_an_installed_bundle_that_was_tampered_with_is_refused(packed, tmp_path):
    folder = unpacked(packed.path, tmp_path / "there")
    graph = folder / "artifact/model.onnx"
    was = graph.read_bytes()
    graph.write_bytes(was + b"\0")
    with pytest.raises(DigestMismatch, match=r"artifact/model\.onnx was changed"):
        bundles.load(folder)
    graph.unlink()
    (tmp_path / "model.onnx").write_bytes(was)
    graph.symlink_to(tmp_path / "model.onnx")
    with pytest.raises(DigestMismatch, match=r"artifact/model\.onnx was changed"):
        bundles.load(folder)


def test_what_is_no_bundle_is_refused(packed, tmp_path):
    (tmp_path / "text.tar.gz").write_text("no archive")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(packed.path.read_bytes()[:-2000])
    for path in (tmp_path / "text.tar.gz", cut, tmp_path / "nowhere.tar.gz"):
        with pytest.raises(ArtifactError, match="cannot be read as a bundle"):
            bundles.inspect(path)
    with pytest.raises(ArtifactError, match=r"bundle\.json is missing or not of schema"):
        bundles.inspect(rewritten(packed.path, lambda files: files.pop("edgedet-bundle/bundle.json")))
    with pytest.raises(ArtifactError, match="no bundle can be read there"):
        bundles.load(tmp_path)
