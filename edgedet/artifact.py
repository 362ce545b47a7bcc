"""The artifact: the one thing that travels between stages and to the device.

A folder with a manifest and the files that it lists by sha256. Never a pickle: weights are safetensors, everything else is
JSON, ONNX or npz. A stage writes its artifact to a temporary folder and renames it, so a half-written one is never seen::

    with artifact.writing(out) as draft:
        (draft.path / "model.onnx").write_bytes(graph)
        draft.manifest = Manifest(...)
    child = Artifact.load(out)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.errors import ArtifactError, DigestMismatch
from edgedet.preprocess import Preprocess
from edgedet.recipe import Config

SCHEMA = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.npz"

Kind = Literal["checkpoint", "onnx", "engine"]
Figures = dict[str, Any]
"""Measured figures as plain data: ``{"balanced_accuracy": {"value": .97, "low": .96, "high": .98, "n": 1000}, ...}``."""


class DetectorSpec(Config, frozen=True, kw_only=True):
    """Which builder made the network, and with what arguments."""

    name: str
    arguments: dict[str, Any] = {}


class Calibration(Config, frozen=True, kw_only=True):
    """From logit to verdict: ``score = sigmoid((logit + bias) / temperature)``; fake when ``score >= threshold``.

    thresholds: by operating point (``half``, ``balanced``, ``fpr1``, ``fpr5``), on the score.
    operating_point: the one that a verdict uses when nothing else is asked for.
    fitted_on: the digest of the validation index, None before any fit.
    """

    temperature: float = 1.0
    bias: float = 0.0
    thresholds: dict[str, float] = msgspec.field(default_factory=lambda: {"half": 0.5})
    operating_point: str = "half"
    fitted_on: str | None = None
    n: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}")
        if self.operating_point not in self.thresholds:
            raise ValueError(f"no threshold for operating point `{self.operating_point}`")

    def score(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Probabilities of fake, float64, of the shape of `logits`."""
        z = (np.asarray(logits, dtype=np.float64) + self.bias) / self.temperature
        return np.asarray(np.exp(-np.logaddexp(0.0, -z)), dtype=np.float64)

    @property
    def threshold(self) -> float:
        """The score from which a verdict is fake, at the default operating point."""
        return self.thresholds[self.operating_point]

    def verdict(self, logits: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """True where the verdict is fake."""
        return np.asarray(self.score(logits) >= self.threshold, dtype=np.bool_)


class Gate(Config, frozen=True, kw_only=True):
    """One condition that an artifact and all its descendants must hold; see `edgedet.evaluate.gates`.

    metric: a name of `edgedet.metrics`, or ``flip_rate`` (verdicts that differ from the other's, same image).
    against: the artifact that the figures are compared with, or ``absolute`` for the figure itself.
    max_drop: how much lower than the other's the metric may be (its upper confidence bound).
    max_value: the most the metric may be (``flip_rate``; its upper confidence bound).
    min_value: the least the metric may be (its lower confidence bound).
    scope: over all images, or for the generator that fares worst.
    condition: ``clean``, or the name of a degradation of `edgedet.evaluate.degrade`.
    """

    metric: Literal["balanced_accuracy", "auc", "tpr_at_fpr1", "tpr_at_fpr5", "flip_rate"]
    against: Literal["parent", "ancestor", "absolute"] = "ancestor"
    scope: Literal["overall", "worst_generator"] = "overall"
    condition: str = "clean"
    max_drop: float | None = None
    max_value: float | None = None
    min_value: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("max_drop", "max_value", "min_value") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a gate has one of `max_drop`, `max_value`, `min_value`, got {given or 'none'}")
        if (self.max_drop is not None) == (self.against == "absolute"):
            raise ValueError("`max_drop` compares with `parent` or `ancestor`; the others are for `absolute` figures")
        if self.metric == "flip_rate" and (self.max_value is None or self.against != "absolute"):
            raise ValueError("`flip_rate` takes `max_value` and `against = \"absolute\"`: it is a comparison by itself")


class Graph(Config, frozen=True, kw_only=True):
    """One ONNX graph or engine of the artifact."""

    file: str
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    opset: int | None = None
    precision: str = "fp32"
    target: str | None = None


class Ancestor(Config, frozen=True, kw_only=True):
    """One line of the lineage."""

    digest: str
    stage: str
    kind: Kind
    name: str


class Manifest(Config, frozen=True, kw_only=True):
    """Everything that is known of an artifact; ``manifest.json``."""

    schema: int = SCHEMA
    kind: Kind
    stage: str
    detector: DetectorSpec
    structure: dict[str, list[int]] = {}
    preprocess: Preprocess
    labels: tuple[str, str] = ("real", "fake")
    calibration: Calibration = Calibration()
    gates: tuple[Gate, ...] = ()
    metrics: Figures = {}
    notes: tuple[str, ...] = ()
    seed: int | None = None
    config: dict[str, Any] = {}
    lineage: tuple[Ancestor, ...] = ()
    graphs: tuple[Graph, ...] = ()
    tools: dict[str, str] = {}
    files: dict[str, str] = {}

    @property
    def parent(self) -> Ancestor | None:
        """The artifact that this one was made from; the lineage runs from the first ancestor to the parent."""
        return self.lineage[-1] if self.lineage else None


@dataclass(frozen=True)
class Golden:
    """Sixteen photographs that parity is checked on, also on the device.

    images: encoded files; pixels: uint8 (N, H, W, 3) after the artifact's preprocessing;
    parent_logits, logits: float32 (N,).
    """

    images: tuple[bytes, ...]
    pixels: npt.NDArray[np.uint8]
    parent_logits: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Write an npz without pickled objects: the images are one byte string and their offsets."""
        offsets = np.cumsum([0, *(len(image) for image in self.images)])
        np.savez(
            path,
            images=np.frombuffer(b"".join(self.images), dtype=np.uint8),
            offsets=offsets,
            pixels=self.pixels,
            parent_logits=self.parent_logits.astype(np.float32),
            logits=self.logits.astype(np.float32),
        )

    @classmethod
    def load(cls, path: Path) -> Golden:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: the file is missing or not of that form.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                data, ends = file["images"].tobytes(), file["offsets"].tolist()
                images = tuple(data[start:end] for start, end in itertools.pairwise(ends))
                return cls(images, file["pixels"], file["parent_logits"], file["logits"])
        except (OSError, KeyError, ValueError) as error:
            raise ArtifactError(f"{path}: no golden inputs can be read from it: {error}") from error


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk; its `digest` is the sha256 of its manifest, which lists the sha256 of every file."""

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Artifact:
        """Read the manifest below `path` and, unless told not to, check every file against it.

        Raises:
            ArtifactError: no artifact, or one of another schema.
            DigestMismatch: a file is missing or is not the one that was written.
        """
        folder = Path(path)
        try:
            raw = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"{folder}: not an artifact: no {MANIFEST} can be read there ({error.strerror}); "
                "give the folder that a stage wrote with --out"
            ) from error
        artifact = cls(folder, _parse_manifest(raw, folder), hashlib.sha256(raw).hexdigest())
        if verify:
            artifact.verify()
        return artifact

    def verify(self) -> None:
        """Re-hash every file.

        Raises:
            DigestMismatch: names the first file that is missing or changed.
        """
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise DigestMismatch(f"{self.path}: {name} is missing: make the artifact again or copy it whole")
            found = sha256_of(file)
            if found != expected:
                raise DigestMismatch(
                    f"{self.path}: {name} has sha256 {found[:12]}..., the manifest says {expected[:12]}...: "
                    "the file was changed after it was written; make the artifact again"
                )

    def file(self, name: str) -> Path:
        """The path of a listed file.

        Raises:
            ArtifactError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise ArtifactError(f"{self.path}: has no {name}; its files are {', '.join(sorted(self.manifest.files))}")
        return self.path / name

    @property
    def golden(self) -> Golden:
        """The golden inputs."""
        return Golden.load(self.file(GOLDEN))

    @property
    def graph(self) -> Path:
        """The one ONNX graph or engine.

        Raises:
            ArtifactError: a checkpoint has none.
        """
        if not self.manifest.graphs:
            raise ArtifactError(
                f"{self.path}: a {self.manifest.kind} has no graph to run: `edgedet export` makes one from it"
            )
        return self.file(self.manifest.graphs[0].file)

    @property
    def model_bytes(self) -> int:
        """The size in bytes of what a device needs to run: the weights, or all graphs."""
        names = [graph.file for graph in self.manifest.graphs] or [WEIGHTS]
        return sum(self.file(name).stat().st_size for name in names)

    def as_ancestor(self) -> Ancestor:
        """This artifact as a line of its children's lineage."""
        return Ancestor(digest=self.digest, stage=self.manifest.stage, kind=self.manifest.kind, name=self.path.name)

    def lineage_for_child(self) -> tuple[Ancestor, ...]:
        """The lineage of an artifact made from this one."""
        return (*self.manifest.lineage, self.as_ancestor())

    def require(self, kind: Kind) -> None:
        """Refuse an artifact of another kind.

        Raises:
            ArtifactError: says which kind came and which stage makes the right one.
        """
        if self.manifest.kind != kind:
            maker = {"checkpoint": "train, distill, prune or qat", "onnx": "export", "engine": "export on the device"}
            raise ArtifactError(
                f"{self.path}: expected a {kind} (made by {maker[kind]}), got a {self.manifest.kind} "
                f"(made by {self.manifest.stage})"
            )


@dataclass
class Draft:
    """An artifact that is being written: put files below `path` and set `manifest`."""

    path: Path
    manifest: Manifest | None = None

    def preview(self) -> Artifact:
        """What is there so far as an artifact that can be loaded and run, before its figures are known.

        Raises:
            ArtifactError: the stage has set no manifest yet.
        """
        if self.manifest is None:
            raise ArtifactError(f"{self.path}: the stage set no manifest")
        complete = msgspec.structs.replace(self.manifest, files=_hashes(self.path))
        return Artifact(self.path, complete, hashlib.sha256(msgspec.json.encode(complete)).hexdigest())


@contextlib.contextmanager
def writing(out: str | os.PathLike[str]) -> Iterator[Draft]:
    """Write an artifact at `out` in one step: a temporary folder beside it, then one rename.

    Raises:
        ArtifactError: `out` exists, cannot be written, or the disk is full; nothing is left behind.
    """
    target = Path(out)
    check_free(target)
    temporary = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        draft = Draft(temporary)
        yield draft
        if draft.manifest is None:
            raise ArtifactError(f"{target}: the stage set no manifest")
        _finish(draft.manifest, temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOTEMPTY):
            raise ArtifactError(f"{target}: cannot be written: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: str | os.PathLike[str]) -> None:
    """Refuse to write over something, before the work starts.

    Raises:
        ArtifactError: `out` exists.
    """
    if Path(out).exists() or Path(out).is_symlink():
        raise ArtifactError(f"{out}: exists already; remove it or give another --out")


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tool_versions(*extra: str) -> dict[str, str]:
    """Versions of edgedet, Python, the platform and the installed ones among the packages that decide results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("edgedet", "numpy", "pillow", "onnxruntime", *extra):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _parse_manifest(raw: bytes, folder: Path) -> Manifest:
    try:
        schema = msgspec.json.decode(raw).get("schema")
    except (msgspec.DecodeError, AttributeError) as error:
        raise ArtifactError(f"{folder}: {MANIFEST} is not valid JSON: {error}") from error
    if schema != SCHEMA:
        raise ArtifactError(
            f"{folder}: manifest schema {schema!r}, this edgedet reads {SCHEMA}: use the edgedet that wrote it"
        )
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.ValidationError as error:
        raise ArtifactError(f"{folder}: {MANIFEST} is damaged: {error}") from error
    for name in manifest.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder}: {MANIFEST} lists {name!r}, which is outside the artifact")
    return manifest


def _finish(manifest: Manifest, folder: Path) -> None:
    """Hash every file into the manifest and write it, flushed to disk before the rename."""
    complete = msgspec.structs.replace(manifest, files=_hashes(folder))
    with (folder / MANIFEST).open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: sha256_of(folder / name) for name in names if name != MANIFEST}
