"""How a network is trained: the ``[training]`` table of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgedet.data.augment import Augment
from edgedet.recipe import Config

Positive = Annotated[int, msgspec.Meta(gt=0)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TrainingConfig(Config, frozen=True, kw_only=True):
    """The one set of options of the one training loop.

    batch_size: images per optimiser step, over all processes; `accumulate` splits a process's share into micro-batches.
    order: ``shuffle``; ``fixed-batches``: batches are formed once, later epochs shuffle them and the images inside; ``pairs``:
        shuffled, with the images of a pair (a photograph and its reconstruction) side by side in one batch.
    label_smoothing: the targets become ``s`` and ``1 - s``. (PyTorch's cross entropy calls this ``2 s`` for two classes.)
    focal_gamma, focal_alpha: Lin et al., ICCV 2017; ``alpha_mode`` scales both classes alike, or fakes by alpha and reals
        by 1 - alpha.
    ema: decay of the averaged weights, which are then the ones validated and kept; None for none.
    amp: bfloat16 on the CPU, float16 with loss scaling on CUDA; validation is in float32.
    monitor: what "best" means on the validation split.
    log_every: optimiser steps between lines of training loss in the metrics file; 0 for epochs only.
    """

    epochs: Positive = 10
    batch_size: Positive = 128
    accumulate: Positive = 1
    order: Literal["shuffle", "fixed-batches", "pairs"] = "shuffle"
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: AboveZero = 1e-3
    momentum: Share = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    warmup_lr: NotNegative = 1e-6
    final_lr: NotNegative = 0.0
    loss: Literal["bce", "focal"] = "bce"
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=0.5)] = 0.0
    focal_gamma: NotNegative = 2.0
    focal_alpha: NotNegative = 1.0
    alpha_mode: Literal["scalar", "per_class"] = "scalar"
    clip_norm: AboveZero | None = None
    ema: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    amp: bool = True
    channels_last: bool = True
    monitor: Literal["balanced_accuracy", "auc", "loss"] = "balanced_accuracy"
    patience: Positive | None = None
    seed: int = 0
    log_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"`warmup_epochs` ({self.warmup_epochs}) must be fewer than `epochs` ({self.epochs})")
        if self.batch_size % self.accumulate:
            raise ValueError(f"`batch_size` ({self.batch_size}) is no multiple of `accumulate` ({self.accumulate})")
