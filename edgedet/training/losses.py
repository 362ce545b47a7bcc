"""Losses on logits, and the objective: what a forward pass of training computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig


@dataclass(frozen=True)
class Batch:
    """pixels: uint8 (B, H, W, 3); labels: float (B,), fake = 1; positions: int64 (B,) in the training set; flipped: (B,).

    A label is NaN where an image has none.
    degraded: the same images, degraded, where `pixels` are not; only where ``consistency_weight`` asks for both.
    """

    pixels: Tensor
    labels: Tensor
    positions: Tensor
    flipped: Tensor
    degraded: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.pixels, self.labels, self.positions, self.flipped))
        degraded = None if self.degraded is None else self.degraded.to(device, non_blocking=True)
        return replace(Batch(*moved), degraded=degraded)

    def both(self) -> Batch:
        """The images and behind them their degraded views, for one forward pass in which BatchNorm normalises them alike.

        Raises:
            TrainingError: there are no degraded views.
        """
        if self.degraded is None:
            raise TrainingError("no degraded view to be consistent with: set training.consistency_weight above 0")
        twice = (tensor.repeat(2) for tensor in (self.labels, self.positions, self.flipped))
        return Batch(torch.cat([self.pixels, self.degraded]), *twice)


class Objective(nn.Module, ABC):
    """A model and its loss in one module, so that gradients are synchronised over everything that is trained."""

    needs_labels = True
    """Whether every image must have one; where not, NaN says that it has none."""
    images = 0
    """How many are trained on; :func:`edgedet.training.loop.fit` sets it before the first batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def identity(self) -> str:
        """What else decides where training ends, besides its configuration and its images; a resumed run must have the same."""
        return ""

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss over the batch and what the network adds to it (`edgedet.models.pixels`), a scalar."""
        loss = self.loss(batch)
        penalty: Callable[[int], Tensor] | None = getattr(self.model, "penalty", None)
        return loss if penalty is None else loss + penalty(self.images)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The mean loss over the batch, a scalar."""


class Supervised(Objective):
    """Labels alone."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        super().__init__(model)
        self.config = config

    def loss(self, batch: Batch) -> Tensor:
        """The configured loss, a scalar."""
        return label_loss(self.model(batch.pixels), batch.labels, self.config)


class Consistent(Objective):
    """Labels, of each image and of its degraded view, and that the network makes the same of both.

    To the label loss over both views comes `consistency_weight` times the sum of the cosine distance of their embeddings (the
    inputs of the layer `classifier`) and the symmetric divergence of their predictions. Source: Yang et al., DCPT,
    arXiv 2604.10102; the weights are not theirs.
    """

    def __init__(self, model: PixelModel, classifier: str, config: TrainingConfig) -> None:
        super().__init__(model)
        self.config = config
        self.classifier = classifier

    def loss(self, batch: Batch) -> Tensor:
        """Both views in one forward pass; a scalar.

        Raises:
            TrainingError: the batch has no degraded view.
        """
        assert isinstance(self.model, PixelModel)
        both = batch.both()
        with watched(self.model.net.get_submodule(self.classifier)) as seen:
            logits = self.model(both.pixels).float()
        distance = view_distance(logits, seen[0])
        return label_loss(logits, both.labels, self.config) + self.config.consistency_weight * distance


def supervised(model: PixelModel, classifier: str, config: TrainingConfig) -> Objective:
    """The objective without a teacher that `config` asks for; `classifier` is the network's last layer."""
    return Consistent(model, classifier, config) if config.consistency_weight else Supervised(model, config)


def view_distance(logits: Tensor, embeddings: Tensor | None) -> Tensor:
    """How far apart a network's answers for two views are, the views of the first half of a batch and of the second; a scalar.

    The distance of their predictions and of their `embeddings` (B, ...); of predictions alone for a network without any.
    """
    distance = prediction_distance(*logits.chunk(2))
    return distance if embeddings is None else distance + embedding_distance(*embeddings.float().flatten(1).chunk(2))


def embedding_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine similarity, the mean over (B, D)."""
    return (1 - F.cosine_similarity(one, other, dim=1)).mean()


def prediction_distance(one: Tensor, other: Tensor) -> Tensor:
    """``(KL(p || q) + KL(q || p)) / 2`` of the two-class predictions of logits (B,), the mean; 0 where they agree.

    For two classes the sum of the divergences is ``(p - q) (logit p - logit q)``.
    """
    return ((torch.sigmoid(one) - torch.sigmoid(other)) * (one - other)).mean() / 2


@contextmanager
def watched(layer: nn.Module, *, outputs: bool = False) -> Iterator[list[Tensor]]:
    """The inputs of `layer`, or its outputs, in the forward passes made inside the block."""
    seen: list[Tensor] = []
    if outputs:
        handle = layer.register_forward_hook(lambda _, __, given: seen.append(given))
    else:
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def label_loss(logits: Tensor, labels: Tensor, config: TrainingConfig) -> Tensor:
    """Binary cross entropy or focal loss of `logits` (B,) with `labels` (B,), a scalar in float32."""
    logits = logits.float()
    if config.loss == "focal":
        per_class = config.alpha_mode == "per_class"
        return focal(logits, labels, gamma=config.focal_gamma, alpha=config.focal_alpha, per_class=per_class)
    share = config.label_smoothing / 2 if config.smoothing_reading == "uniform" else config.label_smoothing
    return F.binary_cross_entropy_with_logits(logits, smooth(labels, share))


def smooth(labels: Tensor, smoothing: float) -> Tensor:
    """Targets ``smoothing`` and ``1 - smoothing`` in place of 0 and 1. Source: RAM-Net, equation 9."""
    return labels * (1 - 2 * smoothing) + smoothing


def focal(logits: Tensor, labels: Tensor, *, gamma: float, alpha: float, per_class: bool = False) -> Tensor:
    """``alpha (1 - p_t)^gamma BCE``, the mean over (B,). Source: Lin et al., ICCV 2017, equation 5.

    per_class: alpha for fakes and 1 - alpha for reals, as in that paper; else alpha only rescales.
    """
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    weight = torch.where(labels > 0.5, alpha, 1 - alpha) if per_class else alpha
    # 1 - p_t without cancellation; the floor keeps the gradient of a power below 1 finite where p_t is 1.
    missed = (-torch.expm1(-loss)).clamp_min(1e-12)
    return (weight * missed**gamma * loss).mean()
