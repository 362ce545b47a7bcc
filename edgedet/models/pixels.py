"""The one wrapper around every network: uint8 pixels in, one logit out.

Training, evaluation and the exported graph all call it, so normalisation has one definition and nothing is left to get wrong
on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgedet.preprocess import Preprocess


class PixelModel(nn.Module):
    """`net` behind uint8 pixels (B, H, W, 3) after geometry; the output is the logit of fake, float (B,).

    A two-class network (real, fake) gives ``logit[fake] - logit[real]``, whose sigmoid is the softmax. What else a network may
    have, each optional:

    front_end: a module that is called on the raw pixel values first. Residual front-ends subtract neighbours, which is exact on
        integers in float32, and the mean cancels, so only the division by 255 std is left.
    deploy(): the network in the form that is exported, with the same logits: branches merged, samples frozen. Its own is kept.
    outputs(x): ``{"logit": ..., name: ...}``: its forward pass, and what it gives besides, maps (B, h, w) or numbers (B,).
    penalty(images): a scalar that is added to the loss of every batch when it is trained on so many images.
    patch_grid: which pixels the logits in its output ``patches`` are of (`edgedet.models.patches`).
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
        return as_logit(self.net(self.normalise(pixels)))

    def outputs(self, pixels: Tensor) -> dict[str, Tensor]:
        """uint8 (B, H, W, 3) -> ``logit`` (B,) first, then what the network gives besides."""
        x = self.normalise(pixels)
        given: Callable[[Tensor], dict[str, Tensor]] | None = getattr(self.net, "outputs", None)
        found = given(x) if given is not None else {"logit": self.net(x)}
        return {"logit": as_logit(found.pop("logit")), **found}

    def deployed(self) -> PixelModel:
        """In the form that is exported; itself when the network has no other."""
        deploy: Callable[[], nn.Module] | None = getattr(self.net, "deploy", None)
        return self if deploy is None else PixelModel(deploy(), self.preprocess).train(self.training).to(self.mean.device)

    def penalty(self, images: int) -> Tensor:
        """What the network adds to the loss of a batch when it is trained on so many images, a scalar; mostly 0."""
        given: Callable[[int], Tensor] | None = getattr(self.net, "penalty", None)
        return self.scale.new_zeros(()) if given is None else given(images)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), what `net` takes."""
        # Cast comes before the transpose: TensorRT refuses a uint8 Transpose.
        x_nchw = pixels.to(torch.float32).permute(0, 3, 1, 2)
        front_end = getattr(self.net, "front_end", None)
        if front_end is not None:
            return torch.as_tensor(front_end(x_nchw)) * self.scale
        return (x_nchw - self.mean) * self.scale


def as_logit(z: Tensor) -> Tensor:
    """(B, 1), or (B, 2) for the classes real and fake -> (B,)."""
    if z.ndim == 2 and z.shape[1] == 2:
        return z[:, 1] - z[:, 0]
    return z.reshape(z.shape[0])
