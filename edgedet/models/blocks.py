"""Blocks that several detectors share; each docstring has the definition and its source."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.models.layout import Layout, Part, Units


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias ("same" padding for odd kernels), BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ChannelGate(nn.Module):
    """Squeeze-and-excitation gate ``s(W2 relu(W1 GAP(F)))``, (B, C, H, W) -> (B, C, 1, 1). Source: Hu et al., CVPR 2018."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> gate (B, C, 1, 1) in (0, 1)."""
        pooled = x.mean((2, 3), keepdim=True)
        return torch.sigmoid(self.expand(F.relu(self.reduce(pooled))))


class CbamGate(nn.Module):
    """CBAM's channel gate, one bias-free bottleneck on mean and maximum, (B, C, H, W) -> (B, C, 1, 1).

    Source: Woo et al., ECCV 2018, equation 2: ``sigmoid_of_sum``, in (0, 1). ``sum_of_sigmoids``, in (0, 2), is what the NPR of
    "AI-Generated Image Detection" (Dou, Xu, Zhang, Shen) was trained with.
    """

    def __init__(
        self, channels: int, reduction: int = 16, *, form: Literal["sum_of_sigmoids", "sigmoid_of_sum"] = "sum_of_sigmoids"
    ) -> None:
        super().__init__()
        self.form = form
        self.reduce = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.expand = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> gate (B, C, 1, 1)."""
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        mean, largest = (self.expand(F.relu(self.reduce(pooled))) for pooled in (mean, largest))
        if self.form == "sigmoid_of_sum":
            return torch.sigmoid(mean + largest)
        return torch.sigmoid(mean) + torch.sigmoid(largest)


class SpatialGate(nn.Module):
    """CBAM's spatial gate, a convolution over [channel max; channel mean]. Source: Woo et al., ECCV 2018.

    mean_first: the two in the other order, which weights trained that way need.
    """

    def __init__(self, kernel: int = 7, *, bias: bool = True, mean_first: bool = False) -> None:
        super().__init__()
        self.mean_first = mean_first
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=bias)

    def layout(self) -> Layout:
        """It reads two statistics of the channels, however many there are."""
        return Layout(mixes=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> gate (B, 1, H, W) in (0, 1)."""
        planes = [x.amax(1, keepdim=True), x.mean(1, keepdim=True)]
        return torch.sigmoid(self.conv(torch.cat(planes[::-1] if self.mean_first else planes, dim=1)))


class Gated(nn.Module):
    """``F * gate(F)``, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.as_tensor(self.gate(x))


class StyleRecalibration(nn.Module):
    """SRM: a gate from each channel's mean and standard deviation. Source: Lee, Kim, Nam, ICCV 2019.

    The standard deviation is written out with the unbiased n - 1: exporters have lost `Tensor.std` (pytorch#141969).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 2))
        self.bn = nn.BatchNorm1d(channels)
        nn.init.normal_(self.weight, std=0.5)

    def layout(self) -> Layout:
        """A row of weights for each channel."""
        return Layout(through=Units(len(self.weight), (Part("weight", 0), Part("bn", 0))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> recalibrated (B, C, H, W)."""
        n = x.shape[2] * x.shape[3]
        mean = x.mean((2, 3), keepdim=True)
        deviation = torch.sqrt(((x - mean) ** 2).sum((2, 3)) / (n - 1) + 1e-10)
        z = self.weight[:, 0] * mean.flatten(1) + self.weight[:, 1] * deviation
        return x * torch.sigmoid(self.bn(z))[:, :, None, None]


class NearestResidual(nn.Module):
    """NPR front-end: ``x - up(down(x))``, nearest neighbour. Source: Tan et al., CVPR 2024, section 3.2.

    A constant gather in place of two Resize operators, which is the same to the bit. ``scale = 1/2`` keeps the top-left pixel
    of every 2x2 block.
    """

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W).

        Raises:
            ValueError: H or W is no multiple of the period of the pattern (2 for 1/2, 4 for 1/4 and 3/4).
        """
        rows, columns = (nearest_indices(side, self.scale).to(x.device) for side in x.shape[2:])
        # index_select exports as Gather; indexing with brackets would become GatherND between transposes. Columns are not made
        # rows first: faster in float32, but in INT8 ONNX Runtime moves those transposes to where they cost more.
        return x - x.index_select(2, rows).index_select(3, columns)


def nearest_indices(side: int, scale: float) -> Tensor:
    """For each position of an axis of length `side`, the position that nearest down-and-up sampling by `scale` puts there.

    Raises:
        ValueError: the sizes do not come back to `side`.
    """
    period = 2 if scale == 0.5 else 4
    if side % period:
        raise ValueError(f"residuals of scale {scale} need sides that are multiples of {period}, got {side}: crop the image")
    small = int(side * scale)
    down = (torch.arange(small, dtype=torch.float64) / scale).floor().long()
    up = (torch.arange(side, dtype=torch.float64) * (small / side)).floor().long()
    return down[up]


class MlpHead(nn.Module):
    """Two hidden layers of 512 and 256 and two classes (real, fake): (B, inputs) -> (B, 2).

    Each hidden layer is linear, BatchNorm without scale and shift, GELU, dropout; the norms fold into the linear layers at
    export. Source: "AI-Generated Image Detection" (Dou, Xu, Zhang, Shen), the classifier of its transformers; that its norms
    have no parameters is the released code's.
    """

    def __init__(self, inputs: int, *, hidden: tuple[int, ...] = (512, 256), dropout: float = 0.3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((inputs, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width, affine=False), nn.GELU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(hidden[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.hidden(x))
        return logits
