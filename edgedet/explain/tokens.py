"""The tokens of timm's vision transformers: which network has them, and which patch each stands for (needs torch)."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from edgedet.errors import ExplainError


def transformer(net: nn.Module) -> tuple[str, VisionTransformer] | None:
    """The one ViT inside `net`, with its name; None when there is none, or several."""
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, VisionTransformer)]
    return found[0] if len(found) == 1 else None


def grid_of(net: nn.Module, tokens: Tensor, what: str) -> Tensor:
    """Tokens (B, N, C) as the map (B, C, h, w) of their patches; those in front, that stand for none, are left out.

    Raises:
        ExplainError: they are not the tokens of a ViT; `what` names them.
    """
    found = transformer(net)
    if found is None:
        raise ExplainError(f"{what!r} gives {tuple(tokens.shape)}, and the network has no ViT whose patches these could be")
    height, width = patches_of(found[1])
    prefix = tokens.shape[1] - height * width
    if prefix != found[1].num_prefix_tokens:
        raise ExplainError(f"{what!r} gives {tokens.shape[1]} tokens, the ViT has {height}x{width} patches")
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width)


def patches_of(vit: VisionTransformer) -> tuple[int, int]:
    """Its patches along height and width."""
    embedding: Any = vit.patch_embed
    height, width = embedding.grid_size
    return int(height), int(width)
