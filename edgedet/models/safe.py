"""SAFE: NPR's network on the diagonal detail of a wavelet transform.

Source: Li et al., "Improving Synthetic Image Detection Towards Generalization: An Image Transformation Perspective" (SAFE), KDD
2025: the HH band of one level of the bior1.3 transform, brought back to the size of the image; crops instead of resizing; no
mean and standard deviation.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.models.npr import Npr
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


class DiagonalBand(nn.Module):
    """The HH band of one level of the bior1.3 transform, in front of NPR's stem: (B, 3, H, W) -> (B, 3, H, W), both sides even.

    The transform's high-pass has two taps, (-1, 1) / sqrt(2), so the band is half of ``a - b - c + d`` for every 2x2 block, a
    and b in its first row: one fixed depthwise convolution. Each value stands where its block was. What the transform makes
    of mirrored pixels beyond the border is left out.

    enlarge: false leaves the band at half the size, (B, 3, H / 2, W / 2).
    """

    kernel: Tensor

    def __init__(self, *, enlarge: bool = True) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.register_buffer("kernel", torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).expand(3, 1, 2, 2).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, H, W), or half of that.

        Raises:
            ValueError: H or W is odd.
        """
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"a wavelet's 2x2 blocks need even sides, got {x.shape[2]}x{x.shape[3]}: crop the image")
        band = F.conv2d(x, self.kernel, stride=2, groups=3)
        return F.interpolate(band, scale_factor=2, mode="nearest") if self.enlarge else band


class Safe(Npr):
    """(B, 3, H, W) bands, normalised -> (B, 1), trained from scratch; H and W even; 1,437,761 parameters.

    `front_end` runs on raw pixel values, before normalisation: see `edgedet.models.pixels`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.front_end = DiagonalBand()
        self.gain = None

    def deploy(self) -> Safe:
        """Without the enlargement: the stem's stride of 2 meets every value twice, in weights that are added up here."""
        deployed = cast("Safe", super().deploy())
        weight = self.conv1.weight.detach()  # at rows 2 i - 1, 2 i, 2 i + 1 of the enlarged band: rows i - 1, i, i of the band
        for axis in (2, 3):
            before, here, again = weight.unbind(axis)
            weight = torch.stack([before, here + again, torch.zeros_like(here)], axis)
        stem = nn.Conv2d(3, weight.shape[0], 3, padding=1, bias=False, device=weight.device)
        stem.weight = nn.Parameter(weight)
        deployed.conv1, deployed.front_end = stem, DiagonalBand(enlarge=False).to(weight.device)
        return deployed


def safe() -> Safe:
    """The published network."""
    return Safe()


DETECTORS: Detectors = {
    "safe": Detector(
        safe,
        "Li et al., KDD 2025",
        Preprocess(geometry="crop_only", height=256, width=256, multiple=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        front_end="HH band of one level of bior1.3, enlarged by 2, nearest",
        features="layer2",
        export_notes="sides are even; the band is exact in float32 on pixel values; its enlargement is folded into the stem",
        int8_notes="the band stays in float",
    ),
}
