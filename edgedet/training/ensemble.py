"""Trained detectors as one: checkpoints in, the checkpoint of their mean out. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, Gate, Manifest
from edgedet.data.index import Index
from edgedet.errors import ModelError, TrainingError
from edgedet.evaluate.assess import inherited
from edgedet.models.ensemble import Ensemble
from edgedet.models.pixels import PixelModel
from edgedet.training import stage

TOLERANCE = 1e-4
"""Of the largest logit: by how much the ensemble may differ from the mean of its members on golden images."""


def run(members: Sequence[Artifact], data: Index, out: Path) -> Artifact:
    """The mean of the members' logits as one detector, with its own calibration; it holds all their gates.

    Raises:
        ArtifactError: `out` exists, or a member is no checkpoint.
        ModelError: a member cannot be one; says why.
        TrainingError: fewer than two members, one that is given twice, or members that see different pixels.
    """
    artifacts.check_free(out)
    _require(members)
    nets = [models.build(member) for member in members]
    specs = [member.manifest.detector for member in members]
    golden = members[0].golden
    pixels = torch.from_numpy(golden.pixels)
    with torch.inference_mode():
        mean = torch.stack([net(pixels) for net in nets]).mean(0)
    try:
        ensemble = Ensemble([net.net for net in nets], [models.lookup(spec.name).classifier for spec in specs])
    except ValueError as error:
        raise ModelError(str(error)) from error
    together = PixelModel(ensemble, members[0].manifest.preprocess).eval()
    _require_mean(together, pixels, mean)
    gates: tuple[Gate, ...] = ()
    for member in members:
        gates = inherited(member, gates)
    manifest = _manifest(members, specs, together, gates)
    stage.write(out, stage.Written(manifest, together, golden.images, None, {}), data)
    return Artifact.load(out)


def _require(members: Sequence[Artifact]) -> None:
    if len(members) < 2:
        raise TrainingError(f"an ensemble has two members or more, got {len(members)}")
    first = members[0].manifest.preprocess
    for member in members:
        member.require("checkpoint")
        if sum(other.digest == member.digest for other in members) > 1:
            raise TrainingError(f"{member.path}: is given twice: give every member once")
        if member.manifest.preprocess != first:
            raise TrainingError(
                f"{member.path}: sees {member.manifest.preprocess}, {members[0].path} sees {first}: the members of an ensemble "
                "see the same pixels; train them with the same `preprocess`"
            )


def _require_mean(together: PixelModel, pixels: torch.Tensor, mean: torch.Tensor) -> None:
    with torch.inference_mode():
        error = float((together(pixels) - mean).abs().max() / mean.abs().max().clamp(min=1))
    if error > TOLERANCE:
        raise ModelError(
            f"the ensemble's logits differ from the mean of its members' by {error:.2g} of the largest: one of them does "
            "something with the output of its classifier, and cannot be a member"
        )


def _manifest(
    members: Sequence[Artifact], specs: Sequence[DetectorSpec], together: PixelModel, gates: tuple[Gate, ...]
) -> Manifest:
    built = [msgspec.to_builtins(models.fresh(spec)) for spec in specs]
    detector = DetectorSpec(name=models.ENSEMBLE, arguments={"members": built})
    return Manifest(
        kind="checkpoint",
        stage="ensemble",
        detector=detector,
        structure=stage.structure_of(together, detector),
        preprocess=together.preprocess,
        gates=gates,
        config={"members": [msgspec.to_builtins(member.as_ancestor()) for member in members]},
        teachers=tuple(member.as_ancestor() for member in members),
        tools=artifacts.tool_versions("torch", "torchvision", "timm"),
    )
