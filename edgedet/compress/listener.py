"""The objective of a student: labels, and what its teachers said of the images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgedet import models
from edgedet.compress.distances import logit_distance
from edgedet.compress.distillation import Distillation
from edgedet.compress.teacher import Answers
from edgedet.errors import TrainingError
from edgedet.models.patches import pooled
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Objective, embedding_distance, label_loss, view_distance, watched


class Listener(Objective):
    """A student between labels and a teacher whose answers are known for every image and its mirror image.

    With `config.consistency_weight` it hears them for an image and its degraded view alike, and pays for what it makes of the
    one and not of the other, as :class:`edgedet.training.losses.Consistent` does; of a model without `name` by its predictions.

    name: the detector whose classifier's input is matched with the teacher's embedding; None for a model without one, which
        can only listen to logits.

    Raises:
        TrainingError: embeddings are to be matched and `name` is None, or patches, which `edgedet.compress.patches` does.
    """

    hears_patches = False

    def __init__(
        self, model: nn.Module, name: str | None, answers: Answers, config: TrainingConfig, distillation: Distillation
    ) -> None:
        super().__init__(model)
        self.config, self.distillation = config, distillation
        self.answers = answers
        if distillation.patch_weight and not self.hears_patches:
            raise TrainingError("this student has no logits of patches to match: set distillation.patch_weight to 0")
        self.classifier_name = None if name is None else models.lookup(name).classifier
        # Without a weight there is no gradient, which distribution refuses: then there is no projection.
        self.project: nn.Module | None = None
        if distillation.feature_weight:
            if name is None or not isinstance(model, PixelModel):
                raise TrainingError("this student has no embedding to match: set distillation.feature_weight to 0")
            classifier = models.classifier_of(model.net, name)
            self.project = nn.Linear(classifier.in_features, answers.embeddings.shape[2], bias=False)

    @property
    def identity(self) -> str:
        """How it listens, and to whom."""
        return f" {self.distillation!r} {self.answers.key}"

    def loss(self, batch: Batch) -> Tensor:
        """What is heard of it and, with both views, of their difference; a scalar."""
        consistency = self.config.consistency_weight
        batch = batch.both() if consistency else batch
        with self.watched() as seen:
            found = self.answers_of(batch.pixels)
        logits, embeddings = found["logit"].float(), seen[0] if seen else None
        loss = self.heard(batch, {**found, "logit": logits}, embeddings)
        return loss + consistency * view_distance(logits, embeddings) if consistency else loss

    def answers_of(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the student says of `pixels`, its ``logit`` (B,) and what else is heard of it."""
        return {"logit": self.model(pixels)}

    def heard(self, batch: Batch, found: Mapping[str, Tensor], embeddings: Tensor | None) -> Tensor:
        """Labels, logits (B,) of what was `found` and, where they are matched, `embeddings` (B, ..., D), weighted; a scalar."""
        logits = found["logit"]
        theirs = self.theirs(batch, self.answers.logits)
        loss = (1 - self.distillation.logit_weight) * label_loss(logits, batch.labels, self.config)
        loss = loss + self.distillation.logit_weight * logit_distance(logits, theirs, self.distillation.temperature)
        if self.project is not None and embeddings is not None:
            wanted = self.theirs(batch, self.answers.embeddings)
            ours = self.project(pooled(embeddings)).float()
            loss = loss + self.distillation.feature_weight * embedding_distance(ours, wanted)
        return loss

    def theirs(self, batch: Batch, answers: npt.NDArray[Any]) -> Tensor:
        """What `answers` (N, views, ...) has for the images of `batch` as they are seen, float32 (B, ...)."""
        positions, views = batch.positions.cpu().numpy(), batch.flipped.cpu().numpy().astype(np.int64)
        return torch.from_numpy(answers[positions, views].astype(np.float32)).to(batch.labels.device)

    def watched(self) -> AbstractContextManager[list[Tensor]]:
        """The embeddings (B, ..., D) of the forward passes made inside the block, where they are matched."""
        if self.classifier_name is None or (self.project is None and not self.config.consistency_weight):
            return nullcontext([])
        assert isinstance(self.model, PixelModel)
        return watched(self.model.net.get_submodule(self.classifier_name))
