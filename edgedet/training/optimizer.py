"""The optimiser, and which parameters it decays and how fast it moves them."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from edgedet.errors import TrainingError
from edgedet.training.config import TrainingConfig


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimiser over the parameters that are trained.

    Each group's `lr_scale` is the share of the learning rate that its parameters get: :func:`set_rate`.

    Raises:
        TrainingError: nothing is trained, or `layer_decay` is asked of a network whose depth is not known.
    """
    groups = parameter_groups(module, config)
    if not groups:
        raise TrainingError("nothing to train: every parameter is frozen")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, config.lr, betas=config.betas, weight_decay=config.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def parameter_groups(module: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """The trained parameters, in the module's order, in groups of one weight decay and one share of the learning rate."""
    scales = layer_scales(module, config.layer_decay)
    exempt = frozenset[str]() if config.decay_norms else undecayed(module)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (0.0 if name in exempt else config.weight_decay, scales.get(name, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale} for (decay, scale), parameters in groups.items()
    ]


def undecayed(module: nn.Module) -> frozenset[str]:
    """The names of norms and biases (what has one dimension), and of what a timm network inside lists as not to be decayed."""
    listed = {
        _inside(path, name)
        for path, part in module.named_modules()
        if callable(getattr(part, "no_weight_decay", None))
        for name in part.no_weight_decay()
    }
    return frozenset(name for name, parameter in module.named_parameters() if parameter.ndim <= 1 or name in listed)


def layer_scales(module: nn.Module, decay: float) -> dict[str, float]:
    """For each parameter of the timm networks in `module` the power of `decay` that its depth gives it; the head's is 1.

    What is not in them is made for the task, as the head is, and has no entry.

    Raises:
        TrainingError: there is no timm network.
    """
    if decay == 1:
        return {}
    scales: dict[str, float] = {}
    for path, part in module.named_modules():
        if callable(getattr(part, "group_matcher", None)):
            depths: dict[str, int] = group_parameters(part, part.group_matcher(coarse=False), reverse=True)
            deepest = max(depths.values(), default=0)
            scales |= {_inside(path, name): decay ** (deepest - depth) for name, depth in depths.items()}
    if not scales:
        raise TrainingError(
            f"training.layer_decay = {decay} needs a network that knows its depth (timm's, with `group_matcher`): set it to 1"
        )
    return scales


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
