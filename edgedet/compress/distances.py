"""How far a student's answers are from its teacher's: one loss each, a scalar, without gradient where they are alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgedet.training.losses import embedding_distance

_LEAST = 1e-12
"""Embeddings that are all one have no scale: their distances stay 0."""


def logit_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the two-class softmax at temperature T, without the teacher's constant entropy.

    For one logit this is the binary cross entropy with soft targets; (B,), (B,) -> scalar. Source: Hinton et al., 2015.
    """
    soft = torch.sigmoid(teacher / temperature)
    return F.binary_cross_entropy_with_logits(student / temperature, soft) * temperature**2


def attention_map(features: Tensor) -> Tensor:
    """Where a network looks: the mean over channels of the squares, (B, C, h, w) -> float32 (B, h, w), each of length 1.

    Source: Zagoruyko and Komodakis, ICLR 2017, section 3.1, ``F_sum^2`` over the number of channels.
    """
    squares = features.float().square().mean(1)
    return F.normalize(squares.flatten(1), dim=1).view_as(squares)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of two attention maps of length 1, the mean over images; (B, h, w), (B, h', w') -> scalar.

    That is one minus their cosine. The larger is averaged down to the smaller's size, along each axis. Source: Zagoruyko and
    Komodakis, ICLR 2017, equation 2 for one pair of layers, with the square of the norm, as in the code of its authors: the
    norm itself has no gradient where the maps agree.
    """
    size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
    one, other = (F.adaptive_avg_pool2d(each[:, None], size).flatten(1) for each in (student, teacher))
    return embedding_distance(one, other)


def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently the images of a batch lie from each other, (B, D), (B, D') -> scalar.

    The mean over pairs of the Huber loss (threshold 1) of their distances, each over the mean of its own
    batch. Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, section 3.2.1.
    """
    ours, theirs = (distances / distances.mean().clamp_min(_LEAST) for distances in (F.pdist(student), F.pdist(teacher)))
    return F.smooth_l1_loss(ours, theirs)


def angle_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The same of the angles that each two images of a batch make at each third, (B, D), (B, D') -> scalar.

    The mean over triplets of the Huber loss of their cosines. It takes 4 B^3 + 4 B^2 D bytes a network and
    more for its gradient: of 128 images and 512 channels 42 MB. Source: Park et al., section 3.2.2.
    """
    count = len(student)
    first, second = torch.triu_indices(count, count, offset=1, device=student.device)
    corner = torch.arange(count, device=student.device)[:, None]
    apart = (corner != first) & (corner != second)
    ours, theirs = (_cosines(each)[:, first, second][apart] for each in (student, teacher))
    return F.smooth_l1_loss(ours, theirs)


def _cosines(x: Tensor) -> Tensor:
    """(B, D) -> (B, B, B): at image j, the cosine of the directions to i and to k."""
    directions = F.normalize(x[None] - x[:, None], dim=2)
    return directions @ directions.transpose(1, 2)
