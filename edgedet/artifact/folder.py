"""An artifact on disk: a folder that is read, checked against its digests, and refused when a byte has changed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from edgedet.artifact.golden import GOLDEN, Golden
from edgedet.artifact.manifest import MANIFEST, Ancestor, Kind, Manifest, Role, parse_manifest
from edgedet.errors import ArtifactError, DigestMismatch

WEIGHTS = "weights.safetensors"


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
        artifact = cls(folder, parse_manifest(raw, folder), hashlib.sha256(raw).hexdigest())
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
            ArtifactError: a checkpoint has none, a detector that reads patches has two.
        """
        return self.graph_of("whole")

    def graph_of(self, role: Role) -> Path:
        """The ONNX graph or engine of that role.

        Raises:
            ArtifactError: a checkpoint has none, others may not have this one.
        """
        graphs = {graph.role: graph.file for graph in self.manifest.graphs}
        if not graphs:
            raise ArtifactError(f"{self.path}: a {self.manifest.kind} has no graph to run: `edgedet export` makes one from it")
        if role not in graphs:
            raise ArtifactError(f"{self.path}: its graphs are {' and '.join(sorted(graphs))}, expected {role}")
        return self.file(graphs[role])

    @property
    def is_patchwise(self) -> bool:
        """Whether it has an encoder of patches and an aggregator, instead of one graph or none."""
        return sorted(graph.role for graph in self.manifest.graphs) == ["aggregator", "encoder"]

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


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
