"""Losses on logits, and the objective: what a forward pass of training computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.training.config import TrainingConfig


@dataclass(frozen=True)
class Batch:
    """pixels: uint8 (B, H, W, 3); labels: float (B,), fake = 1; positions: int64 (B,) in the training set; flipped: (B,)."""

    pixels: Tensor
    labels: Tensor
    positions: Tensor
    flipped: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.pixels, self.labels, self.positions, self.flipped))
        return Batch(*moved)


class Objective(nn.Module, ABC):
    """A model and its loss in one module, so that gradients are synchronised over everything that is trained."""

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
