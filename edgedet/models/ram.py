"""RAM-Net: ResNet-50 with residual attention modules in the bottlenecks of stages 2 and 3, and its published ablations.

Source: "Design of an AI Image Discrimination Network Incorporating a Residual Attention Mechanism", section on the network. A
module acts on F, what the bottleneck's three convolutions give, before the shortcut is added; the shortcut is in every variant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import timm
import torch
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.blocks import ChannelGate, SpatialGate
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess

Variant = Literal["parallel", "sequential", "channel", "spatial", "noresidual"]
Placement = Literal["every_block", "stage_end"]

STAGES = ("layer2", "layer3")


class ResidualAttention(nn.Module):
    """The module, (B, C, H, W) -> (B, C, H, W), with channel gate Ac and spatial gate As.

    parallel: ``F + F Ac(F) As(F)``, both gates of the same F.
    sequential: ``F + T As(T)`` with ``T = F Ac(F)``.
    channel: ``F + F Ac(F)``. spatial: ``F + F As(F)``. noresidual: ``F Ac(F) As(F)``.
    """

    def __init__(self, channels: int, reduction: int = 16, *, variant: Variant = "parallel") -> None:
        super().__init__()
        self.variant = variant
        self.channel = ChannelGate(channels, reduction) if variant != "spatial" else None
        self.spatial = SpatialGate(7) if variant != "channel" else None

    def forward(self, x: Tensor) -> Tensor:
        attended = self._attended(x)
        return attended if self.variant == "noresidual" else x + attended

    def _attended(self, x: Tensor) -> Tensor:
        gated = x if self.channel is None else x * torch.as_tensor(self.channel(x))
        if self.spatial is None:
            return gated
        return gated * torch.as_tensor(self.spatial(gated if self.variant == "sequential" else x))

    def start_gates_at(self, bias: float) -> None:
        """Set the last bias of each gate: at -2 a gate lets about an eighth through, at 0 a half."""
        last = [self.channel.expand] if self.channel is not None else []
        last += [self.spatial.conv] if self.spatial is not None else []
        for layer in last:
            assert layer.bias is not None  # both are built with one
            nn.init.constant_(layer.bias, bias)


class _AttendedNorm(nn.Module):
    """The bottleneck's last BatchNorm, then the attention module: what the shortcut is added to."""

    def __init__(self, norm: nn.BatchNorm2d, variant: Variant) -> None:
        super().__init__()
        self.norm = norm
        self.attention = ResidualAttention(norm.num_features, variant=variant)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(self.norm(x))
        return attended


def ram_net(
    *,
    variant: Variant = "parallel",
    placement: Placement = "every_block",
    gate_bias: float | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """RAM-Net, (B, 3, H, W) -> (B, 2), classes (real, fake).

    Parameters: parallel, sequential and noresidual 24,439,328; channel 24,438,338; spatial 23,513,120.

    placement: a module in each of the ten bottlenecks of stages 2 and 3, or only in the last one of each stage.
    gate_bias: where the gates' last biases start; None for PyTorch's own start, at which the product of two gates is near 1/4:
        a pretrained trunk then starts with F 5/4 times what it was trained to be. -2 starts the gates nearly closed.
    pretrained: ImageNet weights for the trunk, from timm's hub.

    Raises:
        ValueError: no such variant or placement.
    """
    for given, allowed in ((variant, get_args(Variant)), (placement, get_args(Placement))):
        if given not in allowed:
            raise ValueError(f"expected one of {', '.join(allowed)}, got {given!r}")
    net: nn.Module = timm.create_model("resnet50", pretrained=pretrained, num_classes=2)
    for stage in STAGES:
        blocks = list(net.get_submodule(stage).children())
        for block in blocks if placement == "every_block" else blocks[-1:]:
            norm = block.bn3
            if not isinstance(norm, nn.BatchNorm2d):
                raise ModelError(f"this timm's resnet50 has a {type(norm).__name__} where RAM-Net gates BatchNorm2d: take 1.0")
            block.bn3 = _AttendedNorm(norm, variant)
    for gate in gates_of(net):
        if gate_bias is not None:
            gate.start_gates_at(gate_bias)
    return net


def gates_of(net: nn.Module) -> list[ResidualAttention]:
    """The attention modules of a RAM-Net, in order of depth."""
    return [module for module in net.modules() if isinstance(module, ResidualAttention)]


def _ablation(variant: Variant) -> Callable[..., nn.Module]:
    """A builder of one variant, which its name says and no argument changes."""

    def build(
        *, placement: Placement = "every_block", gate_bias: float | None = None, pretrained: bool = False
    ) -> nn.Module:
        return ram_net(variant=variant, placement=placement, gate_bias=gate_bias, pretrained=pretrained)

    return build


def _line(build: Callable[..., nn.Module]) -> Detector:
    return Detector(
        build,
        "RAM-Net",
        Preprocess(height=256, width=256),
        classifier="fc",
        reference="resnet50",
        features="layer4",
        int8_notes="the gates stay in float: under 0.1 % of the multiply-accumulates and most of the loss",
    )


DETECTORS: Detectors = {
    "ram-net": _line(ram_net),
    "ram-net-sequential": _line(_ablation("sequential")),
    "ram-net-channel": _line(_ablation("channel")),
    "ram-net-spatial": _line(_ablation("spatial")),
    "ram-net-noresidual": _line(_ablation("noresidual")),
}
