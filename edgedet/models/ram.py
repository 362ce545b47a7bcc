"""RAM-Net: ResNet-50 with a residual attention module in every bottleneck of stages 2 and 3.

Source: "Design of an AI Image Discrimination Network Incorporating a Residual Attention Mechanism", section on the network:
``F' = F + F * Ac(F) * As(F)`` on the bottleneck's output before the shortcut is added; both gates read the same F.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.blocks import ChannelGate, SpatialGate
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


class ResidualAttention(nn.Module):
    """``F + F * Ac(F) * As(F)``, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelGate(channels, reduction)
        self.spatial = SpatialGate(7)

    def forward(self, x: Tensor) -> Tensor:
        channel, spatial = torch.as_tensor(self.channel(x)), torch.as_tensor(self.spatial(x))
        return x + x * channel * spatial


class _AttendedNorm(nn.Module):
    """The bottleneck's last BatchNorm, then the attention module: what the shortcut is added to."""

    def __init__(self, norm: nn.Module, channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.attention = ResidualAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(self.norm(x))
        return attended


def ram_net(*, pretrained: bool = False) -> nn.Module:
    """RAM-Net, parallel gates: (B, 3, H, W) -> (B, 2), classes (real, fake); 24,439,328 parameters.

    pretrained: ImageNet weights for the trunk, from timm's hub.
    """
    net: nn.Module = timm.create_model("resnet50", pretrained=pretrained, num_classes=2)
    for stage in (net.get_submodule("layer2"), net.get_submodule("layer3")):
        for block in stage.children():
            norm = block.bn3
            if not isinstance(norm, nn.BatchNorm2d):
                raise ModelError(f"this timm's resnet50 has a {type(norm).__name__} where RAM-Net gates BatchNorm2d: take 1.0")
            block.bn3 = _AttendedNorm(norm, norm.num_features)
    return net


def gates_of(net: nn.Module) -> list[torch.nn.Module]:
    """The attention modules of a RAM-Net, in order of depth."""
    return [module for module in net.modules() if isinstance(module, ResidualAttention)]


DETECTORS: Detectors = {
    "ram-net": Detector(
        ram_net,
        "RAM-Net",
        Preprocess(height=256, width=256),
        classifier="fc",
        reference="resnet50",
        features="layer4",
        int8_notes="the gates stay in float: under 0.1 % of the multiply-accumulates and most of the loss",
    ),
}
