"""The bundle: one file with everything that a device needs, and the list of digests that it is held against.

::

    edgedet-bundle/
      bundle.json                   the target, the sample's logits, and the sha256 of every other file
      install.sh                    what installs it; Dockerfile for a board with JetPack
      edgedet.service               a unit for systemd that serves it
      artifact/                     the exported artifact: manifest, graph, golden inputs
      wheels/                       the edgedet that made it; with `wheels`, all that it needs as well
      requirements*.txt             what it needs; ONNX Runtime apart, which stands in for TensorRT when it is asked for, and
                                    what serving takes
      sample/                       labelled images of the validation split, when there are any

The bytes depend on the contents only. Nothing is trusted on the way: who copies it, who installs it and who tests it each hash
every file again.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact, sha256_of
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, DigestMismatch
from edgedet.evaluate.logits import pixels_of
from edgedet.recipe import Config
from edgedet.runtime.detector import Detector
from edgedet.target import Target

SCHEMA = 1
FOLDER = "edgedet-bundle"
MANIFEST, INSTALLER, DOCKERFILE, UNIT = "bundle.json", "install.sh", "Dockerfile", "edgedet.service"
ARTIFACT, SAMPLE, WHEELS = "artifact", "sample", "wheels"
INDEX = "index.csv"
ALTERNATIVE = "onnxruntime"
"""The runtime that can stand in for another, and the package that only it needs."""


class Sample(Config, frozen=True, kw_only=True):
    """The images that travel along: how many of which split, and the graph's logits where it was made, one an image."""

    split: str
    n: int
    logits: tuple[float, ...]


class Bundle(Config, frozen=True, kw_only=True):
    """``bundle.json``. artifact: its digest. offline: every wheel is in it. files: the sha256 of everything else."""

    schema: int = SCHEMA
    edgedet: str
    target: Target
    detector: str
    artifact: str
    offline: bool
    sample: Sample | None = None
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Packed:
    """A bundle in its file, whole: `digest` is the file's sha256, `installer` the script in it."""

    path: Path
    bundle: Bundle
    digest: str
    installer: bytes


def inspect(path: Path) -> Packed:
    """Read a bundle's file and hash everything in it; nothing is unpacked.

    Raises:
        ArtifactError: not a bundle, or damaged.
        DigestMismatch: a file in it is missing, added or changed.
    """
    found: dict[str, str] = {}
    kept = {MANIFEST: b"", INSTALLER: b""}
    for name, content in _members(path):
        found[name] = hashlib.sha256(content).hexdigest()
        if name in kept:
            kept[name] = content
    bundle = _parse(kept[MANIFEST], path)
    _compare(path, bundle, found)
    return Packed(path, bundle, sha256_of(path), kept[INSTALLER])


def load(folder: Path) -> Bundle:
    """Read the bundle that was unpacked at `folder` and hash everything in it.

    Raises:
        ArtifactError: not a bundle.
        DigestMismatch: a file in it is missing, added or changed.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        found = {path.relative_to(folder).as_posix(): "" if path.is_symlink() else sha256_of(path) for path in paths}
    except OSError as error:
        raise ArtifactError(f"{folder}: no bundle can be read there: {error}; give the folder it is installed in") from error
    bundle = _parse(raw, folder)
    _compare(folder, bundle, found)
    return bundle


def logits_of(subject: Artifact | Detector, sample: Index) -> npt.NDArray[np.float32]:
    """The logits (N,) of a small index, one image a call and nothing kept: the same here and on the device."""
    detector = Detector.load(subject, spin=False) if isinstance(subject, Artifact) else subject
    try:
        parts = [detector.logits(pixels[None]) for pixels in pixels_of(sample, detector.preprocess)]
    finally:
        if isinstance(subject, Artifact):
            detector.close()
    return np.concatenate([np.empty(0, np.float32), *parts])


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name below the bundle's folder and content of every file, each once."""
    seen: set[PurePosixPath] = set()
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                inside = PurePosixPath(member.name)
                if content is None or inside.parts[:1] != (FOLDER,) or ".." in inside.parts or inside in seen:
                    raise DigestMismatch(f"{path}: refused: {member.name!r} does not belong into a bundle")
                seen.add(inside)
                yield inside.relative_to(FOLDER).as_posix(), content.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read as a bundle: {error or 'it is cut off'}; make it again") from error


def _parse(raw: bytes, where: Path) -> Bundle:
    try:
        return msgspec.json.decode(raw, type=Bundle)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{where}: its {MANIFEST} is missing or not of schema {SCHEMA}: {error}") from error


def _compare(where: Path, bundle: Bundle, found: Mapping[str, str]) -> None:
    given = {name: digest for name, digest in found.items() if name != MANIFEST}
    for name in sorted({*given, *bundle.files}):
        if given.get(name) == bundle.files.get(name):
            continue
        what = "is missing" if name not in given else "was changed" if name in bundle.files else "was added"
        raise DigestMismatch(f"{where}: refused: {name} {what} after the bundle was made; make it again or copy it again")
