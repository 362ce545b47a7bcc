"""The CIFAKE CNN, with and without style recalibration.

Source: "Real or really fake? Synthetic vs. genuine image classification", sections on the model and attention: the PyTorch
CIFAR-10 tutorial's network with one output.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedet.models.blocks import StyleRecalibration
from edgedet.models.table import Detector, Detectors
from edgedet.preprocess import Preprocess


class CifakeCnn(nn.Module):
    """(B, 3, 32, 32) -> (B, 1); 61,241 parameters, 61,265 with style recalibration after the first pool."""

    def __init__(self, *, style_recalibration: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.attend: nn.Module = StyleRecalibration(6) if style_recalibration else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.head = nn.Linear(84, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(F.max_pool2d(torch.relu(self.conv1(x)), 2))
        x = F.max_pool2d(torch.relu(self.conv2(x)), 2).flatten(1)
        logits: Tensor = self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits


def cifake_cnn() -> CifakeCnn:
    """The plain network."""
    return CifakeCnn(style_recalibration=False)


def cifake_cnn_srm() -> CifakeCnn:
    """With style recalibration after the first pool."""
    return CifakeCnn(style_recalibration=True)


_INPUT = Preprocess(height=32, width=32, interpolation="bicubic")

DETECTORS: Detectors = {
    "cifake-cnn": Detector(cifake_cnn, "Real or really fake?", _INPUT),
    "cifake-cnn-srm": Detector(
        cifake_cnn_srm, "Real or really fake?", _INPUT, int8_notes="the statistics of style recalibration stay in float"
    ),
}
