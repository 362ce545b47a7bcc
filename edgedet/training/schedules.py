"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from edgedet.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then cosine decay to `final_lr`, with restarts if asked, by optimiser step from 0.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    starts = [warmup, *(epoch * steps_per_epoch for epoch in config.restarts), config.epochs * steps_per_epoch]
    cycle = max(number for number, start in enumerate(starts[:-1]) if start <= step)
    peak = config.lr * config.restart_share**cycle
    progress = (step - starts[cycle]) / max(1, starts[cycle + 1] - starts[cycle])
    return config.final_lr + (peak - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
