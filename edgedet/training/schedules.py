"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from edgedet.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then cosine decay to `final_lr`, by optimiser step from 0.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without its restarts.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
