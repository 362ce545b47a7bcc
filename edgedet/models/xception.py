"""Xception, a baseline of the RAM-Net study. Source: Chollet, CVPR 2017."""

from __future__ import annotations

import timm
from torch import nn

from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


def xception(*, pretrained: bool = False) -> nn.Module:
    """Xception with two classes (real, fake), 41 layers deep; 20,811,050 parameters.

    pretrained: ImageNet weights, from timm's hub; they were trained at 299 pixels with the same mean and std.
    """
    net: nn.Module = timm.create_model("legacy_xception", pretrained=pretrained, num_classes=2)
    return net


DETECTORS: Detectors = {
    "xception": Detector(
        xception,
        "Chollet, CVPR 2017",
        Preprocess(height=256, width=256),
        classifier="fc",
        reference="legacy_xception",
        features="act4",
    ),
}
