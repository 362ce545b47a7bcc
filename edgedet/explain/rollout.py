"""Attention rollout: how much each patch's embedding owes to each patch of the image, through all blocks (needs torch).

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3: the attention of a block, averaged
over its heads, counts half and the residual connection the other half; the blocks' matrices are multiplied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgedet.errors import ExplainError
from edgedet.explain.tokens import patches_of, transformer
from edgedet.models.patchwise import Patchwise
from edgedet.models.pixels import PixelModel


def has_rollout(net: nn.Module) -> bool:
    """Whether `net` has one ViT, which reads the whole image and whose every block has attention that can be looked at."""
    found = transformer(net)
    return found is not None and not isinstance(net, Patchwise) and all(_is_open(block) for block in found[1].blocks.children())


def rollout(model: PixelModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The logits (B,) and the map (B, h, w), which with what goes to other tokens sums to 1, for uint8 (B, H, W, 3).

    It is the row of the class token, or the mean over all patches where the network averages them.

    Raises:
        ExplainError: no such ViT, or one that is called several times.
    """
    found = transformer(model.net)
    if found is None or not has_rollout(model.net):
        raise ExplainError("rollout needs one ViT, with attention over the whole image in every block: take gradcam")
    vit = found[1]
    with torch.no_grad(), _watched(vit) as seen:
        logits = model(pixels)
    blocks = len(list(vit.blocks.children()))
    if len(seen) != blocks:
        raise ExplainError(f"the ViT of {blocks} blocks attends {len(seen)} times in a forward pass: take gradcam")
    flow = accumulate(seen)
    prefix, (height, width) = vit.num_prefix_tokens, patches_of(vit)
    rows = flow[:, 0] if vit.global_pool == "token" else flow[:, prefix:].mean(1)
    return logits, rows[:, prefix:].reshape(-1, height, width)


def accumulate(attentions: list[Tensor]) -> Tensor:
    """The product (B, N, N), last block first, of ``(A + I) / 2`` for each A (B, N, N) whose rows sum to 1."""
    flow = torch.eye(attentions[0].shape[-1]).expand_as(attentions[0])
    for attention in attentions:
        flow = (attention + torch.eye(attention.shape[-1])) / 2 @ flow
    return flow


def _is_open(block: nn.Module) -> bool:
    attention = getattr(block, "attn", None)
    return isinstance(getattr(attention, "attn_drop", None), nn.Module) and hasattr(attention, "fused_attn")


@contextlib.contextmanager
def _watched(vit: nn.Module) -> Iterator[list[Tensor]]:
    """The attention of each block as it is computed, averaged over heads; fused kernels, which do not show it, are off."""
    seen: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0].float().mean(1).cpu())

    layers: list[Any] = [block.get_submodule("attn") for block in vit.get_submodule("blocks").children()]
    fused = [layer.fused_attn for layer in layers]
    handles = [layer.attn_drop.register_forward_pre_hook(note) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield seen
    finally:
        for layer, before, handle in zip(layers, fused, handles, strict=True):
            layer.fused_attn = before
            handle.remove()
