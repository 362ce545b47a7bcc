"""NPR: neighbouring pixel relationships and half a ResNet-50.

Source: Tan et al., "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable Deepfake
Detection", CVPR 2024. Written from its facts: residual of nearest sampling by 1/2, times 2/3, a 3x3 stride-2 stem, ResNet-50's
first two stages, global average pool, one logit.
"""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from edgedet.models.blocks import NearestResidual
from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess


class Npr(nn.Module):
    """(B, 3, H, W) residuals, normalised -> (B, 1); H and W even; 1,437,761 parameters, trained from scratch.

    `front_end` runs on raw pixel values, before normalisation: see `edgedet.models.pixels`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.front_end = NearestResidual(0.5)
        trunk = timm.create_model("resnet50", num_classes=0)
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1: nn.Module = trunk.get_submodule("bn1")
        self.act1: nn.Module = trunk.get_submodule("act1")
        self.maxpool: nn.Module = trunk.get_submodule("maxpool")
        self.layer1: nn.Module = trunk.get_submodule("layer1")
        self.layer2: nn.Module = trunk.get_submodule("layer2")
        self.head = nn.Linear(512, 1)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x * (2 / 3)))))
        logits: Tensor = self.head(torch.mean(self.layer2(self.layer1(x)), (2, 3)))
        return logits


def npr() -> Npr:
    """The published baseline."""
    return Npr()


DETECTORS: Detectors = {
    "npr": Detector(
        npr,
        "Tan et al., CVPR 2024",
        Preprocess(geometry="resize_shorter_crop", resize=256, multiple=2, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        front_end="x - up(down(x)), nearest, by 1/2",
        features="layer2",
        export_notes="sides are even; the residual is exact in float32 on pixel values",
        int8_notes="the residual stays in float",
    ),
}
