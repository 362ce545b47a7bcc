"""MobileNetV4-Conv-Small: inverted bottlenecks with ReLU and without squeeze-and-excitation.

Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024. Built as timm builds it.
"""

from __future__ import annotations

import timm
from torch import nn

from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

_TIMM = "mobilenetv4_conv_small"


def mobilenetv4_small(*, pretrained: bool = False) -> nn.Module:
    """One logit; 2,494,305 parameters.

    pretrained: ImageNet weights from timm's hub.
    """
    net: nn.Module = timm.create_model(_TIMM, pretrained=pretrained, num_classes=1)
    return net


DETECTORS: Detectors = {
    "mobilenetv4-small": Detector(
        mobilenetv4_small,
        "Qin et al., ECCV 2024",
        Preprocess(geometry="resize_shorter_crop", resize=256, interpolation="bicubic", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        classifier="classifier",
        reference=_TIMM,
        int8_notes="no gates, and ReLU alone: every convolution is INT8",
    ),
}
