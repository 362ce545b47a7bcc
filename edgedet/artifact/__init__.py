"""The artifact: the one thing that travels between stages and to the device.

A folder with a manifest and the files that it lists by sha256. Never a pickle: weights are safetensors, everything else is
JSON, ONNX or npz. A stage writes its artifact to a temporary folder and renames it, so a half-written one is never seen::

    with artifact.writing(out) as draft:
        (draft.path / "model.onnx").write_bytes(graph)
        draft.manifest = Manifest(...)
    child = Artifact.load(out)
"""

from __future__ import annotations

from edgedet.artifact.draft import Draft, check_free, tool_versions, writing
from edgedet.artifact.folder import WEIGHTS, Artifact, sha256_of
from edgedet.artifact.golden import GOLDEN, Golden
from edgedet.artifact.manifest import (
    MANIFEST,
    SCHEMA,
    Ancestor,
    Built,
    Calibration,
    DetectorSpec,
    Figures,
    Gate,
    Graph,
    Kind,
    Manifest,
    Role,
)

__all__ = [
    "GOLDEN",
    "MANIFEST",
    "SCHEMA",
    "WEIGHTS",
    "Ancestor",
    "Artifact",
    "Built",
    "Calibration",
    "DetectorSpec",
    "Draft",
    "Figures",
    "Gate",
    "Golden",
    "Graph",
    "Kind",
    "Manifest",
    "Role",
    "check_free",
    "sha256_of",
    "tool_versions",
    "writing",
]
