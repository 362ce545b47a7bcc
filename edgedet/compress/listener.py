"""The objective of a student: labels, and what its teachers said of the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgedet import models
from edgedet.compress.distances import angle_distance, attention_distance, attention_map, logit_distance, relation_distance
from edgedet.compress.distillation import Distillation
from edgedet.compress.teacher import Answers, features_of
from edgedet.errors import TrainingError
from edgedet.models.patches import pooled
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Objective, embedding_distance, label_loss, view_distance, watched

EMBEDDING, FEATURES = "embedding", "features"
"""What is read inside a student: its classifier's input (B, ..., D) and its last feature map (B, C, h, w)."""


class Listener(Objective):
    """A student between labels and a teacher whose answers are known for every image and its mirror image.

    An image without a label is learned from the teacher alone.

    With `config.consistency_weight` it hears them for an image and its degraded view alike, and pays for what it makes of the
    one and not of the other, as :class:`edgedet.training.losses.Consistent` does; of a model without `name` by its predictions.

    name: the detector whose classifier's input is held against the teacher's embedding, and whose last feature map against the
        teacher's; None for a model without them, which can only listen to logits.

    Raises:
        ModelError: attention is to be matched, and the detector has no feature map.
        TrainingError: embeddings or attention are to be matched and `name` is None, or `answers` has none; or patches are,
            which `edgedet.compress.patches` does.
    """

    hears_patches = False

    def __init__(
        self, model: nn.Module, name: str | None, answers: Answers, config: TrainingConfig, distillation: Distillation
    ) -> None:
        super().__init__(model)
        self.config, self.distillation = config, distillation
        self.answers = answers
        self.needs_labels = not distillation.teaches
        if distillation.patch_weight and not self.hears_patches:
            raise TrainingError("this student has no logits of patches to match: set distillation.patch_weight to 0")
        if distillation.inner and (name is None or not isinstance(model, PixelModel)):
            raise TrainingError(f"this student has no embedding to match: set distillation.{distillation.inner[0]} to 0")
        self.classifier_name = None if name is None else models.lookup(name).classifier
        self.features_name = features_of(name) if name is not None and distillation.attention_weight else None
        if self.features_name and answers.attention is None:
            raise TrainingError("`attention_weight` needs the teacher's attention: ask for it with attention=True")
        # Without a weight there is no gradient, which distribution refuses: then there is no projection.
        self.project: nn.Module | None = None
        if distillation.feature_weight and name is not None and isinstance(model, PixelModel):
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
        found = self.found(batch.pixels)
        loss = self.heard(batch, found)
        return loss + consistency * view_distance(found["logit"], found.get(EMBEDDING)) if consistency else loss

    def found(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the student makes of `pixels`: its logit (B,) and what else is heard of it, by name."""
        with ExitStack() as stack:
            seen = {name: stack.enter_context(watched(layer, outputs=out)) for name, layer, out in self.watching()}
            given = self.answers_of(pixels)
        return {**given, "logit": given["logit"].float(), **{name: each[0] for name, each in seen.items()}}

    def answers_of(self, pixels: Tensor) -> dict[str, Tensor]:
        """The outputs of its network, its ``logit`` (B,) first."""
        return {"logit": self.model(pixels)}

    def watching(self) -> Iterator[tuple[str, nn.Module, bool]]:
        """What else is read in a forward pass: a name, a layer, and whether it is its output that is meant, or its input."""
        if not isinstance(self.model, PixelModel):
            return
        net, weights = self.model.net, self.distillation
        wanted = weights.feature_weight or weights.relation_weight or weights.angle_weight or self.config.consistency_weight
        if self.classifier_name is not None and wanted:
            yield EMBEDDING, net.get_submodule(self.classifier_name), False
        if self.features_name is not None:
            yield FEATURES, net.get_submodule(self.features_name), True

    def heard(self, batch: Batch, found: Mapping[str, Tensor]) -> Tensor:
        """Labels, logits and whatever lies inside that has a weight; a scalar."""
        weights, logits = self.distillation, found["logit"]
        theirs = self.theirs(batch, self.answers.logits)
        loss = (1 - weights.logit_weight) * self.labelled(batch, logits)
        loss = loss + weights.logit_weight * logit_distance(logits, theirs, weights.temperature)
        if self.project is not None:
            wanted = self.theirs(batch, self.answers.embeddings)
            loss = loss + weights.feature_weight * embedding_distance(self.project(pooled(found[EMBEDDING])).float(), wanted)
        if self.answers.attention is not None and weights.attention_weight:
            map_of = self.theirs(batch, self.answers.attention)
            loss = loss + weights.attention_weight * attention_distance(attention_map(found[FEATURES]), map_of)
        if weights.relation_weight or weights.angle_weight:
            loss = loss + self.related(batch, pooled(found[EMBEDDING]).float())
        return loss

    def labelled(self, batch: Batch, logits: Tensor) -> Tensor:
        """The loss of the images that have a label, over all, so that each weighs the same whatever is beside it; a scalar."""
        known = ~batch.labels.isnan()
        if not known.any():
            return logits.new_zeros(())
        return known.float().mean() * label_loss(logits[known], batch.labels[known], self.config)

    def related(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """How differently `embeddings` (B, D) lie from each other than the teacher's, a scalar.

        Raises:
            TrainingError: fewer than three images: all their relations are alike.
        """
        if len(embeddings) < 3:
            raise TrainingError(
                f"relations are between three images and more, and a forward pass has {len(embeddings)}: raise "
                "training.batch_size, or set distillation.relation_weight and distillation.angle_weight to 0"
            )
        wanted, loss = self.theirs(batch, self.answers.embeddings), embeddings.new_zeros(())
        if self.distillation.relation_weight:
            loss = loss + self.distillation.relation_weight * relation_distance(embeddings, wanted)
        if self.distillation.angle_weight:
            loss = loss + self.distillation.angle_weight * angle_distance(embeddings, wanted)
        return loss

    def theirs(self, batch: Batch, answers: npt.NDArray[Any]) -> Tensor:
        """What `answers` (N, views, ...) has for the images of `batch` as they are seen, float32 (B, ...)."""
        positions, views = batch.positions.cpu().numpy(), batch.flipped.cpu().numpy().astype(np.int64)
        return torch.from_numpy(answers[positions, views].astype(np.float32)).to(batch.labels.device)
