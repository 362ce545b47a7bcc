"""Students that are many branches in training and plain convolutions on the device: RepVGG and MobileOne at edge widths.

Sources: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021: a 3x3 and a 1x1 convolution and the identity,
each with a BatchNorm of its own, added up. Vasu et al., "MobileOne: An Improved One Millisecond Mobile Backbone", CVPR 2023:
depthwise and pointwise convolutions, each several times, a 1x1 and the identity beside them. All of that is linear, so one
convolution is the same (RepVGG, section 3.3). The blocks are timm's.

What is exported, quantized and compiled is the merged network: no branch, no BatchNorm, no addition.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models import reparameterize_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, MobileOneBlock
from torch import Tensor, nn

from edgedet.models.table import BYTE_MEAN, BYTE_STD, Detector, Detectors
from edgedet.preprocess import Preprocess


class Subsampling(nn.Conv2d):
    """A strided 1x1 convolution that leaves pixels out first: the same function, (B, I, H, W) -> (B, O, H / s, W / s).

    oneDNN 3.12 (torch 2.14) writes beyond its memory in the weight's gradient of the strided form, from 3 channels to 16 or
    fewer in channels-last order: training crashed now and then, or later elsewhere.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(x[:, :, ::rows, ::columns], self.weight, self.bias)


class Reparameterised(ByobNet):
    """Stem, four stages at 1/4 to 1/32 resolution, global average pool, one logit: (B, 3, H, W) -> (B, 1)."""

    def __init__(self, config: ByoModelCfg) -> None:
        super().__init__(config, num_classes=1)
        for name, layer in list(self.stem.named_modules()):
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                (stride, _), biased = layer.stride, layer.bias is not None
                plain = Subsampling(layer.in_channels, layer.out_channels, 1, stride=stride, bias=biased)
                plain.load_state_dict(layer.state_dict(), assign=True)
                self.stem.set_submodule(name, plain)

    def deploy(self) -> Reparameterised:
        """The same network with the branches of each block merged into one convolution; this one is left as it is."""
        merged = copy.deepcopy(self)
        for block in merged.modules():
            if isinstance(block, MobileOneBlock):
                # Its own number is what it was before channels were removed.
                block.groups = next(layer.groups for layer in block.modules() if isinstance(layer, nn.Conv2d))
        with torch.no_grad(), next(self.parameters()).device:  # timm makes the convolutions on the default device
            reparameterize_model(merged, inplace=True)
        return merged


def repvgg_edge(
    *, stem: int = 16, widths: Sequence[int] = (32, 64, 128, 192), depths: Sequence[int] = (1, 2, 4, 1)
) -> Reparameterised:
    """RepVGG at edge widths: 890,849 parameters in training, 798,689 when merged into nine 3x3 convolutions.

    Raises:
        ValueError: a width that INT8 kernels would pad, or lists of different lengths.
    """
    _check(stem, widths, depths)
    stages = tuple(ByoBlockCfg(type="rep", d=depth, c=width) for width, depth in zip(widths, depths, strict=True))
    return Reparameterised(ByoModelCfg(blocks=stages, stem_type="rep", stem_chs=stem))


def mobileone_edge(
    *,
    stem: int = 32,
    widths: Sequence[int] = (48, 96, 192, 384),
    depths: Sequence[int] = (1, 3, 5, 1),
    branches: int = 4,
) -> Reparameterised:
    """MobileOne at edge widths: 1,137,937 parameters in training, 280,433 when merged.

    branches: how often each convolution is there in training; MobileOne-S0 has four.

    Raises:
        ValueError: a width that INT8 kernels would pad, lists of different lengths, or no branch.
    """
    _check(stem, widths, depths)
    if branches < 1:
        raise ValueError(f"`branches` must be at least 1, got {branches}")
    stages, inputs = [], stem
    for width, depth in zip(widths, depths, strict=True):
        stage = []
        for position in range(depth):
            many = {"num_conv_branches": branches}
            stage.append(ByoBlockCfg(type="one", d=1, c=inputs, s=1 if position else 2, gs=1, block_kwargs=many))
            stage.append(ByoBlockCfg(type="one", d=1, c=width, s=1, gs=0, block_kwargs={"kernel_size": 1, **many}))
            inputs = width
        stages.append(tuple(stage))
    return Reparameterised(ByoModelCfg(blocks=tuple(stages), stem_type="one", stem_chs=stem))


def _check(stem: int, widths: Sequence[int], depths: Sequence[int]) -> None:
    odd = [width for width in (stem, *widths) if width % 8 or width <= 0]
    if odd:
        raise ValueError(f"widths must be positive multiples of 8 (INT8 kernels pad others), got {odd}")
    if not len(widths) == len(depths) == 4:
        raise ValueError(f"widths and depths must be four each, one a stage, got {len(widths)} and {len(depths)}")


_INPUT = Preprocess(geometry="crop_only", mean=BYTE_MEAN, std=BYTE_STD)
_MERGED = "the branches of every block are merged into one convolution"
_INT8 = "INT8 sees the merged weights, which round worse (Chu et al., AAAI 2024): `edgedet qat` trains them as they are"

DETECTORS: Detectors = {
    "repvgg-edge": Detector(
        repvgg_edge,
        "Ding et al., CVPR 2021",
        _INPUT,
        classifier="head.fc",
        features="stages",
        export_notes=_MERGED,
        int8_notes=_INT8,
    ),
    "mobileone-edge": Detector(
        mobileone_edge,
        "Vasu et al., CVPR 2023",
        _INPUT,
        classifier="head.fc",
        features="stages",
        export_notes=_MERGED,
        int8_notes=_INT8,
    ),
}
