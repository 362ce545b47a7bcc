"""The first convolution on the pixels themselves: no float pass over the image is left.

The graph normalises inside: ``x = gain * (pixel - zero)`` per channel. That is the definition of a uint8 quantized tensor, so
the pixels are already the quantized input, with nothing rounded; what differs between channels goes into the convolution::

    W x = W (gain_c / gain) * gain (pixel - zero_point)  +  sum over the kernel of W gain_c (zero_point - zero_c)
          `--- weights ---'  `---- the uint8 input ----'     `------------------- bias -------------------------'

A convolution that pads puts zeros around `x`; around the pixels it puts `zero_point`. The two agree when every channel's
`zero` is within half a step of `zero_point`: normalisations with one mean, which EdgeNet uses. ImageNet's three means under a
padding convolution do not: these keep their float pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from edgedet.quantize.graph import Array, GraphView, attributes

Vector = npt.NDArray[np.float64]

HALF_STEP = 0.5 + 1e-3
"""Rounding a padding value costs no more than rounding any pixel would."""

_SIGNED_ZERO = 128


@dataclass(frozen=True)
class PixelInput:
    """`tensor`, a convolution's input, is ``gain * (pixel - zero)`` per channel of the uint8 graph input `source`."""

    tensor: str
    source: str
    gain: Vector
    zero: Vector

    @property
    def scale(self) -> float:
        """The scale of the uint8 tensor."""
        return float(np.abs(self.gain).mean())

    @property
    def zero_point(self) -> int:
        """Its zero point."""
        return int(np.clip(np.round(self.zero.mean()), 0, 255))

    @property
    def fits_signed(self) -> bool:
        """Whether ``pixel - 128`` is the tensor in steps of one gain: int8 with zero point 0 then rounds nothing."""
        same = bool(np.ptp(self.gain) <= 1e-6 * self.gain.min())
        return same and bool(np.abs(self.zero - _SIGNED_ZERO).max() < 1e-3)

    @property
    def signed_range(self) -> tuple[float, float]:
        """The least and the greatest value of a pixel, where it :attr:`fits_signed`."""
        return -_SIGNED_ZERO * self.scale, (255 - _SIGNED_ZERO) * self.scale

    def rewrite(self, weight: Array, bias: Array) -> tuple[Array, Array]:
        """Weights (O, C, kH, kW) and bias (O,) that give on the uint8 tensor what the old ones give on `tensor`."""
        shift = weight.sum(axis=(2, 3), dtype=np.float64) @ (self.gain * (self.zero_point - self.zero))
        return weight * (self.gain / self.scale)[None, :, None, None], bias + shift


def find_pixel_input(view: GraphView, convolution: NodeProto) -> PixelInput | None:
    """How `convolution` can read the pixels; None when it does not, or when its padding would not be zero."""
    found = pixels_of(view, convolution.input[0])
    if found is None or attributes(convolution).get("group", 1) != 1:
        return None
    if _pads(convolution) and np.abs(found.zero - found.zero_point).max() > HALF_STEP:
        return None
    return found


def pixels_of(view: GraphView, tensor: str) -> PixelInput | None:
    """Follow Add, Sub, Mul and Div by constants, and the layout change, from `tensor` back to the Cast of the pixels.

    None when it is made of anything else.
    """
    gain, offset, axis, current = np.ones(3), np.zeros(3), 1, tensor
    while (node := view.producer(current)) is not None:
        if node.op_type == "Cast":
            if view.input_types.get(node.input[0]) != TensorProto.UINT8 or axis != 3 or np.any(gain == 0):
                return None
            return PixelInput(tensor, node.input[0], gain, -offset / gain)
        if node.op_type == "Transpose":
            if list(attributes(node).get("perm", [])) != [0, 3, 1, 2] or axis != 1:
                return None
            axis, current = 3, node.input[0]
            continue
        step = _step(view, node, axis)
        if step is None:
            return None
        factor, shift, current = step
        gain, offset = gain * factor, offset + gain * shift
    return None


def _step(view: GraphView, node: NodeProto, axis: int) -> tuple[Vector, Vector, str] | None:
    """`node` as ``factor * input + shift``, per channel, and that input."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(view.variables(node)) != 1:
        return None
    variable = view.variables(node)[0]
    first = node.input[0] == variable
    value = _per_channel(view.constant(node.input[1 if first else 0]), axis)
    if value is None or (node.op_type == "Div" and not first):
        return None
    one, nought = np.ones(3), np.zeros(3)
    if node.op_type == "Add":
        return one, value, variable
    if node.op_type == "Sub":
        return (one, -value, variable) if first else (-one, value, variable)
    return (value if node.op_type == "Mul" else 1 / value), nought, variable


def _per_channel(value: Array | None, axis: int) -> Vector | None:
    """A constant as three channel values; None when it varies along another axis than `axis`."""
    if value is None:
        return None
    shape = (1,) * (4 - value.ndim) + value.shape
    if any(side != 1 for position, side in enumerate(shape) if position != axis) or shape[axis] not in (1, 3):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), 3)


def _pads(convolution: NodeProto) -> bool:
    given = attributes(convolution)
    automatic = given.get("auto_pad", b"NOTSET")
    return automatic in (b"SAME_UPPER", b"SAME_LOWER") or any(given.get("pads", []))
