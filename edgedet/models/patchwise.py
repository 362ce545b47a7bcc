"""Networks that read an image of any size as patches: an encoder of one patch and an aggregator of all of them.

For one size of image such a network is a network like any other: the patches are cut inside, it trains in the one loop and
exports as one graph. For images of any size its two parts are two graphs, and patches are cut outside
(:mod:`edgedet.patches`): the encoder takes them as a batch, the aggregator takes as many features as the image has patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.pixels import PixelModel, as_logit
from edgedet.patches import AT_ONCE, windows


class Patchwise(nn.Module):
    """`encoder` (P, 3, side, side) -> (P, F), then `aggregator` (B, P, F) -> (B, 1), in whatever order the patches come."""

    def __init__(self, encoder: nn.Module, aggregator: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder, self.aggregator, self.side = encoder, aggregator, side

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), at least `side` each way -> (B, 1)."""
        patches = self.patches(x)
        features = self._encode(patches.flatten(0, 1))
        return torch.as_tensor(self.aggregator(features.reshape(-1, patches.shape[1], features.shape[1])))

    def patches(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, P, 3, side, side), cut as :func:`edgedet.patches.windows` says."""
        corners, side = windows(x.shape[2], x.shape[3], self.side), self.side
        rows, columns = x.shape[2] // side, x.shape[3] // side
        if len(corners) != rows * columns:
            return torch.stack([x[:, :, top : top + side, left : left + side] for top, left in corners], dim=1)
        grid = x[:, :, : rows * side, : columns * side].reshape(-1, 3, rows, side, columns, side)
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def _encode(self, patches: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return torch.as_tensor(self.encoder(patches))
        starts = range(0, len(patches), AT_ONCE)
        return torch.cat([self.encoder(patches[start : start + AT_ONCE]) for start in starts])


class EncoderOnPixels(PixelModel):
    """The encoder of a patchwise network behind the pixels of patches, uint8 (P, side, side, 3) -> float (P, F)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (P, side, side, 3) -> float (P, F)."""
        return torch.as_tensor(patchwise(self).encoder(self.normalise(pixels)))


class AggregatorToLogit(nn.Module):
    """The aggregator of a patchwise network: float (1, P, F), all patches of one image -> logit (1,)."""

    def __init__(self, model: PixelModel) -> None:
        super().__init__()
        self.aggregator = patchwise(model).aggregator

    def forward(self, features: Tensor) -> Tensor:
        """(1, P, F) -> (1,)."""
        return as_logit(self.aggregator(features))


def patchwise(model: PixelModel) -> Patchwise:
    """The network of `model`, which reads patches.

    Raises:
        ModelError: it reads whole images.
    """
    if not isinstance(model.net, Patchwise):
        raise ModelError(f"a {type(model.net).__name__} reads whole images, not patches: it has no encoder and aggregator")
    return model.net
