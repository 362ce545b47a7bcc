"""Several networks as one: the mean of their logits, as one network that is distilled, pruned and exported like any other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_MORE_THAN_A_PASS = ("front_end", "deploy", "outputs", "penalty", "patch_grid")
"""What `edgedet.models.pixels.PixelModel` asks a network for besides its forward pass; a mean has no such thing."""


class Ensemble(nn.Module):
    """(B, 3, H, W) -> (B, 1): one linear layer over the members' embeddings side by side.

    The mean of linear classifiers is a linear classifier of all that they read. Built from networks whose last step is one,
    which is taken out of them.

    Raises:
        ValueError: fewer than two members, or one that is more than a forward pass which ends in a linear layer.
    """

    def __init__(self, members: Sequence[nn.Module], classifiers: Sequence[str]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble has two members or more, got {len(members)}")
        heads = [_taken_out(member, name) for member, name in zip(members, classifiers, strict=True)]
        self.members = nn.ModuleList(members)
        self.head = nn.Linear(sum(head.in_features for head in heads), 1)
        self._average(heads)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.cat([member(x) for member in self.members], 1))
        return logits

    @torch.no_grad()
    def _average(self, heads: Sequence[nn.Linear]) -> None:
        """The mean of `heads`; of two classes, the logit of fake less that of real."""
        rows = [(_fake(head.weight), _fake(head.bias)) for head in heads]
        self.head.weight.copy_(torch.cat([weight for weight, _ in rows], 1) / len(rows))
        self.head.bias.copy_(torch.stack([bias for _, bias in rows]).mean(0))


def _fake(of_classes: Tensor) -> Tensor:
    """(1, ...) as it is; (2, ...), for real and fake, as (1, ...)."""
    return of_classes if len(of_classes) == 1 else of_classes[1:] - of_classes[:1]


def _taken_out(member: nn.Module, name: str) -> nn.Linear:
    """The classifier of `member`, in whose place there is nothing any more."""
    more = [each for each in _MORE_THAN_A_PASS if getattr(member, each, None) is not None]
    if more:
        raise ValueError(f"a {type(member).__name__} cannot be a member: it has {', '.join(more)} besides its forward pass")
    layer = member.get_submodule(name)
    if not isinstance(layer, nn.Linear) or layer.bias is None or layer.out_features > 2:
        kind = type(member).__name__
        raise ValueError(f"a {kind} cannot be a member: it does not end in a linear layer of one or two logits")
    parent, _, key = name.rpartition(".")
    setattr(member.get_submodule(parent), key, nn.Identity())
    return layer
