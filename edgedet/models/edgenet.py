"""EdgeNet: edgedet's own family for 32-pixel crops and for photographs.

Made for INT8 kernels: dense 3x3 convolutions, ReLU only, no gates, widths that are multiples of 8, and few layers, because at
these sizes a runtime pays per layer. ``plain`` blocks have no additions, which cost a requantisation each; ``residual`` blocks
(He et al., CVPR 2016, basic block) train deeper teachers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgedet.models.blocks import conv_bn_relu
from edgedet.models.table import BYTE_MEAN, BYTE_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

Block = Literal["plain", "residual"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, (B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride=stride)
        self.conv2 = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class EdgeNet(nn.Module):
    """Stem, stages, global average pool, one logit: (B, 3, H, W) -> (B, 1)."""

    def __init__(
        self, *, stem: int, stem_stride: int, widths: Sequence[int], depths: Sequence[int], strides: Sequence[int], block: Block
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu(3, stem, stride=stem_stride)]
        inputs = stem
        for width, depth, stride in zip(widths, depths, strides, strict=True):
            for position in range(depth):
                layers.append(_block(block, inputs, width, stride if position == 0 else 1))
                inputs = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.features(x).mean((2, 3))
        logits: Tensor = self.head(pooled)
        return logits


def _block(kind: Block, inputs: int, outputs: int, stride: int) -> nn.Module:
    return ResidualBlock(inputs, outputs, stride) if kind == "residual" else conv_bn_relu(inputs, outputs, stride=stride)


def edgenet(
    *,
    stem: int = 32,
    stem_stride: int = 2,
    widths: Sequence[int] = (32, 64, 64),
    depths: Sequence[int] = (1, 2, 2),
    strides: Sequence[int] = (1, 2, 2),
    block: Block = "plain",
) -> EdgeNet:
    """Any member of the family. Widths must be multiples of 8.

    Raises:
        ValueError: a width that INT8 kernels would pad, or lists of different lengths.
    """
    odd = [width for width in (stem, *widths) if width % 8 or width <= 0]
    if odd:
        raise ValueError(f"widths must be positive multiples of 8 (INT8 kernels pad others), got {odd}")
    if not len(widths) == len(depths) == len(strides):
        raise ValueError(f"widths, depths and strides must be equally long, got {len(widths)}, {len(depths)}, {len(strides)}")
    return EdgeNet(stem=stem, stem_stride=stem_stride, widths=widths, depths=depths, strides=strides, block=block)


def edge32(*, width: int = 32) -> EdgeNet:
    """The student for 32-pixel crops: six plain convolutions, `width` channels at the stem, at most three times that."""
    return edgenet(stem=width, widths=(width, 2 * width, 3 * width), depths=(1, 2, 2), strides=(1, 2, 2))


def edge32_teacher(*, width: int = 64) -> EdgeNet:
    """A teacher for 32-pixel crops: a stem at full resolution, then two residual blocks at 1/2, 1/4 and 1/8 of it.

    At the same cost in training this is more accurate than blocks at full resolution: those take most of the time.
    """
    return edgenet(
        stem=32,
        stem_stride=1,
        widths=(width, 2 * width, 4 * width),
        depths=(2, 2, 2),
        strides=(2, 2, 2),
        block="residual",
    )


def edge224(*, width: int = 24) -> EdgeNet:
    """The student for photographs at 128 to 256 pixels: residual stages at 1/4 to 1/16 resolution."""
    return edgenet(
        stem=width,
        stem_stride=2,
        widths=(width, 2 * width, 4 * width, 6 * width),
        depths=(1, 1, 2, 2),
        strides=(2, 2, 2, 2),
        block="residual",
    )


_SMALL = Preprocess(height=32, width=32, geometry="resize_squash", mean=BYTE_MEAN, std=BYTE_STD)
_PIXELS = "the uint8 pixels are the quantized input: no float pass over the image"

DETECTORS: Detectors = {
    "edge32": Detector(edge32, "edgedet", _SMALL, features="features", int8_notes=_PIXELS),
    "edge32-teacher": Detector(edge32_teacher, "edgedet", _SMALL, features="features", int8_notes=_PIXELS),
    "edge224": Detector(
        edge224,
        "edgedet",
        Preprocess(geometry="crop_only", mean=BYTE_MEAN, std=BYTE_STD),
        features="features",
        int8_notes=_PIXELS,
    ),
    "edgenet": Detector(edgenet, "edgedet", _SMALL, features="features", int8_notes=_PIXELS),
}
