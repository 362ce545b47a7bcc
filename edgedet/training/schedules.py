"""What a run does next, from its settings and the figures so far alone: nothing else is kept, so it resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgedet.training.config import Monitor, Phase, TrainingConfig

Figures = dict[str, float]
"""One epoch's validation figures."""

PLATEAU_GAIN = 1e-4
"""Share of the best figure that a plateau's gain must exceed, as PyTorch's ReduceLROnPlateau has it."""


@dataclass(frozen=True)
class Current:
    """The phase that a run is in.

    config: the settings in force; phase: what is trained in it; first_epoch: of the phase, counted over the whole run.
    """

    number: int
    config: TrainingConfig
    phase: Phase
    first_epoch: int


def first(config: TrainingConfig) -> Current:
    """The phase that a run begins with."""
    return Current(0, config.by_phase[0], config.phases[0] if config.phases else Phase(), 0)


def current(config: TrainingConfig, history: Sequence[Figures]) -> Current | None:
    """The phase of the epoch that follows `history`, one line an epoch; None after the last."""
    first = 0
    for number, (settings, phase) in enumerate(zip(config.by_phase, config.phases or (Phase(),), strict=True)):
        done = 0
        while done < settings.epochs and not out_of_patience(settings, history[first : first + done]):
            if first + done == len(history):
                return Current(number, settings, phase, first)
            done += 1
        first += done
    return None


def score(figures: Figures, monitor: Monitor) -> float:
    """The figure that `monitor` names, such that more is better."""
    return -figures["loss"] if monitor == "loss" else figures[monitor]


def out_of_patience(config: TrainingConfig, history: Sequence[Figures]) -> bool:
    """Whether the last `patience` epochs of `history` have gained nothing; a gain exceeds the best by more than `min_delta`."""
    if config.patience is None:
        return False
    best, waited = -math.inf, 0
    for figures in history:
        found = score(figures, config.monitor)
        best, waited = (found, 0) if found > best + config.min_delta else (best, waited + 1)
    return waited >= config.patience


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int, history: Sequence[Figures] = ()) -> float:
    """The rate of optimiser step `step`, from 0; `history` has the epochs before it. Both count from the start of the phase.

    Sources: cosine: Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without its restarts; step and plateau: PyTorch's
    StepLR and ReduceLROnPlateau.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.step_factor ** (step // steps_per_epoch // config.step_epochs)
    if config.schedule == "plateau":
        return _after_plateaus(config, history)
    progress = (step - warmup) / max(1, config.epochs * steps_per_epoch - warmup)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _after_plateaus(config: TrainingConfig, history: Sequence[Figures]) -> float:
    monitor = config.plateau_monitor or config.monitor
    rate, best, waited = config.lr, -math.inf, 0
    for figures in history:
        found = score(figures, monitor)
        gained = math.isinf(best) or found > best + PLATEAU_GAIN * abs(best)
        best, waited = (found, 0) if gained else (best, waited + 1)
        if waited > config.plateau_patience:
            rate, waited = min(rate, max(config.min_lr, rate * config.plateau_factor)), 0
    return rate
