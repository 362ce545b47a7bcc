"""Packing a bundle, where the artifact was made; `edgedet.export.bundle` says what is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

import edgedet
from edgedet import recipe
from edgedet.artifact import MANIFEST as ARTIFACT_MANIFEST
from edgedet.artifact import Artifact, check_free, sha256_of
from edgedet.data.index import Index
from edgedet.data.store import partial
from edgedet.errors import ArtifactError, ExportError
from edgedet.export import wheel
from edgedet.export.bundle import (
    ALTERNATIVE,
    ARTIFACT,
    DOCKERFILE,
    FOLDER,
    INDEX,
    INSTALLER,
    MANIFEST,
    SAMPLE,
    UNIT,
    WHEELS,
    Bundle,
    Packed,
    Sample,
    inspect,
    logits_of,
)
from edgedet.quantize.sample import stratified
from edgedet.target import Target

Content = Path | bytes


def write(
    artifact: Artifact, target: Target, out: Path, *, sample: Index | None = None, wheels: Path | None = None
) -> Packed:
    """Write the bundle of `artifact` at `out`.

    sample: images to test with on the device; see :func:`sample_of`.
    wheels: a folder with the wheels of everything that edgedet needs there; else the device takes them from its index.

    Raises:
        ExportError: the artifact was made for another target, or a wheel is missing.
        ArtifactError: it is no ONNX artifact, or `out` exists or cannot be written.
    """
    check_free(out)
    _require(artifact, target)
    contents: dict[str, Content] = {f"{ARTIFACT}/{name}": artifact.path / name for name in artifact.manifest.files}
    contents[f"{ARTIFACT}/{ARTIFACT_MANIFEST}"] = artifact.path / ARTIFACT_MANIFEST
    contents |= _device_files(target) | _requirements()
    contents[f"{WHEELS}/{wheel.name()}"] = wheel.build()
    if wheels is not None:
        contents |= _wheels(wheels, target)
    kept = None
    if sample is not None:
        kept = Sample(split=sample.rows[0].split, n=len(sample), logits=tuple(logits_of(artifact, sample).tolist()))
        contents |= _images(sample)
    bundle = Bundle(
        edgedet=edgedet.__version__,
        target=target,
        detector=artifact.manifest.detector.name,
        artifact=artifact.digest,
        offline=wheels is not None,
        sample=kept,
        files={name: _digest(contents[name]) for name in sorted(contents)},
    )
    _pack(out, {MANIFEST: msgspec.json.format(msgspec.json.encode(bundle), indent=1) + b"\n", **contents})
    return inspect(out)


def sample_of(data: Index, count: int) -> Index:
    """At most `count` images of the validation split, in equal shares by label, generator and file format.

    Raises:
        DataError: there is no such split.
    """
    return stratified(data.split("val"), count)


def _require(artifact: Artifact, target: Target) -> None:
    artifact.require("onnx")
    if artifact.is_patchwise and target.runtime == "tensorrt":
        raise ExportError(
            f"{artifact.path}: an encoder and an aggregator run on ONNX Runtime, {target.name} runs TensorRT: "
            "export one graph of its checkpoint, for images of one size"
        )
    named = f"{target.name}@{target.system.split()[-1]}" if target.system else target.name
    for graph in artifact.manifest.graphs:
        if graph.target != target.name or graph.opset != target.opset:
            raise ExportError(
                f"{artifact.path}: its graph is for {graph.target} at opset {graph.opset}, {named} takes opset {target.opset}: "
                f"export it with --target {named}"
            )


def _device_files(target: Target) -> dict[str, Content]:
    """The installer, the unit that serves, and for a board with JetPack what makes a container."""
    folder = recipe.folder_of("export") / "jetson"
    has_jetpack = any(release.startswith("JetPack") for release in target.tensorrt)
    return {name: folder / name for name in (INSTALLER, UNIT, *((DOCKERFILE,) if has_jetpack else ()))}


def _requirements() -> dict[str, Content]:
    def lines(alternative: bool) -> bytes:
        chosen = (line for line in wheel.requirements() if (_package(line) == ALTERNATIVE) == alternative)
        return "".join(f"{line}\n" for line in chosen).encode()

    serving = "".join(f"{line}\n" for line in wheel.requirements("serve")).encode()
    return {
        "requirements.txt": lines(False),
        f"requirements-{ALTERNATIVE}.txt": lines(True),
        "requirements-serve.txt": serving,
    }


def _wheels(folder: Path, target: Target) -> dict[str, Content]:
    """Every wheel of `folder`, once the core's own needs are among them, also those of a Python that is not this one."""
    paths = {path.name: path for path in sorted(folder.glob("*.whl")) if _package(path.name) != "edgedet"}
    there = {_package(name) for name in paths}
    needed = {_package(line) for line in wheel.requirements()}
    missing = sorted(needed - there - ({ALTERNATIVE} if target.runtime != ALTERNATIVE else set()))
    if missing:
        raise ExportError(
            f"{folder}: has no wheel of {', '.join(missing)}: fill it with `pip download --only-binary :all: --dest {folder}` "
            "and the device's --platform and --python-version"
        )
    return {f"{WHEELS}/{name}": path for name, path in paths.items()}


def _package(text: str) -> str:
    """The package that a requirement or the name of a wheel begins with, in its normal form (PEP 503)."""
    name = text.partition("-")[0] if text.endswith(".whl") else re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _images(sample: Index) -> dict[str, Content]:
    """The images as they are, under names of their own, and their index."""
    names = [f"images/{number:05d}{Path(row.path).suffix.lower()}" for number, row in enumerate(sample.rows)]
    rows = tuple(msgspec.structs.replace(row, path=name) for row, name in zip(sample.rows, names, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        Index(Path(folder), rows).save(Path(folder) / INDEX)
        index = (Path(folder) / INDEX).read_bytes()
    images = {f"{SAMPLE}/{name}": sample.read(position) for position, name in enumerate(names)}
    return {f"{SAMPLE}/{INDEX}": index, **images}


def _pack(out: Path, contents: Mapping[str, Content]) -> None:
    """A tar with one folder, compressed; no time, no owner, `contents` sorted but for the first."""
    temporary = partial(out)
    first, *others = contents
    try:
        with (
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in (first, *sorted(others)):
                content = contents[name]
                data = content.read_bytes() if isinstance(content, Path) else content
                entry = tarfile.TarInfo(f"{FOLDER}/{name}")
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
        temporary.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out}: the bundle cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _digest(content: Content) -> str:
    return sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
