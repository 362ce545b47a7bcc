"""Taking units out of a network: how many of each group for a share, and the narrower network itself.

What is left is described by its structure alone, and the weights are slices of those before: the network that pruning makes and
the one that is rebuilt from a manifest are made by the same code.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgedet.compress.groups import Group
from edgedet.models import structure

Kept = Sequence[Tensor]
"""For each group, which of its units stay: bool (count,)."""

_FINE = 100
"""Shares are tried in hundredths."""


@dataclass(frozen=True)
class Limits:
    """round_to: widths that are cut become multiples of it; max_share: the most that one group may lose."""

    round_to: int = 8
    max_share: float = 0.75

    def least(self, group: Group) -> int:
        """How many units of `group` must stay."""
        step = self.step(group)
        least = math.ceil(round(group.count * (1 - self.max_share), 6))
        return min(group.count, max(1, math.ceil(least / step)) * step)

    def nearest(self, group: Group, stays: int) -> int:
        """The nearest to `stays` that may be left of `group`: a multiple of its step, or all of it."""
        step = self.step(group)
        multiple = max(int((stays + step / 2) // step) * step, self.least(group))
        return group.count if group.count - stays <= abs(multiple - stays) else multiple

    def step(self, group: Group) -> int:
        """How many units go at a time: a head is as wide as it is."""
        return 1 if group.kind == "heads" else self.round_to


def choose(groups: Sequence[Group], scores: Sequence[Tensor], share: float, limits: Limits) -> list[Tensor]:
    """What stays when the share of the units that score least goes; each kind loses that share, wherever its least are.

    Kinds are ranked apart: how much less a head weighs than a channel says nothing (Fang et al., Isomorphic Pruning, ECCV
    2024). Of each group as many stay as its kernels suit.
    """
    together = defaultdict(list)
    for group, score in zip(groups, scores, strict=True):
        together[group.kind].append(score)
    below = {kind: _least(torch.cat(each), share) for kind, each in together.items()}
    kept = []
    for group, score in zip(groups, scores, strict=True):
        count = limits.nearest(group, group.count - int((score <= below[group.kind]).sum()))
        mask = torch.zeros(group.count, dtype=torch.bool)
        mask[score.argsort(descending=True, stable=True)[:count]] = True
        kept.append(mask)
    return kept


def _least(scores: Tensor, share: float) -> float:
    """The score at or below which that share of all is."""
    count = int(len(scores) * share)
    return float(scores.sort().values[count - 1]) if count else float("-inf")


def until(
    net: nn.Module, groups: Sequence[Group], scores: Sequence[Tensor], limits: Limits, enough: Callable[[nn.Module], bool]
) -> Kept | None:
    """What stays when the least share goes with which the narrower network is `enough`; None when no share is.

    A larger share leaves less of every group, so the share is found by halving: as few networks are measured as possible.
    """

    def of(hundredths: int) -> list[Tensor]:
        return choose(groups, scores, hundredths / _FINE, limits)

    def suits(hundredths: int) -> bool:
        return enough(narrower(net, groups, of(hundredths)))

    if not suits(_FINE):
        return None
    low, high = 0, _FINE
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suits(middle) else (middle, high)
    return of(high)


def narrower(net: nn.Module, groups: Sequence[Group], kept: Kept) -> nn.Module:
    """A copy of `net` without what does not stay; tensors that nothing is taken from are shared."""
    memo: dict[int, object] = {id(tensor): tensor for tensor in itertools.chain(net.parameters(), net.buffers())}
    made = copy.deepcopy(net, memo)
    remove(made, groups, kept)
    return made


def remove(net: nn.Module, groups: Sequence[Group], kept: Kept) -> None:
    """Take out of `net`, in place, what does not stay."""
    stays: dict[tuple[str, int], Tensor] = {}
    for group, mask in zip(groups, kept, strict=True):
        if not mask.all():
            for cut in group.cuts:
                own = (cut.units < 0) | mask[cut.units.clamp_min(0)]
                stays[cut.name, cut.slot] = stays.get((cut.name, cut.slot), torch.ones_like(own)) & own
    widths = structure.describe(net)
    owners = {**dict(net.named_parameters()), **dict(net.named_modules())}
    state = net.state_dict()
    for (name, slot), mask in stays.items():
        widths[name][slot] = int(mask.sum())
        for key, axis in structure.axes(owners[name], slot):
            tensor = ".".join(part for part in (name, key) if part)
            if tensor in state:
                state[tensor] = state[tensor].index_select(axis, mask.nonzero()[:, 0].to(state[tensor].device))
    structure.apply(net, {name: widths[name] for name, _ in stays})
    net.load_state_dict(state, assign=True)
