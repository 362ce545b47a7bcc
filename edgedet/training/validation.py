"""What selects the best epoch: a model's logits on the validation split, and their figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from edgedet import metrics
from edgedet.data.dataset import ImageSet, in_batches
from edgedet.training.distributed import Group

EVALUATION_BATCH = 256


@torch.inference_mode()
def logits_of(model: nn.Module, images: ImageSet, group: Group | None = None) -> npt.NDArray[np.float32]:
    """The logits of `model` in evaluation mode for all `images`, float32 (N,), shared out over processes."""
    group = group or Group()
    was_training = model.training
    model.eval()
    out = torch.zeros(len(images), device=group.device)
    for positions, pixels in in_batches(images, EVALUATION_BATCH, rank=group.rank, world=group.world):
        out[torch.from_numpy(positions)] = model(torch.from_numpy(pixels).to(group.device)).float()
    model.train(was_training)
    # Each process has filled its own places and left zeros elsewhere.
    return group.sum(out).cpu().numpy()


def validation_figures(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Loss (nats), balanced accuracy at logit 0, and AUC."""
    loss = F.binary_cross_entropy_with_logits(torch.from_numpy(logits).double(), torch.from_numpy(labels).double())
    return {
        "loss": float(loss.item()),
        "balanced_accuracy": metrics.balanced_accuracy(logits > 0, labels),
        "auc": metrics.roc_auc(logits, labels),
    }
