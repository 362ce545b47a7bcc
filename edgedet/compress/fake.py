"""Fake quantization: float tensors that hold what a device's integers hold, and gradients through the rounding (needs torch).

A quantized tensor is kept as its integers (less the zero point) and their scale apart, :class:`Scaled`. A convolution of two of
them adds up integers, which float32 does exactly below 2^24, and multiplies by the scales once, as the device's kernel does:
what is trained rounds where the device rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedet.quantize.qdq import MOST_BIAS_STEPS, SMALLEST_SCALE
from edgedet.quantize.typed import next_half


@dataclass(frozen=True)
class Scaled:
    """``values * scale``; `scale` broadcasts against `values`. `zero`: of a device's integers, taken off already."""

    values: Tensor
    scale: Tensor
    zero: int | None = None

    @property
    def real(self) -> Tensor:
        """The product."""
        return self.values * self.scale


@dataclass(frozen=True)
class Sum:
    """Two tensors of integers that are added, perhaps with a ReLU behind, before they are rounded again."""

    first: Scaled
    second: Scaled
    relu: bool = False

    @property
    def real(self) -> Tensor:
        """The sum."""
        total = self.first.real + self.second.real
        return torch.relu(total) if self.relu else total


class _Round(torch.autograd.Function):
    """Round to even and clip; the gradient passes straight through inside of the limits, and is zero outside.

    Source: Bengio, Léonard, Courville, Estimating or propagating gradients through stochastic neurons, 2013, section 4.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        rounded = torch.round(values)
        ctx.save_for_backward((rounded >= low) & (rounded <= high))
        return rounded.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None


class _Half(torch.autograd.Function):
    """Round to half precision, in float32; the gradient passes straight through."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return values.half().float()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _AtMost(torch.autograd.Function):
    """The lesser of values and a limit that broadcasts against them; a value's gradient is its own, or the limit's."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, limit: Tensor) -> Tensor:
        below = values < limit
        ctx.save_for_backward(below)
        ctx.shape = limit.shape
        return torch.minimum(values, limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (below,) = ctx.saved_tensors
        own = gradients[0] * below
        others = (gradients[0] - own).sum_to_size(ctx.shape) if ctx.needs_input_grad[1] else None
        return own, others


class _Slowed(torch.autograd.Function):
    """The same value; the gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def rounded(values: Tensor, low: float = -math.inf, high: float = math.inf) -> Tensor:
    """`values` rounded to even and clipped, with the straight-through gradient."""
    made: Tensor = _Round.apply(values, low, high)
    return made


def half(values: Tensor) -> Tensor:
    """`values` as half precision has them, in float32, with the straight-through gradient."""
    made: Tensor = _Half.apply(values)
    return made


def at_most(values: Tensor, limit: Tensor) -> Tensor:
    """The lesser of `values` and `limit`, which broadcasts: several times as fast as torch's clamp by a tensor."""
    made: Tensor = _AtMost.apply(values, limit)
    return made


def slowed(value: Tensor, factor: float) -> Tensor:
    """`value`, with its gradient times `factor`."""
    made: Tensor = _Slowed.apply(value, factor)
    return made


def activation(x: Tensor | Scaled | Sum, scale: Tensor, zero: int, low: int, high: int) -> Scaled:
    """`x` in steps of `scale` (a scalar) between `low` and `high`, the integers' limits less the zero point.

    The gradient of a scale that is learnt is that of Esser et al., Learned step size quantization, ICLR 2020, section 2.1.
    """
    if isinstance(x, Sum) and (low >= 0 or not x.relu):
        steps = rounded(_added(x, scale, zero), low + zero, high + zero) - zero
    elif isinstance(x, Scaled):
        steps = rounded(x.values * (x.scale / scale), low, high)
    else:
        steps = rounded((x.real if isinstance(x, Sum) else x) / scale, low, high)
    return Scaled(steps, scale, zero)


def _added(x: Sum, scale: Tensor, zero: int) -> Tensor:
    """The sum in steps of `scale`, from `zero` on, rounded to float32 where ONNX Runtime's x86 kernel rounds it (AVX2, FMA)."""
    a, b = x.first, x.second
    a_zero, b_zero = float(a.zero or 0), float(b.zero or 0)
    a_ratio, b_ratio = a.scale / scale, b.scale / scale
    start = zero - _fused(a_ratio, a_zero, b_ratio * b_zero)
    return _fused(a.values + a_zero, a_ratio, _fused(b.values + b_zero, b_ratio, start))


def _fused(x: Tensor, factor: Tensor | float, term: Tensor) -> Tensor:
    """``x * factor + term``, rounded to float32 once: a product of two float32 numbers is exact in float64."""
    return (x.double() * factor + term.double()).float()


def weight_scale(weight: Tensor, axis: int | None, top: int, *, half: bool = False) -> Tensor:
    """The scale of int8 weights, of each place along `axis`, (O,), or of the whole tensor, (); see `edgedet.quantize.qdq`."""
    others = [place for place in range(weight.ndim) if place != axis]
    scale = (weight.detach().abs().amax(others) / top).clamp_min(SMALLEST_SCALE)
    return torch.from_numpy(np.asarray(next_half(scale.cpu().numpy()), np.float32)).to(scale.device) if half else scale


@dataclass(frozen=True)
class Rounding:
    """How a layer's weight is rounded: the axis of its output channels or None, the largest integer, scales in half or not."""

    axis: int | None
    top: int
    half: bool = False


def layer(
    weight: Tensor, bias: Tensor | None, scale_in: Tensor, how: Rounding
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The integers of a layer's weight and bias and the weight's scale, as `edgedet.quantize.qdq.quantize_layer` makes them."""
    scale = weight_scale(weight, how.axis, how.top, half=how.half)
    steps = None
    if bias is not None:
        least = bias.detach().abs() / (scale_in.detach() * MOST_BIAS_STEPS)
        scale = torch.maximum(scale, least if scale.ndim else least.max())
        steps = rounded(bias / (scale_in * scale))
    return rounded(weight / along(scale, how.axis, weight.ndim), -how.top, how.top), steps, scale


def along(scale: Tensor, axis: int | None, ndim: int) -> Tensor:
    """`scale`, (O,) or (), so that it broadcasts along `axis` of a weight."""
    return scale.reshape([-1 if place == axis else 1 for place in range(ndim)]) if scale.ndim else scale
