"""How much a network would miss each unit of its groups: a score, the least of which go first.

Magnitude is torch-pruning's group norm. Taylor is the first-order change of the loss when a unit is taken away: Molchanov et
al., "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3; of an attention head, the sensitivity of Michel
et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, squared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgedet.compress.groups import Group
from edgedet.models import structure

Importance = Literal["magnitude", "bn-scale", "taylor", "random"]
Losses = Callable[[nn.Module], Iterable[Tensor]]
"""The loss of a network on a few batches, one after the other, with gradients."""


def no_losses(_: nn.Module) -> Iterable[Tensor]:
    """For every importance that reads no images."""
    return ()


def scores(kind: Importance, net: nn.Module, groups: Sequence[Group], losses: Losses) -> list[Tensor | None]:
    """One score, float (count,), of each unit of each group; None for a group that `kind` says nothing about.

    magnitude: the squared norm of all weights of a unit. bn-scale: the magnitude of its BatchNorm scales (Liu et al., Network
    Slimming, ICCV 2017). Both over the mean of the group, so that groups compare. taylor: see :func:`taylor`. random: the
    control.
    """
    if kind == "taylor":
        return list(taylor(net, groups, losses))
    if kind == "random":
        return [torch.rand(group.count) for group in groups]
    measure = magnitude if kind == "magnitude" else bn_scale
    found = [measure(net, group) for group in groups]
    return [None if each is None else each / each.mean().clamp_min(torch.finfo(each.dtype).tiny) for each in found]


def magnitude(net: nn.Module, group: Group) -> Tensor:
    """The sum of squares of the weights that belong to each unit, biases and position tables left out."""
    total = torch.zeros(group.count)
    for cut in group.cuts:
        owner = _owner(net, cut.name)
        if isinstance(owner, nn.Module):
            for key, axis in structure.axes(owner, cut.slot):
                tensor = getattr(owner, key, None)
                if key == "weight" and tensor is not None:
                    total += _per_unit(tensor.detach() ** 2, axis, cut.units, group.count)
    return total


def bn_scale(net: nn.Module, group: Group) -> Tensor | None:
    """The sum of the magnitudes of each unit's BatchNorm scales; None when no BatchNorm is in the group."""
    norms = [(cut, owner) for cut in group.cuts if isinstance(owner := _owner(net, cut.name), nn.BatchNorm1d | nn.BatchNorm2d)]
    found = [_per_unit(norm.weight.detach().abs(), 0, cut.units, group.count) for cut, norm in norms if norm.affine]
    return torch.stack(found).sum(0) if found else None


def taylor(net: nn.Module, groups: Sequence[Group], losses: Losses) -> list[Tensor]:
    """The mean over batches of the squared first-order change of the loss without each unit.

    Without unit u every layer that reads it sees a zero, so the change is the inner product of u's values with the gradient of
    the loss by them. At such a layer that is ``sum(w * dL/dw)`` over its weights for u, so no activation has to be kept.
    """
    learning = copy.deepcopy(net).eval().requires_grad_(True)
    totals = [torch.zeros(group.count) for group in groups]
    batches = 0
    for loss in losses(learning):
        learning.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for total, group in zip(totals, groups, strict=True):
            total += _first_order(learning, group) ** 2
        batches += 1
    return [total / max(batches, 1) for total in totals]


def _first_order(net: nn.Module, group: Group) -> Tensor:
    change = torch.zeros(group.count)
    for cut in group.cuts:
        weight = getattr(_owner(net, cut.name), "weight", None)
        if cut.reads and weight is not None and weight.grad is not None:
            change += _per_unit(weight.detach() * weight.grad, 1, cut.units, group.count)
    return change


def _owner(net: nn.Module, name: str) -> nn.Module | nn.Parameter:
    path, _, key = name.rpartition(".")
    found = getattr(net.get_submodule(path), key) if key else net
    assert isinstance(found, (nn.Module, nn.Parameter))
    return found


def _per_unit(values: Tensor, axis: int, units: Tensor, count: int) -> Tensor:
    """The sums of `values` over all other axes, then over the positions of each unit, (count,)."""
    sums = values.movedim(axis, 0).flatten(1).sum(1) if values.ndim > 1 else values
    own = units >= 0
    return torch.zeros(count).index_add_(0, units[own], sums[own].float().cpu())
