"""Depth: residual blocks that are taken out whole, those first that change least what goes through them.

A block is replaced by what its shortcut gives, the identity. Which blocks have one is found by trial: with all its parameters
at zero, such a block gives what it takes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.models import structure


def blocks(net: nn.Module, x: Tensor) -> list[str]:
    """The names of the residual blocks that give what they take but for what they add, in order, for an input `x` (1, 3, H, W).

    They stand in a row: in a Sequential or a ModuleList.
    """
    taken: dict[str, Tensor] = {}

    def see(name: str) -> None:
        def hook(_: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            given = inputs[0] if len(inputs) == 1 else None
            if isinstance(given, Tensor) and isinstance(output, Tensor) and given.shape == output.shape:
                taken[name] = given

        handles.append(net.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    names = [
        f"{parent}.{key}" if parent else key
        for parent, row in net.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
        for key, block in row.named_children()
        if any(True for _ in block.parameters())
    ]
    for name in names:
        see(name)
    _quietly(net, x)
    for handle in handles:
        handle.remove()
    found = [name for name, given in taken.items() if _adds(net.get_submodule(name), given)]
    # A row of residual blocks gives what it takes as well: of rows within rows the blocks of the innermost count.
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def influence(net: nn.Module, names: Iterable[str], batches: Iterable[Tensor]) -> dict[str, float]:
    """How much each block changes what goes through it: 1 less the cosine of its input and its output, the mean over images.

    batches: float (B, 3, H, W), as the network takes them.
    Source: Men et al., "ShortGPT", arXiv 2403.03853, equation 1, on an image's values in one row.
    """
    totals, images = dict.fromkeys(names, 0.0), 0

    def measure(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            cosines = F.cosine_similarity(inputs[0].flatten(1), output.flatten(1), dim=1)
            totals[name] += float((1 - cosines).sum())

        return net.get_submodule(name).register_forward_hook(hook)

    handles = [measure(name) for name in totals]
    for batch in batches:
        _quietly(net, batch)
        images += len(batch)
    for handle in handles:
        handle.remove()
    return {name: total / max(images, 1) for name, total in totals.items()}


def shorten(net: nn.Module, changes: dict[str, float], share: float) -> list[str]:
    """Take the blocks of least influence out of `net`, in place: `share` of them stays, at least one. Gives their names."""
    goes = len(changes) - max(1, round(share * len(changes)))
    names = sorted(changes, key=lambda name: changes[name])[: max(goes, 0)]
    structure.apply(net, dict.fromkeys(names, ()))
    return names


def _adds(block: nn.Module, given: Tensor) -> bool:
    """Whether it gives what it takes when its parameters are zero; what a ReLU behind the sum lets through."""
    silent = copy.deepcopy(block).eval()
    with torch.no_grad():
        for parameter in silent.parameters():
            parameter.zero_()
        kept = given.abs()
        return torch.allclose(silent(kept), kept)


def _quietly(net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        net.eval()(x)
