"""A trial of every group before anything is taken from it: what is removed must be what nothing would have read.

torch-pruning follows a network through its gradients, and where channels are shuffled, multiplied with each other or reshaped
it can follow wrongly, in silence. The trial takes two passes, so it is made of every network, one of ours or any of timm's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgedet.compress.groups import Found, Group
from edgedet.compress.removal import narrower
from edgedet.models import structure

_PART = 3  # a third of a group's units is taken away
_RELATIVE = 1e-6
_WRONG = "the layers around it cannot be followed: removing its units is not the same as ignoring them"


def proven(net: nn.Module, x: Tensor, found: Found) -> Found:
    """`found` without the groups that fail: those whose removal breaks the network or, where nothing mixes their units, changes
    its logits from those of the whole network without the weights that read them.

    x: float (1, 3, H, W), only its shape counts.
    """
    exact = copy.deepcopy(net).double().eval()
    image = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tried = [group for group in found.groups if group.count > 1]
    groups = {mixing: [group for group in tried if group.mixes is mixing] for mixing in (False, True)}
    with torch.no_grad():
        failed = [
            *_failing(groups[False], lambda some: _same(exact, image, some)),
            *_failing(groups[True], lambda some: _runs(exact, image, some)),
        ]
    names = {group.name for group in failed}
    left = tuple(group for group in found.groups if group not in failed)
    return Found(left, {**found.reasons, **dict.fromkeys(sorted(names), _WRONG)})


def _failing(groups: Sequence[Group], holds: Callable[[Sequence[Group]], bool]) -> list[Group]:
    """Those for which it does not hold: all are tried together, and each alone only when that fails."""
    return [] if not groups or holds(groups) else [group for group in groups if not holds([group])]


def _same(net: nn.Module, image: Tensor, groups: Sequence[Group]) -> bool:
    wanted = _logits(_unread(net, groups), image)
    found = _logits(narrower(net, groups, _kept(groups)), image)
    if wanted is None or found is None:
        return False
    return torch.allclose(found, wanted, rtol=_RELATIVE, atol=_RELATIVE * float(wanted.abs().max()))


def _runs(net: nn.Module, image: Tensor, groups: Sequence[Group]) -> bool:
    return _logits(narrower(net, groups, _kept(groups)), image) is not None


def _kept(groups: Sequence[Group]) -> list[Tensor]:
    """All but a third of each group's units, spread over it, the same at every call."""
    return [torch.arange(group.count) % _PART != group.count % 2 for group in groups]


def _unread(net: nn.Module, groups: Sequence[Group]) -> nn.Module:
    """A copy in which the weights that read the missing units are zero."""
    made = copy.deepcopy(net)
    for group, kept in zip(groups, _kept(groups), strict=True):
        for cut in group.cuts:
            if cut.reads:
                gone = (cut.units >= 0) & ~kept[cut.units.clamp_min(0)]
                layer = made.get_submodule(cut.name)
                for key, axis in structure.axes(layer, cut.slot):
                    getattr(layer, key).movedim(axis, 0)[gone] = 0
    return made


def _logits(net: nn.Module, image: Tensor) -> Tensor | None:
    """None where the network does not run: its widths do not fit each other."""
    try:
        return torch.as_tensor(net(image))
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return None
