"""Distillation as a stage: a teacher and a student's recipe in, the student's checkpoint out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import Ancestor, Artifact, DetectorSpec, Gate, Manifest
from edgedet.compress.distillation import Distillation, require_answers
from edgedet.compress.ensemble import besides, consult, require_ensemble, require_fit
from edgedet.compress.patches import listener
from edgedet.data.index import Index
from edgedet.evaluate.assess import inherited, require_assessable
from edgedet.models.pixels import PixelModel
from edgedet.recipe import Config
from edgedet.training import stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import group


class DistillRecipe(Config, frozen=True, kw_only=True):
    """``stage = "distill"``: which student, trained how, and how much it listens to its teacher.

    detector: which network.
    preprocess: changes to the detector's published input, key by key.
    training: how it is trained; of the augmentations none that moves pixels, mirroring left to right apart, because the teacher
        was asked about nothing else. Images may be degraded, recoloured or partly hidden.
    distillation: how much it listens.
    gates: what the artifact and all its descendants must hold, besides the teacher's.
    """

    stage: Literal["distill"]
    detector: DetectorSpec
    preprocess: dict[str, Any] = {}
    training: TrainingConfig = TrainingConfig()
    distillation: Distillation = Distillation()
    gates: tuple[Gate, ...] = ()


def run(
    config: DistillRecipe,
    parent: Artifact,
    data: Index,
    out: Path,
    *,
    others: Sequence[Artifact] = (),
    resume: bool = False,
) -> Artifact:
    """Train a student on the labels and on the answers of the teacher `parent`, as ``config.distillation`` weighs them.

    others: more teachers, whose logits are averaged with the parent's. What the student is compared with is the parent.

    Raises:
        DataError: a training image without a label, where nothing is learned of the teacher.
        ModelError: patches or attention are to be learned, and student or teacher has none, or they do not fit.
        ArtifactError: `out` exists, or a teacher is no checkpoint.
        TrainingError: the augmentation moves pixels or hides patches that the teacher was asked about, patches or
            attention are to be learned of pixels that the teacher does not see, a teacher is given twice, or an unfinished run
            lies beside `out` and `resume` is not set.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    artifacts.check_free(out)
    stage.check_unfinished(out, resume=resume)
    teachers = (parent, *others)
    require_ensemble(teachers, config.distillation)
    require_answers(config.training, config.distillation)
    require_assessable(inherited(parent, config.gates), data)
    preprocess = stage.adjusted(models.lookup(config.detector.name).preprocess, config.preprocess)
    torch.manual_seed(config.training.seed)
    student = PixelModel(models.create(config.detector), preprocess)
    require_fit(teachers, student, config.detector.name, config.distillation)
    train = data.split("train")
    if not config.distillation.teaches:
        _ = train.labels  # an image without one is refused before an hour is spent on asking
    with group() as processes:
        answers = processes.leader_first(lambda: consult(teachers, train, config.distillation, amp=config.training.amp))
        sets = stage.open_sets(data, preprocess, config.training, processes)
        torch.manual_seed(config.training.seed)  # asking the teacher may have drawn
        objective = listener(student, config.detector.name, answers, config.training, config.distillation)
        subject = stage.subject_of(config.detector, preprocess)
        result = stage.train(objective, config.training, sets, out, processes, resume=resume, title="distill", subject=subject)
        if processes.leads:
            extra = {"best_epoch": result.best_epoch}
            manifest = _manifest(config, parent, besides(parent, others), student)
            stage.write(out, stage.Written(manifest, student, parent.golden.images, parent, extra), data)
        processes.barrier()
    return Artifact.load(out)


def _manifest(config: DistillRecipe, teacher: Artifact, others: tuple[Ancestor, ...], student: PixelModel) -> Manifest:
    return Manifest(
        kind="checkpoint",
        stage="distill",
        detector=config.detector,
        preprocess=student.preprocess,
        gates=inherited(teacher, config.gates),
        seed=config.training.seed,
        config=msgspec.to_builtins(config),
        lineage=teacher.lineage_for_child(),
        teachers=others,
        tools=artifacts.tool_versions("torch", "torchvision", "timm"),
    )
