"""ResNet-50, the plain baseline of the papers. Source: He et al., CVPR 2016."""

from __future__ import annotations

import timm
from torch import nn

from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


def resnet50(*, pretrained: bool = False) -> nn.Module:
    """ResNet-50 with two classes (real, fake); 23,512,130 parameters."""
    net: nn.Module = timm.create_model("resnet50", pretrained=pretrained, num_classes=2)
    return net


DETECTORS: Detectors = {
    "resnet50": Detector(
        resnet50,
        "He et al., CVPR 2016",
        Preprocess(height=256, width=256),
        classifier="fc",
        reference="resnet50",
        features="layer4",
    ),
}
