"""EfficientNetV2-B0 with one layer of self-attention over its last map.

Source: "AI Generated and Real Image Classification with Transfer Learning and Self-Attention", sections on the architecture and
on attention rollout. The published text leaves the widths of queries and values and the shortcut open.
"""

from __future__ import annotations

from typing import Literal

import timm
import torch
from torch import Tensor, nn

from edgedet.models.layout import Layout, Part, Units
from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

Variant = Literal["gated", "full", "no_residual"]
_CHANNELS = 1280


class AttentionPool(nn.Module):
    """Self-attention between the positions of a map, and the mean over them: (B, C, h, w) -> (B, C).

    With tokens T, ``A = softmax(Q K^T / sqrt(d))`` and V from LayerNorm(T), the output is the mean over positions of
    ``T + g A V``; g is learned from 0, is 1, or T is left out. The mean of ``A V`` is the mean of A times V, and as A's rows
    sum to 1, V's linear layer may come last: one row an image goes through it instead of h w.

    :meth:`attend` gives the mean over queries of A besides, how much each position is attended to: attention rollout of one
    layer.
    """

    def __init__(self, channels: int, width: int, *, residual: bool, gated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width)
        self.value = nn.Linear(channels, channels)
        self.gate = nn.Parameter(torch.zeros(1)) if gated else None
        self.scale = width**-0.5
        self.residual = residual

    def layout(self) -> Layout:
        """Which widths are one channel's, for pruning; with a shortcut, what comes out is the channel that went in."""
        reads = tuple(Part(name, 1) for name in ("query", "key", "value"))
        channels, made = (Part("norm", 0), *reads), (Part("value", 0),)
        count = self.value.in_features
        if self.residual:
            return Layout(through=Units(count, (*channels, *made)), mixes=True)
        return Layout(reads=Units(count, channels), gives=Units(self.value.out_features, made), mixes=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.attend(features)[0]

    def attend(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> pooled (B, C), attention (B, h, w), each of which sums to 1."""
        tokens = features.flatten(2).transpose(1, 2)  # (B, h w, C)
        normed = self.norm(tokens)
        scores = (self.query(normed) * self.scale) @ self.key(normed).transpose(1, 2)
        attention = scores.softmax(dim=2).mean(1, keepdim=True)  # (B, 1, h w)
        pooled = self.value((attention @ normed).squeeze(1))
        if self.gate is not None:
            pooled = self.gate * pooled
        if self.residual:
            pooled = tokens.mean(1) + pooled
        return pooled, attention.reshape(features.shape[0], *features.shape[2:])


class AttentionEfficientNet(nn.Module):
    """(B, 3, H, W) -> (B, 1); `outputs` has ``attention`` (B, H / 32, W / 32) besides, each of which sums to 1."""

    def __init__(self, backbone: nn.Module, attention: AttentionPool) -> None:
        super().__init__()
        self.backbone = backbone
        self.attention = attention
        self.hidden = nn.Linear(_CHANNELS, 64)
        self.dropout = nn.Dropout(0.6)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self._classified(self.attention(self.backbone(x)))

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """``logit`` (B, 1) and ``attention`` (B, H / 32, W / 32)."""
        pooled, attention = self.attention.attend(self.backbone(x))
        return {"logit": self._classified(pooled), "attention": attention}

    def _classified(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(torch.relu(self.hidden(pooled))))
        return logits


def effnetv2_b0_attention(*, variant: Variant = "gated", pretrained: bool = False) -> AttentionEfficientNet:
    """Queries and keys of 160 and a learned gate on the shortcut; 7,992,914 parameters.

    variant: ``full``: queries and keys as wide as the map and a plain shortcut, 10,862,353 parameters, where attention is as
        large as the backbone; ``no_residual``: the text as it stands, without a shortcut, 7,992,913 parameters.
    pretrained: the backbone's ImageNet-1k weights from timm's hub.

    Raises:
        ValueError: another variant.
    """
    if variant not in ("gated", "full", "no_residual"):
        raise ValueError(f'`variant` is "gated", "full" or "no_residual", got {variant!r}')
    # With its global pool and classifier left out, timm's network gives the map, (B, 1280, H / 32, W / 32).
    backbone = timm.create_model("tf_efficientnetv2_b0.in1k", pretrained=pretrained, num_classes=0, global_pool="")
    width = _CHANNELS if variant == "full" else 160
    attention = AttentionPool(_CHANNELS, width, residual=variant != "no_residual", gated=variant == "gated")
    return AttentionEfficientNet(backbone, attention)


DETECTORS: Detectors = {
    "effnetv2-b0-attention": Detector(
        effnetv2_b0_attention,
        "AI Generated and Real Image Classification (EfficientNetV2-B0 and self-attention)",
        Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        reference="tf_efficientnetv2_b0",
        export_notes="TensorFlow's padding is static in the graph: (0, 1) on each axis of a stride-2 convolution",
        int8_notes="the attention core and the squeeze-and-excitation gates stay in float",
    ),
}
