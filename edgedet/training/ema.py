"""An exponential moving average of weights (Polyak and Juditsky, 1992)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Follows `model` with `decay`; early steps decay less, so that the first weights are soon forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averaged parameters and buffers towards those of `model`; integers are copied."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        ours, theirs = list(self.model.state_dict().values()), list(model.state_dict().values())
        floats = [(own, other) for own, other in zip(ours, theirs, strict=True) if own.is_floating_point()]
        torch._foreach_lerp_([own for own, _ in floats], [other for _, other in floats], 1 - decay)
        for own, other in zip(ours, theirs, strict=True):
            if not own.is_floating_point():
                own.copy_(other)
