"""Gram-Net: ResNet-18 with six branches that look at the texture of its maps, whatever is where.

Source: Liu, Qi, Torr, "Global Texture Enhancement for Fake Face Detection in the Wild", CVPR 2020, section 4, on images of 512
pixels a side. (The RAM-Net study, whose baseline it is, takes its name for that of a relational attention module.)
"""

from __future__ import annotations

import math

import timm
import torch
from torch import Tensor, nn

from edgedet.models.blocks import conv_bn_relu
from edgedet.models.layout import Layout
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess

TAPS = (3, 64, 64, 64, 128, 256)
"""Channels of what the branches read: the image, the stem's convolution, its pool, and the first three stages."""

_TEXTURES = 32


class GramMatrix(nn.Module):
    """``F F' / (C H W)``: how channels of a map occur together, (B, C, H, W) -> (B, 1, C, C), an image of one channel."""

    def layout(self) -> Layout:
        """Its channels are no longer channels behind it."""
        return Layout(refused="the channels that it reads become the sides of a matrix")

    def forward(self, x: Tensor) -> Tensor:
        # Both factors are divided, by the root: the sum over an image's positions would leave half precision's range above, and
        # one factor divided by all of it would leave it below.
        flat = x.flatten(2)
        scaled = flat / math.sqrt(flat.shape[1] * flat.shape[2])
        return torch.bmm(scaled, scaled.transpose(1, 2)).unsqueeze(1)


class GramBranch(nn.Module):
    """A map's Gram matrix as 32 features, (B, C, H, W) -> (B, 32)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.textures = conv_bn_relu(channels, _TEXTURES)
        self.gram = GramMatrix()
        self.reduce = nn.Sequential(conv_bn_relu(1, 16, stride=2), conv_bn_relu(16, _TEXTURES, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.reduce(self.gram(self.textures(x)))).mean((2, 3))


class GramNet(nn.Module):
    """(B, 3, H, W) -> (B, 2), classes (real, fake); 11,734,722 parameters."""

    def __init__(self, *, pretrained: bool) -> None:
        super().__init__()
        trunk = timm.create_model("resnet18", pretrained=pretrained, num_classes=0)
        part = trunk.get_submodule
        stem = nn.Sequential(part("bn1"), part("act1"), part("maxpool"))
        self.stages = nn.ModuleList([part("conv1"), stem, part("layer1"), part("layer2"), part("layer3")])
        self.last: nn.Module = part("layer4")
        self.branches = nn.ModuleList(GramBranch(channels) for channels in TAPS)
        self.hidden = nn.Linear(512 + len(TAPS) * _TEXTURES, 512)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(512, 2)

    def forward(self, x: Tensor) -> Tensor:
        taps = [x]
        for stage in self.stages:
            taps.append(stage(taps[-1]))
        textures = [branch(tap) for branch, tap in zip(self.branches, taps, strict=True)]
        content = torch.as_tensor(self.last(taps[-1])).mean((2, 3))
        logits: Tensor = self.head(self.dropout(torch.relu(self.hidden(torch.cat([content, *textures], dim=1)))))
        return logits


def gram_net(*, pretrained: bool = False) -> GramNet:
    """Gram-Net; `pretrained`: ImageNet weights for the trunk, from timm's hub."""
    return GramNet(pretrained=pretrained)


DETECTORS: Detectors = {
    "gram-net": Detector(
        gram_net,
        "Liu et al., CVPR 2020",
        Preprocess(height=256, width=256),
        int8_notes="the Gram matrices stay in float",
    ),
}
