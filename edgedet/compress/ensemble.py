"""Several teachers as one: the mean of what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgedet import models
from edgedet.artifact import Ancestor, Artifact
from edgedet.compress.distillation import Distillation
from edgedet.compress.patches import require_same_places
from edgedet.compress.teacher import Answers, ask, features_of
from edgedet.data.cache import same_pixels
from edgedet.data.index import Index
from edgedet.errors import ModelError, TrainingError
from edgedet.models.patches import grid_of
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess


def consult(teachers: Sequence[Artifact], data: Index, distillation: Distillation, *, amp: bool = True) -> Answers:
    """The answers of `teachers` for the training images `data` as those of one: the weighted mean of their logits, and of their
    patches' where these are learned. Embeddings and attention are the first one's.

    Each is asked in its own preprocessing, and its answers are kept by themselves (:func:`ask`).

    Raises:
        ModelError: patches or attention of a teacher that has none.
    """
    patches = distillation.patch_weight > 0
    found = ask(teachers[0], data, amp=amp, patches=patches, attention=distillation.attention_weight > 0)
    if len(teachers) == 1:
        return found
    shares = distillation.shares(len(teachers))
    logits = shares[0] * found.logits.astype(np.float64)
    maps = None if found.patches is None else np.float32(shares[0]) * found.patches
    key = hashlib.sha256(f"{shares[0]} {found.key}".encode())
    for teacher, share in zip(teachers[1:], shares[1:], strict=True):
        other = ask(teacher, data, amp=amp, patches=patches)
        logits += share * other.logits
        if maps is not None and other.patches is not None:
            maps += np.float32(share) * other.patches
        key.update(f" {share} {other.key}".encode())
    together = replace(found, logits=logits.astype(np.float32), key=key.hexdigest()[:32])
    return together if maps is None else replace(together, patches=maps.astype(np.float16))


def require_ensemble(teachers: Sequence[Artifact], distillation: Distillation) -> None:
    """Hold that what `teachers` say can be averaged, before one of them is asked.

    Raises:
        ArtifactError: one is no checkpoint.
        ModelError: patches are to be learned, and one has none, or others than the first.
        TrainingError: one is given twice, or there is another number of weights than of teachers.
    """
    for teacher in teachers:
        teacher.require("checkpoint")
        if sum(other.digest == teacher.digest for other in teachers) > 1:
            raise TrainingError(f"{teacher.path}: is given twice as a teacher: give it once, with distillation.teacher_weights")
    distillation.shares(len(teachers))
    if distillation.patch_weight and len(teachers) > 1:
        specs = [teacher.manifest.detector for teacher in teachers]
        first, *others = [grid_of(models.create(spec), spec.name) for spec in specs]
        for spec, other in zip(specs[1:], others, strict=True):
            if other != first:
                raise ModelError(
                    f"the patches of {spec.name} are {other.field} pixels every {other.stride}, those of {specs[0].name} "
                    f"{first.field} every {first.stride}: teachers of patches must have the same, or set patch_weight to 0"
                )


def require_fit(teachers: Sequence[Artifact], student: PixelModel, name: str, distillation: Distillation) -> None:
    """Hold that places of an image are the same to the `student`, a detector `name`, and to the `teachers` it learns them of.

    Raises:
        ModelError: patches or attention are to be learned, and one of them has none, or patches that do not fit.
        TrainingError: they see different pixels, or other parts of an image.
    """
    if distillation.patch_weight:
        for teacher in teachers:
            require_same_places(teacher, student, name)
    if distillation.attention_weight:
        first = teachers[0].manifest
        for each in (name, first.detector.name):
            features_of(each)
        if not _same_view(student.preprocess, first.preprocess):
            theirs, ours = (f"{seen.geometry} {seen.height}x{seen.width}" for seen in (first.preprocess, student.preprocess))
            raise TrainingError(
                f"attention is learned of the same part of an image, and the teacher sees {theirs}, the student {ours}: "
                "set `preprocess` to the teacher's, or distillation.attention_weight to 0"
            )


def _same_view(one: Preprocess, other: Preprocess) -> bool:
    """Whether both see the same part of every image, in whatever size."""
    return one.geometry == other.geometry == "resize_squash" or same_pixels(one, other)


def besides(parent: Artifact, teachers: Sequence[Artifact]) -> tuple[Ancestor, ...]:
    """Those of `teachers` that are not `parent`, for the manifest of what they taught."""
    return tuple(teacher.as_ancestor() for teacher in teachers if teacher.digest != parent.digest)
