"""ImageNet networks of timm with one logit, as two sources train them from end to end.

Sources: "AI Generated Image Detection - Project Report - Group 10": ResNet-101, ViT-S/16 and Swin-T at 224 pixels; Park and
Owens, "Community Forensics", CVPR 2025: ViT-S/16 at 384 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

from edgedet.models.table import ATTENTION_NOTE, HALF, IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.models.vit_heads import swin_tiny_trunk, vit_trunk
from edgedet.preprocess import Preprocess


def resnet101(*, pretrained: bool = False) -> nn.Module:
    """ResNet-101 with one logit; 42,502,209 parameters.

    pretrained: torchvision's first ImageNet-1k weights, from timm's hub.
    """
    net: nn.Module = timm.create_model("resnet101.tv_in1k", pretrained=pretrained, num_classes=1)
    return net


def vit_small(*, pretrained: bool = False, depth: int = 12, width: int = 384) -> nn.Module:
    """ViT-S/16 with one logit at 224 pixels; 21,666,049 parameters.

    pretrained: ImageNet-21k weights, fine-tuned on ImageNet-1k, from timm's hub; they expect pixels between -1 and 1.
    depth, width: of another ViT, which has no pretrained weights.
    """
    name = "vit_small_patch16_224.augreg_in21k_ft_in1k"
    return vit_trunk(name, pretrained=pretrained, classes=1, depth=depth, width=width, published=384)


def vit_small_384(*, pretrained: bool = False, depth: int = 12, width: int = 384) -> nn.Module:
    """ViT-S/16 with one logit at 384 pixels; 21,811,969 parameters. The arguments are those of :func:`vit_small`."""
    name = "vit_small_patch16_384.augreg_in21k_ft_in1k"
    return vit_trunk(name, pretrained=pretrained, classes=1, depth=depth, width=width, published=384)


def swin_tiny(*, pretrained: bool = False, depths: Sequence[int] = (2, 2, 6, 2), width: int = 96) -> nn.Module:
    """Swin-T with one logit; 27,520,123 parameters.

    Its last norm hands on a map with channels first, as a heat-map needs it; timm's has them last.

    pretrained: ImageNet-1k weights from timm's hub.
    depths, width: of another Swin, which has no pretrained weights.
    """
    net = swin_tiny_trunk(pretrained=pretrained, classes=1, depths=depths, width=width)
    net.norm = nn.Sequential(net.get_submodule("norm"), _ChannelsFirst())
    net.get_submodule("head").global_pool = SelectAdaptivePool2d(pool_type="avg", flatten=True)
    return net


class _ChannelsFirst(nn.Module):
    """(B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


_GROUP_10, _COMMUNITY = "AI Generated Image Detection (Group 10)", "Park and Owens, CVPR 2025 (Community Forensics)"
_IMAGENET = Preprocess(mean=IMAGENET_MEAN, std=IMAGENET_STD)

DETECTORS: Detectors = {
    "resnet101": Detector(resnet101, _GROUP_10, _IMAGENET, classifier="fc", reference="resnet101", features="layer4"),
    "swin-tiny": Detector(
        swin_tiny,
        _GROUP_10,
        _IMAGENET,
        classifier="head.fc",
        reference="swin_tiny_patch4_window7_224",
        features="norm",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
    "vit-small": Detector(
        vit_small,
        _GROUP_10,
        # The source normalises with ImageNet's figures, which these weights do not expect: that is in its recipe.
        Preprocess(mean=HALF, std=HALF),
        classifier="head",
        reference="vit_small_patch16_224",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
    "vit-small-384": Detector(
        vit_small_384,
        _COMMUNITY,
        Preprocess(geometry="resize_shorter_crop", height=384, width=384, resize=440, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        classifier="head",
        reference="vit_small_patch16_384",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
}
