"""NPR, neighbouring pixel relationships and half a ResNet-50; its published enhancements; and a student for edge devices.

Source: Tan et al., "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable Deepfake
Detection", CVPR 2024: residual of nearest sampling by 1/2, times 2/3, a 3x3 stride-2 stem, ResNet-50's first two stages, global
average pool, one logit. Several scales and gates: "AI-Generated Image Detection" (Dou, Xu, Zhang, Shen), as they were trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn

from edgedet.models.blocks import CbamGate, Gated, NearestResidual, SpatialGate
from edgedet.models.edgenet import EdgeNet
from edgedet.models.table import BYTE_MEAN, BYTE_STD, IMAGENET_MEAN, IMAGENET_STD, Detector, Detectors
from edgedet.preprocess import Preprocess

HALF_SCALE = (0.5,)
SCALES = (0.25, 0.5, 0.75)
GAIN = 2 / 3


class MultiScaleResidual(nn.Module):
    """``sum_i a_i R_i(x)`` over `scales`, ``a = softmax(weights)``: (B, C, H, W) -> (B, C, H, W); H and W multiples of 4.

    Each R_i is exact, so where neighbours are equal the sum is exactly zero; ``x - sum_i a_i up(down_i(x))``, the same on paper
    with a subtraction for three, leaves the rounding of sums to 255 there.
    """

    def __init__(self, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        self.residuals = nn.ModuleList(NearestResidual(scale) for scale in scales)
        self.weights = nn.Parameter(torch.ones(len(scales)))

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(self.weights, 0)
        return _weighted(x, self.residuals, list(shares))

    def frozen(self) -> FixedShares:
        """The same with the shares as numbers."""
        shares = torch.softmax(self.weights.detach(), 0)
        # A network that is only counted, on the device meta, has no numbers.
        return FixedShares(copy.deepcopy(self.residuals), list(shares) if shares.is_meta else shares.tolist())


class FixedShares(nn.Module):
    """:class:`MultiScaleResidual` as it is exported."""

    def __init__(self, residuals: nn.ModuleList, shares: Sequence[Tensor | float]) -> None:
        super().__init__()
        self.residuals, self.shares = residuals, shares

    def forward(self, x: Tensor) -> Tensor:
        return _weighted(x, self.residuals, self.shares)


class Npr(nn.Module):
    """(B, 3, H, W) residuals, normalised -> (B, 1), trained from scratch; H and W even, multiples of 4 with several scales.

    `front_end` runs on raw pixel values, before normalisation: see `edgedet.models.pixels`.

    scales: of the residual; several are weighted, and the factor before the stem is trained.
    channel: CBAM channel gates behind the stem and behind the first stage.
    spatial: spatial gates behind both stages.
    """

    def __init__(self, *, scales: Sequence[float] = HALF_SCALE, channel: bool = False, spatial: bool = False) -> None:
        super().__init__()
        several = len(scales) > 1
        self.front_end: nn.Module = MultiScaleResidual(scales) if several else NearestResidual(scales[0])
        self.gain: Tensor | float | None = nn.Parameter(torch.tensor(GAIN)) if several else GAIN
        trunk = timm.create_model("resnet50", num_classes=0)
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1: nn.Module = trunk.get_submodule("bn1")
        self.act1: nn.Module = trunk.get_submodule("act1")
        self.maxpool: nn.Module = trunk.get_submodule("maxpool")
        self.layer1: nn.Module = trunk.get_submodule("layer1")
        self.layer2: nn.Module = trunk.get_submodule("layer2")
        self.attend_stem = nn.Sequential(*([Gated(CbamGate(64))] if channel else []))
        self.attend1 = nn.Sequential(*([Gated(CbamGate(256))] if channel else []), *([_spatial()] if spatial else []))
        self.attend2 = nn.Sequential(*([_spatial()] if spatial else []))
        self.head = nn.Linear(512, 1)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.gain is not None:
            x = x * self.gain
        x = self.maxpool(self.attend_stem(self.act1(self.bn1(self.conv1(x)))))
        x = self.attend2(self.layer2(self.attend1(self.layer1(x))))
        logits: Tensor = self.head(torch.mean(x, (2, 3)))
        return logits

    def deploy(self) -> Npr:
        """With the factor inside the stem and the shares of the scales as numbers."""
        deployed = copy.deepcopy(self)
        if self.gain is not None:
            with torch.no_grad():
                deployed.conv1.weight *= self.gain
            deployed.gain = None
        if isinstance(self.front_end, MultiScaleResidual):
            deployed.front_end = self.front_end.frozen()
        return deployed


class NprStudent(EdgeNet):
    """An EdgeNet of plain blocks on NPR's residuals: (B, 3, H, W) residuals, normalised -> (B, 1); H and W even.

    The stem takes full resolution to a half and each of two stages halves it again: the traces that NPR reads are local, and at
    1/8, where NPR ends too, its seven bottlenecks are a tenth of what they cost at 1/4.
    """

    def __init__(self, *, width: int, depth: int, limit: int) -> None:
        super().__init__(
            stem=width, stem_stride=2, widths=(2 * width, 4 * width), depths=(depth, depth), strides=(2, 2), block="plain"
        )
        self.front_end = nn.Sequential(NearestResidual(0.5), nn.Hardtanh(-limit, limit))


def npr() -> Npr:
    """The published baseline; 1,437,761 parameters."""
    return Npr()


def npr_multiscale() -> Npr:
    """Residuals of 1/4, 1/2 and 3/4; 1,437,765 parameters."""
    return Npr(scales=SCALES)


def npr_channel() -> Npr:
    """Channel gates; 1,446,465 parameters."""
    return Npr(channel=True)


def npr_spatial() -> Npr:
    """Spatial gates; 1,437,957 parameters."""
    return Npr(spatial=True)


def npr_final() -> Npr:
    """Residuals of three scales and channel gates, the source's final model; 1,446,469 parameters."""
    return Npr(scales=SCALES, channel=True)


def npr_student(*, width: int = 16, depth: int = 2, limit: int = 127) -> NprStudent:
    """NPR's residuals and 1 + 2 `depth` plain convolutions of `width` to 4 `width` channels.

    limit: residuals beyond it are cut off, in levels of a pixel. With 127 a step of INT8 with zero point 0 is one level, and
        residuals are exact in it; where one edge from black to white makes it two, those of a single level are rounded away.

    Raises:
        ValueError: a width that is no multiple of 8, or another number that is not positive.
    """
    if width % 8 or width <= 0:
        raise ValueError(f"`width` must be a positive multiple of 8 (INT8 kernels pad others), got {width}")
    if min(depth, limit) < 1:
        raise ValueError(f"`depth` and `limit` must be positive, got {depth} and {limit}")
    return NprStudent(width=width, depth=depth, limit=limit)


def _weighted(x: Tensor, residuals: nn.ModuleList, shares: Sequence[Tensor | float]) -> Tensor:
    parts = [share * torch.as_tensor(residual(x)) for share, residual in zip(shares, residuals, strict=True)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _spatial() -> Gated:
    return Gated(SpatialGate(7, bias=False, mean_first=True))


_EVEN = Preprocess(geometry="resize_shorter_crop", resize=256, multiple=2, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_BY_FOUR = Preprocess(geometry="resize_shorter_crop", resize=256, multiple=4, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SOURCE, _ENHANCED = "Tan et al., CVPR 2024", "Dou, Xu, Zhang, Shen"
_HALF, _SEVERAL = "x - up(down(x)), nearest, by 1/2", "the same by 1/4, 1/2 and 3/4, weighted"
_EXACT = "sides are even; the residual is exact in float32 on pixel values; its factor is folded into the stem"
_EXACT_SUM = "sides are multiples of 4; residuals are exact in float32 on pixel values; their factor is folded into the stem"
_FLOAT, _GATES = "the residual stays in float", "the residual and the gates stay in float"

DETECTORS: Detectors = {
    "npr": Detector(npr, _SOURCE, _EVEN, front_end=_HALF, features="layer2", export_notes=_EXACT, int8_notes=_FLOAT),
    "npr-multiscale": Detector(
        npr_multiscale, _ENHANCED, _BY_FOUR, front_end=_SEVERAL, features="attend2", export_notes=_EXACT_SUM, int8_notes=_FLOAT
    ),
    "npr-channel": Detector(
        npr_channel, _ENHANCED, _BY_FOUR, front_end=_HALF, features="attend2", export_notes=_EXACT, int8_notes=_GATES
    ),
    "npr-spatial": Detector(
        npr_spatial, _ENHANCED, _BY_FOUR, front_end=_HALF, features="attend2", export_notes=_EXACT, int8_notes=_GATES
    ),
    "npr-final": Detector(
        npr_final, _ENHANCED, _BY_FOUR, front_end=_SEVERAL, features="attend2", export_notes=_EXACT_SUM, int8_notes=_GATES
    ),
    "npr-student": Detector(
        npr_student,
        "edgedet",
        Preprocess(geometry="crop_only", multiple=2, mean=BYTE_MEAN, std=BYTE_STD),
        front_end="x - up(down(x)), nearest, by 1/2, limited to 127 levels",
        features="features",
        export_notes="sides are even; the residual is exact in float32 on pixel values",
        int8_notes="the residual stays in float; limited to 127 levels, it is exact in the INT8 that the stem reads",
    ),
}
