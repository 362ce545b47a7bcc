"""Grad-CAM: the channels of a module's output, weighted by how the logit changes with each (needs torch).

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
equations 1 and 2; without the ReLU of equation 2, so that what speaks for real is seen as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from edgedet.errors import ExplainError, nearest
from edgedet.explain.tokens import grid_of, transformer
from edgedet.models.patchwise import Patchwise
from edgedet.models.pixels import PixelModel

Size = tuple[int, int]


def gradcam(model: PixelModel, pixels: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The logits (B,) and the map (B, h, w) at the module `layer` of the network, for uint8 (B, H, W, 3).

    ``sum_c a_c F_c`` with ``a_c`` the mean over places of the logit's gradient by F_c. At the map that a linear classifier
    averages this is the class activation map over the number of places.

    Raises:
        ExplainError: there is no such module, it is not called once, or its output is no map and no row of patches.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise ExplainError(f"layer {layer!r} gives no tensor: name another one")
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # what follows may work in place

    with torch.enable_grad(), _hooked(model.net, layer, keep):
        logits = model(pixels)
        if len(kept) != 1:
            raise ExplainError(f"layer {layer!r} is called {len(kept)} times in a forward pass: name another one")
        (slopes,) = torch.autograd.grad(logits.sum(), kept, allow_unused=True)
    if slopes is None:
        raise ExplainError(f"the logit does not depend on layer {layer!r}: name another one")
    features, by_place = (as_map(each, model, layer, (pixels.shape[1], pixels.shape[2])) for each in (kept[0].detach(), slopes))
    return logits.detach(), (by_place.mean((2, 3), keepdim=True) * features).sum(1)


def default_layer(model: PixelModel, features: str | None) -> str | None:
    """Where Grad-CAM looks when nothing is said: `features`, else before a ViT's last block, else the last map, if any."""
    if features is not None:
        return features
    if isinstance(model.net, Patchwise):
        return None  # its patches are images of their own
    found = transformer(model.net)
    if found is not None:
        name, vit = found
        return f"{name}.blocks.{len(list(vit.blocks.children())) - 1}.norm1".removeprefix(".")
    return _last_map(model)


def as_map(output: Tensor, model: PixelModel, layer: str, size: Size) -> Tensor:
    """A module's output as (B, C, h, w): it may have its channels last, or be the row of a ViT's tokens.

    Raises:
        ExplainError: it is neither.
    """
    if output.ndim == 3:
        return grid_of(model.net, output, layer)
    if output.ndim != 4:
        raise ExplainError(f"layer {layer!r} gives {tuple(output.shape)}, expected a map (B, C, h, w): name another one")
    _, first, second, last = output.shape
    channels_last = second * size[1] != last * size[0] and first * size[1] == second * size[0]
    return output.permute(0, 3, 1, 2) if channels_last else output


@contextlib.contextmanager
def _hooked(net: nn.Module, layer: str, hook: Callable[[nn.Module, object, Tensor], Tensor]) -> Iterator[None]:
    modules = dict(net.named_modules())
    if layer not in modules:
        raise ExplainError(f"no layer is called {layer!r}{nearest(layer, [name for name in modules if name])}")
    handle = modules[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _last_map(model: PixelModel) -> str | None:
    """The module whose output is the last map (B, C, h, w) of several channels and places in a forward pass."""
    found: list[str] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[1:]) > 1:
                found.append(name)

        return hook

    named = [(name, module) for name, module in model.net.named_modules() if name]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    side = model.preprocess
    with torch.no_grad():
        model(torch.zeros(1, side.height, side.width, 3, dtype=torch.uint8))
    for handle in handles:
        handle.remove()
    return found[-1] if found else None
