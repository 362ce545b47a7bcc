"""Distillation patch by patch: a student learns what its teacher says of every patch, from images without labels if need be.

Source: Cavia et al., "Real-Time Deepfake Detection in the Real-World", 2024: the squared difference of logits, without
temperature and without labels. There patches are cut out and given to the student one by one. Where neither network pads, a
student's answer for a patch is the mean of its logits within it (`edgedet.models.patches`), so whole images teach the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from edgedet import models
from edgedet.artifact import Artifact
from edgedet.compress.distillation import Distillation
from edgedet.compress.listener import Listener
from edgedet.compress.teacher import Answers
from edgedet.data.cache import same_pixels
from edgedet.errors import TrainingError
from edgedet.models.patches import align, grid_of
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch


class PatchListener(Listener):
    """A student that learns the teacher's logits of patches, and with the rest of its weight what any :class:`Listener` does.

    Raises:
        ModelError: the student has no patches, or they cannot be taught by the teacher's.
        TrainingError: `answers` has no logits of patches.
    """

    hears_patches = True

    def __init__(
        self, model: PixelModel, name: str, answers: Answers, config: TrainingConfig, distillation: Distillation
    ) -> None:
        super().__init__(model, name, answers, config, distillation)
        if answers.patches is None or answers.grid is None:
            raise TrainingError("`patch_weight` needs the teacher's logits of patches: ask for them with patches=True")
        self.maps = answers.patches
        self.alignment = align(grid_of(model.net, name), answers.grid)

    def answers_of(self, pixels: Tensor) -> dict[str, Tensor]:
        """With the logits of its ``patches`` (B, h, w)."""
        assert isinstance(self.model, PixelModel)
        return self.model.outputs(pixels)

    def heard(self, batch: Batch, found: Mapping[str, Tensor]) -> Tensor:
        """Patches and, where they leave a weight, what any listener hears; a scalar."""
        share = self.distillation.patch_weight
        # Per patch, the student's answer and the teacher's: both (B, h, w).
        loss = share * F.mse_loss(self.alignment.gather(found["patches"].float()), self.theirs(batch, self.maps))
        if share < 1:
            loss = loss + (1 - share) * super().heard(batch, found)
        return loss


def listener(
    model: PixelModel, name: str, answers: Answers, config: TrainingConfig, distillation: Distillation
) -> Listener:
    """The objective of a student `name` that hears `answers`: patch by patch if `distillation` says so."""
    kind = PatchListener if distillation.patch_weight else Listener
    return kind(model, name, answers, config, distillation)


def require_same_places(teacher: Artifact, student: PixelModel, name: str) -> None:
    """Hold that patches of the `student`, a detector `name`, can be taught by those of `teacher`, before it is asked.

    Raises:
        ModelError: one of them has no patches, or they do not fit.
        TrainingError: the two see different pixels of an image, so that patches are not the same places.
    """
    given = teacher.manifest
    align(grid_of(student.net, name), grid_of(models.create(given.detector), given.detector.name))
    if not same_pixels(student.preprocess, given.preprocess):
        theirs, ours = (f"{seen.geometry} {seen.height}x{seen.width}" for seen in (given.preprocess, student.preprocess))
        raise TrainingError(
            f"patches are the same places only in the same pixels, and the teacher sees {theirs}, the student {ours}: "
            "set `preprocess` to the teacher's"
        )
