"""ViT-B/16 and Swin-T under an MLP head, and ViT-B/16 with a convolutional branch beside it.

Source: "AI-Generated Image Detection" (Dou, Xu, Zhang, Shen): frozen ImageNet backbones, a trained classifier of three layers.
What is frozen is the recipe's to say (``training.freeze``), not the network's. Its CvT is in :mod:`edgedet.models.cvt`.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

from edgedet.models.blocks import MlpHead
from edgedet.models.table import ATTENTION_NOTE, HALF, Detector, Detectors, require_published
from edgedet.preprocess import Preprocess

_HEAD_WIDTH = 64  # of an attention head of ViT


class BackboneMlp(nn.Module):
    """`backbone`, (B, 3, H, W) -> (B, width), and an MLP head: (B, 3, H, W) -> (B, 2)."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = MlpHead(width)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(x))
        return logits


class VitCnn(nn.Module):
    """ViT's class token and the mean of two convolutions' map, weighted and added, under an MLP head: (B, 3, H, W) -> (B, 2).

    ``a CLS + b W mean(F)``, a and b learned from 1. The source has a 1x1 convolution before the mean; the two commute, and a
    linear layer behind it saves an eighth of all multiply-accumulates (2.5 of 20.3 G). The source's text puts the convolutions
    before ViT, its released code beside it, as here.
    """

    def __init__(self, vit: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = vit
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        self.project = nn.Linear(64, width)
        self.token_weight = nn.Parameter(torch.ones(1))
        self.convolution_weight = nn.Parameter(torch.ones(1))
        self.head = MlpHead(width)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.project(self.convolutions(x).mean((2, 3)))
        logits: Tensor = self.head(self.token_weight * self.backbone(x) + self.convolution_weight * branch)
        return logits


def vit_b16_mlp(*, pretrained: bool = False, depth: int = 12, width: int = 768) -> nn.Module:
    """ViT-B/16's class token under an MLP head; 86,324,226 parameters.

    pretrained: Google's ImageNet-21k weights, fine-tuned on ImageNet-1k, from timm's hub.
    depth, width: of another ViT, which has no pretrained weights.
    """
    return BackboneMlp(_vit_b16(pretrained, depth, width), width)


def vit_b16_cnn(*, pretrained: bool = False, depth: int = 12, width: int = 768) -> nn.Module:
    """:class:`VitCnn` on ViT-B/16; 86,393,732 parameters. The arguments are those of :func:`vit_b16_mlp`."""
    return VitCnn(_vit_b16(pretrained, depth, width), width)


def swin_tiny_mlp(*, pretrained: bool = False, depths: Sequence[int] = (2, 2, 6, 2), width: int = 96) -> nn.Module:
    """The mean of Swin-T's tokens under an MLP head; 28,044,924 parameters.

    The source's report says Swin-Tiny, as here; its released code loads Swin-Base.

    pretrained: ImageNet-1k weights from timm's hub.
    depths, width: of another Swin, which has no pretrained weights.
    """
    return BackboneMlp(swin_tiny_trunk(pretrained=pretrained, classes=0, depths=depths, width=width), 8 * width)


def vit_trunk(name: str, *, pretrained: bool, classes: int, depth: int, width: int, published: int) -> nn.Module:
    """The ViT that timm calls `name`, of twelve blocks and the width `published`; or a smaller one, which has no weights.

    Raises:
        ValueError: the width is no multiple of an attention head's, or pretrained weights are asked for another shape.
    """
    require_published(pretrained, depth=(depth, 12), width=(width, published))
    if width % _HEAD_WIDTH or width < _HEAD_WIDTH:
        raise ValueError(f"`width` must be a multiple of {_HEAD_WIDTH}, the width of an attention head, got {width}")
    heads = width // _HEAD_WIDTH
    net: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=classes, depth=depth, embed_dim=width, num_heads=heads
    )
    return net


def swin_tiny_trunk(*, pretrained: bool, classes: int, depths: Sequence[int], width: int) -> nn.Module:
    """Swin-T of timm with Microsoft's ImageNet-1k weights, or a smaller one, which has none.

    Raises:
        ValueError: pretrained weights are asked for another shape.
    """
    require_published(pretrained, depths=(tuple(depths), (2, 2, 6, 2)), width=(width, 96))
    name = "swin_tiny_patch4_window7_224.ms_in1k"
    net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=classes, depths=tuple(depths), embed_dim=width)
    return net


def _vit_b16(pretrained: bool, depth: int, width: int) -> nn.Module:
    name = "vit_base_patch16_224.orig_in21k_ft_in1k"
    return vit_trunk(name, pretrained=pretrained, classes=0, depth=depth, width=width, published=768)


SOURCE = "AI-Generated Image Detection (Tiny-GenImage)"
_INPUT = Preprocess(mean=HALF, std=HALF)

DETECTORS: Detectors = {
    "vit-b16-mlp": Detector(
        vit_b16_mlp,
        SOURCE,
        _INPUT,
        classifier="head.out",
        reference="vit_base_patch16_224",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
    "vit-b16-cnn": Detector(
        vit_b16_cnn,
        SOURCE,
        _INPUT,
        classifier="head.out",
        reference="vit_base_patch16_224",
        export_notes="the mean comes before the 1x1 projection",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
    "swin-tiny-mlp": Detector(
        swin_tiny_mlp,
        SOURCE,
        _INPUT,
        classifier="head.out",
        reference="swin_tiny_patch4_window7_224",
        int8_notes=ATTENTION_NOTE,
        own_size=True,
    ),
}
