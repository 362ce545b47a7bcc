"""Low and high spatial frequencies of an image, by real matrix products instead of a Fourier transform.

A two-dimensional discrete Fourier transform keeps a few frequencies, all others are zero, and the inverse gives the low-pass.
Of the transform only the kept rows are needed: with ``W = [C; S]``, cosines and sines of the 2r frequencies -r ... r - 1, the
transform is ``W x W^T``, the mask zeroes bins of it, and ``W^T H W`` is the real part of the inverse. That is exact, and where
exporters and runtimes lack a Fourier transform, or run it slowly, they all have matrix products.
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor, nn


class LowPass(nn.Module):
    """The frequencies in the middle of the spectrum: (B, C, side, side) -> the same. Source: SPAI (CVPR 2025).

    An axis' distance from the centre counts from the two bins around the middle of the shifted spectrum: it is k for frequency
    k >= 0, and -k - 1 for k < 0. Bins nearer than `radius` are kept. So the mask is not symmetric in frequency, what is
    kept of a real image has an imaginary part, and only the real part is given.
    """

    waves: Tensor
    kept: Tensor

    def __init__(self, side: int, radius: int = 16) -> None:
        super().__init__()
        if side < 2 * radius:
            raise ValueError(f"a low-pass of radius {radius} has {2 * radius} frequencies, too many for {side} pixels")
        frequencies = torch.arange(-radius, radius)
        angles = 2 * math.pi / side * (frequencies[:, None] * torch.arange(side) % side).double()
        self.register_buffer("waves", torch.cat([angles.cos(), angles.sin()]).float(), persistent=False)
        self.register_buffer("kept", (mask(radius).double() / side**2).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 whatever the precision around it is: the high frequencies are a difference of nearly equal values."""
        with _single(x):
            products, r = self.waves @ x @ self.waves.T, len(self.kept)  # [cos cos, cos sin; sin cos, sin sin], of r x r each
            real = (products[..., :r, :r] - products[..., r : 2 * r, r : 2 * r]) * self.kept
            negative_imaginary = (products[..., :r, r : 2 * r] + products[..., r : 2 * r, :r]) * self.kept
            top = torch.cat([real, negative_imaginary], dim=-1)
            bottom = torch.cat([negative_imaginary, -real], dim=-1)
            return self.waves.T @ torch.cat([top, bottom], dim=-2) @ self.waves


def mask(radius: int) -> Tensor:
    """Which of the frequencies -radius ... radius - 1, of rows and of columns, are kept: bool (2 radius, 2 radius)."""
    side = torch.arange(radius)
    distance = torch.cat([side.flip(0), side])
    return distance[:, None] ** 2 + distance[None, :] ** 2 < radius**2


def _single(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """No autocast, where there is one."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


class Bands(nn.Module):
    """An image, its low and its high frequencies, normalised as ImageNet is: (B, 3, side, side) in [0, 1] -> (3 B, ...)."""

    mean: Tensor
    std: Tensor

    def __init__(self, side: int, radius: int, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.low_pass = LowPass(side, radius)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """All images first, then all low bands, then all high ones."""
        low = self.low_pass(x)
        bands = torch.cat([x, low.clamp(0, 1), (x - low).clamp(0, 1)])
        return (bands - self.mean) / self.std
