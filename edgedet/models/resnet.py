"""ResNet-50, the plain baseline of the papers. Source: He et al., CVPR 2016."""

from __future__ import annotations

from typing import Literal

import timm
from torch import nn

from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess

Weights = bool | Literal["torchvision"]


def resnet50(*, pretrained: Weights = False) -> nn.Module:
    """ResNet-50 with two classes (real, fake); 23,512,130 parameters.

    pretrained: ImageNet weights, see :func:`with_weights`.

    Raises:
        ValueError: another word for `pretrained`.
    """
    net: nn.Module = timm.create_model(with_weights(pretrained), pretrained=bool(pretrained), num_classes=2)
    return net


def with_weights(pretrained: Weights) -> str:
    """The name that timm has for ResNet-50: with true, weights of timm's own longer training; ``torchvision``, that package's
    first ones, which studies start from; false, none.

    Raises:
        ValueError: another word.
    """
    if isinstance(pretrained, bool):
        return "resnet50"
    if pretrained != "torchvision":
        raise ValueError(f'`pretrained` is true, false or "torchvision", got {pretrained!r}')
    return "resnet50.tv_in1k"


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
