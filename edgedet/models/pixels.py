"""The one wrapper around every network: uint8 pixels in, one logit out.

Training, evaluation and the exported graph all call it, so normalisation has one definition and nothing is left to get wrong
on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedet.preprocess import Preprocess


class PixelModel(nn.Module):
    """`net` behind uint8 pixels (B, H, W, 3) after geometry; the output is the logit of fake, float (B,).

    A network with a `front_end` attribute gets that called on the raw pixel values first: residual front-ends subtract
    neighbours, which is exact on integers in float32, and the mean cancels, so only the division by 255 std is left.
    A two-class network (real, fake) gives ``logit[fake] - logit[real]``, whose sigmoid is the softmax.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.net = net
        self.preprocess = preprocess
        self.register_buffer("mean", 255 * torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(preprocess.std).view(1, 3, 1, 1)), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B,)."""
        z: Tensor = self.net(self.normalise(pixels))
        if z.ndim == 2 and z.shape[1] == 2:
            return z[:, 1] - z[:, 0]
        return z.reshape(z.shape[0])

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), what `net` takes."""
        # Cast comes before the transpose: TensorRT refuses a uint8 Transpose.
        x_nchw = pixels.to(torch.float32).permute(0, 3, 1, 2)
        front_end = getattr(self.net, "front_end", None)
        if front_end is not None:
            return torch.as_tensor(front_end(x_nchw)) * self.scale
        return (x_nchw - self.mean) * self.scale
