"""LaDeDa and Tiny-LaDeDa: detectors that judge patches of nine and of five pixels, and average what they say.

Source: Cavia, Horwitz, Reiss, Hoshen, "Real-Time Deepfake Detection in the Real-World", 2024. Written from its facts: the NPR
residual (Tan et al., CVPR 2024), a ResNet-50 that looks at nine pixels as BagNet does (Brendel and Bethge, ICLR 2019), the mean
of the patches' logits; and a student of four convolutions that learns those logits, patch by patch.

No convolution pads, so every logit of the map is what the network would say of its patch alone (see `edgedet.models.patches`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from edgedet.models.blocks import NearestResidual
from edgedet.models.patches import PatchGrid, judged
from edgedet.models.table import IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Convolution without padding and bias, BatchNorm, and ReLU or none."""
    norm = [nn.Conv2d(inputs, outputs, kernel, stride, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*norm, nn.ReLU(inplace=True)) if relu else nn.Sequential(*norm)


class PatchBottleneck(nn.Module):
    """A bottleneck of ResNet-50 whose 3x3 convolution is a 1x1 or pads nothing, (B, I, H, W) -> (B, 4 width, H', W').

    What the shortcut adds is the middle of what the 3x3 convolution reads.
    """

    def __init__(self, inputs: int, width: int, *, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.branch = nn.Sequential(
            convolution(inputs, width), convolution(width, width, kernel, stride), convolution(width, 4 * width, relu=False)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            self.shortcut = convolution(inputs, 4 * width, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        middle = x[:, :, self.margin : -self.margin, self.margin : -self.margin] if self.margin else x
        return torch.relu(self.branch(x) + self.shortcut(middle))


class PatchDetector(nn.Module):
    """Residuals, `features` without padding, the mean of the patches' logits: (B, 3, H, W) -> (B, 1); H and W even.

    `front_end` runs on raw pixel values, before normalisation. It takes from a pixel the top left one of its 2x2 block, and
    patches begin at even pixels, so it reaches no further than they do.
    """

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.front_end = NearestResidual(0.5)
        self.features = features
        self.head = nn.Linear(channels, 1)
        self.patch_grid = PatchGrid.behind(_longest(features))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """The logit (B, 1), and the logits of the patches (B, h, w), whose mean it is."""
        patches = judged(self.features(x), self.head)
        return {"logit": patches.mean((1, 2))[:, None], "patches": patches}


def _longest(features: nn.Module) -> Iterator[tuple[int, int]]:
    """(kernel, stride) of the convolutions in a row; those of the shortcuts see less."""
    for name, module in features.named_modules():
        if isinstance(module, nn.Conv2d) and "shortcut" not in name:
            yield module.kernel_size[0], module.stride[0]


def ladeda() -> PatchDetector:
    """LaDeDa with patches of 9 pixels, one every 8: 13,641,793 parameters, trained from scratch."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 1, bias=False), convolution(64, 64, 3)]
    inputs = 64
    for width, depth, kernel, stride in ((64, 3, 3, 2), (128, 4, 3, 2), (256, 6, 1, 2), (512, 3, 1, 1)):
        layers.append(PatchBottleneck(inputs, width, kernel=kernel, stride=stride))
        inputs = 4 * width
        layers += [PatchBottleneck(inputs, width) for _ in range(depth - 1)]
    return PatchDetector(nn.Sequential(*layers), inputs)


def ladeda_tiny() -> PatchDetector:
    """Tiny-LaDeDa with patches of 5 pixels, one every 2: 1,297 parameters."""
    layers = (nn.Conv2d(3, 8, 1, bias=False), convolution(8, 8, 3), convolution(8, 8), convolution(8, 8, 3, stride=2))
    return PatchDetector(nn.Sequential(*layers), 8)


_INPUT = Preprocess(geometry="crop_only", multiple=2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SOURCE = "Cavia et al., 2024"
_FRONT_END = "x - up(down(x)), nearest, by 1/2"
_EXPORT = "sides are even; `patches` is a further output, a heat-map for free"

DETECTORS: Detectors = {
    "ladeda": Detector(
        ladeda,
        _SOURCE,
        _INPUT,
        front_end=_FRONT_END,
        features="features",
        export_notes=_EXPORT,
        int8_notes="the residual stays in float",
    ),
    "ladeda-tiny": Detector(
        ladeda_tiny,
        _SOURCE,
        _INPUT,
        front_end=_FRONT_END,
        features="features",
        export_notes=_EXPORT,
        int8_notes="does not pay: eight channels fill no kernel's tile, and on x86 it is slower than FP32; deploy FP32",
    ),
}
