"""How a network is trained: the ``[training]`` table of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgedet.data.augment import DEGRADATIONS, Augment
from edgedet.recipe import Config

Positive = Annotated[int, msgspec.Meta(gt=0)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Factor = Annotated[float, msgspec.Meta(gt=0, le=1)]
_FOCAL = ("focal_gamma", "focal_alpha", "alpha_mode")
Monitor = Literal["balanced_accuracy", "auc", "loss"]


class Phase(Config, frozen=True, kw_only=True):
    """One of several trainings in a row, ``[[training.phases]]``: each has a fresh schedule and optimiser and starts from the
    best weights so far.

    epochs, lr, patience: of this phase; left out, those of ``[training]``.
    train: parts of the network that alone are trained, by the start of their names; empty for all that `freeze` leaves.
    freeze_norms: no BatchNorm is trained, and all keep their statistics.
    """

    epochs: Positive | None = None
    lr: AboveZero | None = None
    patience: Positive | None = None
    train: tuple[str, ...] = ()
    freeze_norms: bool = False


class TrainingConfig(Config, frozen=True, kw_only=True):
    """The one set of options of the one training loop.

    epochs: passes over the training split.
    batch_size: images per optimiser step, over all processes; `accumulate` splits a process's share into micro-batches.
    accumulate: micro-batches per optimiser step and process; their gradients are averaged.
    order: ``shuffle``; ``fixed-batches``: batches are formed once, later epochs shuffle them and the images inside; ``pairs``:
        shuffled, with the images of a pair (a photograph and its reconstruction) side by side in one batch.
    same_augmentation_in_pairs: both images of a pair get the same crop, flip and degradation; for the order ``pairs``.
    optimizer: AdamW, Adam (its weight decay is an L2 term of the loss), or SGD with momentum.
    lr: the highest learning rate.
    momentum: of SGD.
    betas: of Adam and AdamW.
    weight_decay: of all parameters, or without norms and biases: see `decay_norms`.
    decay_norms: whether weight decay is also for norms, biases and whatever a timm network names in ``no_weight_decay``.
    layer_decay: each layer's learning rate is this share of the next one's, up to the head with the whole rate (Clark et al.,
        ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022); 1 for none; for timm networks.
    schedule: after the warm-up, ``cosine``: to `final_lr` at the end; ``constant``; ``step``: times `step_factor` every
        `step_epochs`; ``plateau``: times `plateau_factor` after more than `plateau_patience` epochs without a gain.
    warmup_epochs: the rate rises linearly from `warmup_lr` to `lr` in so many epochs, or part of one.
    warmup_lr: where the warm-up begins.
    final_lr: where the cosine ends.
    step_epochs: epochs between two steps of the schedule ``step``.
    step_factor: what a step multiplies the rate by.
    plateau_factor: what a plateau multiplies the rate by.
    plateau_patience: epochs without a gain that a plateau may have; a gain is more than a ten-thousandth of the best figure.
    plateau_monitor: the figure that the plateau is of; left out, `monitor`.
    min_lr: the lowest rate that plateaus lead to.
    freeze: parts of the network that are not trained, by the start of their names (``layer1`` is all of ``layer1.*``); their
        BatchNorms keep their statistics.
    phases: trainings one after the other; empty for one, with the settings of this table.
    loss: binary cross entropy, or focal loss (Lin et al., ICCV 2017).
    label_smoothing: how far targets are from 0 and 1, as `smoothing_reading` says.
    smoothing_reading: ``targets``: targets are ``s`` and ``1 - s``; ``uniform``: ``s / 2`` and ``1 - s / 2``, a share s spread
        over both classes, which is PyTorch's ``label_smoothing``.
    focal_gamma: the power of focal loss.
    focal_alpha: the weight of focal loss; between 0 and 1 where it is per class.
    alpha_mode: ``scalar`` scales both classes alike by `focal_alpha`, ``per_class`` fakes by alpha and reals by 1 - alpha.
    consistency_weight: weight of the distance between what the network makes of an image before and after the degradations of
        `augment`; both are then learned from. 0 for degraded images alone.
    clip_norm: the largest norm of the gradient; left out, none.
    ema: decay of the averaged weights, which are then the ones validated and kept; left out, none.
    amp: bfloat16 on the CPU, float16 with loss scaling on CUDA; validation is in float32.
    channels_last: memory layout of convolutions; faster on most machines.
    monitor: what "best" means on the validation split.
    patience: end after so many epochs in a row without a gain of `monitor`; left out, never.
    min_delta: what counts as a gain for `patience` is more than this.
    seed: of weights, order, augmentation and dropout.
    log_every: optimiser steps between lines of training loss in the metrics file; 0 for epochs only.
    validate_every: optimiser steps between lines of validation figures in that file, which choose nothing; 0 for epochs only.
    augment: what is done to training images.
    """

    epochs: Positive = 10
    batch_size: Positive = 128
    accumulate: Positive = 1
    order: Literal["shuffle", "fixed-batches", "pairs"] = "shuffle"
    same_augmentation_in_pairs: bool = False
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: AboveZero = 1e-3
    momentum: Share = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0
    decay_norms: bool = True
    layer_decay: Factor = 1.0
    schedule: Literal["cosine", "constant", "step", "plateau"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    warmup_lr: NotNegative = 1e-6
    final_lr: NotNegative = 0.0
    step_epochs: Positive = 10
    step_factor: Factor = 0.1
    plateau_factor: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1
    plateau_patience: Annotated[int, msgspec.Meta(ge=0)] = 10
    plateau_monitor: Monitor | None = None
    min_lr: NotNegative = 0.0
    freeze: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()
    loss: Literal["bce", "focal"] = "bce"
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    smoothing_reading: Literal["targets", "uniform"] = "targets"
    focal_gamma: NotNegative = 2.0
    focal_alpha: NotNegative = 1.0
    alpha_mode: Literal["scalar", "per_class"] = "scalar"
    consistency_weight: NotNegative = 0.0
    clip_norm: AboveZero | None = None
    ema: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    amp: bool = True
    channels_last: bool = True
    monitor: Monitor = "balanced_accuracy"
    patience: Positive | None = None
    min_delta: NotNegative = 0.0
    seed: int = 0
    log_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    validate_every: Annotated[int, msgspec.Meta(ge=0)] = 0
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        if self.phases:
            _ = self.by_phase  # each is held to the same rules
        elif self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"`warmup_epochs` ({self.warmup_epochs}) must be fewer than `epochs` ({self.epochs})")
        if self.batch_size % self.accumulate:
            raise ValueError(f"`batch_size` ({self.batch_size}) is no multiple of `accumulate` ({self.accumulate})")
        if self.same_augmentation_in_pairs and self.order != "pairs":
            raise ValueError(f"`same_augmentation_in_pairs` needs `order` = \"pairs\", got {self.order!r}")
        self._check_loss()

    def _check_loss(self) -> None:
        if self.smoothing_reading == "targets" and self.label_smoothing >= 0.5:
            raise ValueError(
                f"`label_smoothing` ({self.label_smoothing}) must be below 0.5, where both targets meet: lower it, "
                'or set `smoothing_reading` = "uniform"'
            )
        if self.consistency_weight and not self.augment.degrades:
            raise ValueError(f"`consistency_weight` needs degraded images: set one of {', '.join(DEGRADATIONS)} of `augment`")
        if self.label_smoothing and self.loss == "focal":
            raise ValueError('`label_smoothing` is for `loss` = "bce": set it to 0 with "focal"')
        defaults = dict(zip(self.__struct_fields__, self.__struct_defaults__, strict=True))
        ignored = [key for key in _FOCAL if getattr(self, key) != defaults[key]] if self.loss != "focal" else []
        if ignored:
            raise ValueError(f'`{ignored[0]}` is for `loss` = "focal": set it to {defaults[ignored[0]]} with "{self.loss}"')
        if self.alpha_mode == "per_class" and not 0 < self.focal_alpha < 1:
            raise ValueError(
                f"`focal_alpha` ({self.focal_alpha:g}) must be between 0 and 1 for `alpha_mode` = \"per_class\", "
                "where reals weigh what it leaves of 1"
            )

    @property
    def by_phase(self) -> tuple[TrainingConfig, ...]:
        """The settings of each phase; of a training in one, its own."""
        if not self.phases:
            return (self,)
        return tuple(
            msgspec.structs.replace(
                self,
                phases=(),
                epochs=phase.epochs or self.epochs,
                lr=phase.lr or self.lr,
                patience=phase.patience or self.patience,
            )
            for phase in self.phases
        )
