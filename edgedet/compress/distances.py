"""How far a student's answers are from its teacher's: one loss each, a scalar."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def logit_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher || student)`` of the two-class softmax at temperature T, without the teacher's constant entropy.

    For one logit this is the binary cross entropy with soft targets; (B,), (B,) -> scalar. Source: Hinton et al., 2015.
    """
    soft = torch.sigmoid(teacher / temperature)
    return F.binary_cross_entropy_with_logits(student / temperature, soft) * temperature**2
