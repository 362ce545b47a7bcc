"""Depth: residual blocks that are taken out whole, those first that change least what goes through them.

A block is replaced by what its shortcut gives, the identity. Which blocks have one is found by trial: with all its parameters
at zero, such a block gives what it takes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.models import structure


def blocks(net: nn.Module, x: Tensor) -> list[str]:
    """The names of the residual blocks that give what they take but for what they add, in order, for an input `x` (1, 3, H, W).

    They stand in a row: in a Sequential or a ModuleList.
    """
    taken: dict[str, Tensor] = {}

    def see(name: str, given: object, output: object) -> None:
        if isinstance(given, Tensor) and isinstance(output, Tensor) and given.shape == output.shape:
            taken[name] = given

    names = [
        f"{parent}.{key}" if parent else key
        for parent, row in net.named_modules()
        if isinstance(row, nn.Sequential | nn.ModuleList)
        for key, block in row.named_children()
        if any(True for _ in block.parameters())
    ]
    with _seen(net, names, see):
        _quietly(net, x)
    found = [name for name, given in taken.items() if _adds(net.get_submodule(name), given)]
    # A row of residual blocks gives what it takes as well: of rows within rows the blocks of the innermost count.
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def influence(net: nn.Module, names: Iterable[str], batches: Iterable[Tensor]) -> dict[str, float]:
    """How much each block changes what goes through it: 1 less the cosine of its input and its output, the mean over images.

    batches: float (B, 3, H, W), as the network takes them.
    Source: Men et al., "ShortGPT", arXiv 2403.03853, equation 1, on an image's values in one row.
    """
    totals, images = dict.fromkeys(names, 0.0), 0

    def measure(name: str, given: Tensor, output: Tensor) -> None:
        totals[name] += float((1 - F.cosine_similarity(given.flatten(1), output.flatten(1), dim=1)).sum())

    with _seen(net, totals, measure):
        for batch in batches:
            _quietly(net, batch)
            images += len(batch)
    return {name: total / max(images, 1) for name, total in totals.items()}


def shorten(net: nn.Module, changes: dict[str, float], share: float) -> list[str]:
    """Take the blocks of least influence out of `net`, in place: `share` of them stays, at least one. Gives their names."""
    goes = len(changes) - max(1, round(share * len(changes)))
    names = sorted(changes, key=lambda name: changes[name])[: max(goes, 0)]
    structure.apply(net, dict.fromkeys(names, ()))
    return names


@contextmanager
def _seen(net: nn.Module, names: Iterable[str], see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Tell `see` the name, the input (None of several) and the output of these layers, in the passes made inside the block."""
    with ExitStack() as held:
        for name in names:
            told = functools.partial(_tell, see, name)
            held.callback(net.get_submodule(name).register_forward_hook(told).remove)
        yield


def _tell(see: Callable[[str, Any, Any], None], name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    see(name, inputs[0] if len(inputs) == 1 else None, output)


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
