"""ONNX operators in torch: what a graph is trained with (needs torch).

:data:`OPERATORS` has a function for each: ``(given, *inputs) -> output``, `given` the node's attributes, an input that is left
out None. They follow the specification from opset 18 on, as far as networks use it; what a function does not know it refuses.
Source: https://onnx.ai/onnx/operators; every one is held against ONNX Runtime in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from edgedet.errors import QuantizeError

Given = Mapping[str, Any]
Operator = Callable[..., Tensor]

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,  # whose values the graph's module rounds to half
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Integers, which shapes are made of, are divided towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def convolution(given: Given, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, I, ...) with weights (O, I / group, ...) -> (B, O, ...)."""
    spatial = x.ndim - 2
    x, padding = _padded(given, x, 0.0)
    strides, dilations = _per_axis(given, "strides", spatial), _per_axis(given, "dilations", spatial)
    return torch.convolution(x, weight, bias, strides, padding, dilations, False, [0] * spatial, given.get("group", 1))


def gemm(given: Given, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """``alpha A B + beta C``, both transposed when asked."""
    product = (a.T if given.get("transA", 0) else a) @ (b.T if given.get("transB", 0) else b)
    alpha, beta = given.get("alpha", 1.0), given.get("beta", 1.0)
    product = product if alpha == 1 else alpha * product
    return product if c is None else product + (c if beta == 1 else beta * c)


def max_pool(given: Given, x: Tensor) -> Tensor:
    """(B, C, H, W) -> its maxima in windows."""
    x, padding = _padded(given, x, -math.inf)
    strides, dilations = _per_axis(given, "strides", 2), _per_axis(given, "dilations", 2)
    return F.max_pool2d(x, given["kernel_shape"], strides, padding, dilations, bool(given.get("ceil_mode", 0)))


def average_pool(given: Given, x: Tensor) -> Tensor:
    """(B, C, H, W) -> its means in windows; padding counts when ``count_include_pad`` says so."""
    counted = bool(given.get("count_include_pad", 0))
    pads = _per_axis(given, "pads", 4, 0)
    if pads[:2] != pads[2:] and not counted:
        raise QuantizeError(f"pads {pads} differ between the sides and are not counted in the mean")
    x, padding = _padded(given, x, 0.0)
    strides = _per_axis(given, "strides", 2)
    return F.avg_pool2d(x, given["kernel_shape"], strides, padding, bool(given.get("ceil_mode", 0)), counted)


def batch_normalization(given: Given, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """With the statistics of training, which stay."""
    if given.get("training_mode", 0):
        raise QuantizeError("is in training mode: export the network in evaluation mode")
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=given.get("epsilon", 1e-5))


def layer_normalization(given: Given, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Over the axes from ``axis`` on."""
    shape = list(x.shape[given.get("axis", -1) :])
    return F.layer_norm(x, shape, scale, bias, given.get("epsilon", 1e-5))


def gelu(given: Given, x: Tensor) -> Tensor:
    """Exact, or by its tanh approximation."""
    return F.gelu(x, approximate=given.get("approximate", b"none").decode())


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Between `low` and `high`, numbers: with tensors as limits torch's backward pass takes eight times as long."""
    limits = [None if limit is None else float(limit) for limit in (low, high)]
    return x if limits == [None, None] else torch.clamp(x, *limits)


def hard_sigmoid(given: Given, x: Tensor) -> Tensor:
    """``clip(alpha x + beta, 0, 1)``."""
    return torch.clamp(given.get("alpha", 0.2) * x + given.get("beta", 0.5), 0, 1)


def cast(given: Given, x: Tensor) -> Tensor:
    """To another type."""
    if given["to"] not in _TYPES:
        raise QuantizeError(f"casts to {TensorProto.DataType.Name(given['to'])}, which is not trained in")
    return x.to(_TYPES[given["to"]])


def shape(given: Given, x: Tensor) -> Tensor:
    """The sides of `x`, int64, on the CPU: shapes are computed there."""
    return torch.tensor(x.shape[given.get("start", 0) : given.get("end", x.ndim)], dtype=torch.int64)


def reshape(given: Given, x: Tensor, sides: Tensor) -> Tensor:
    """A side of 0 is the input's, unless ``allowzero``; one of -1 is what is left."""
    wanted = sides.tolist()
    if not given.get("allowzero", 0):
        wanted = [x.shape[axis] if side == 0 else side for axis, side in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(given: Given, x: Tensor) -> Tensor:
    """Into two axes, split before ``axis``."""
    axis = given.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without `axes`, or without all sides of 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """With sides of 1 at `axes` of the result."""
    ndim = x.ndim + axes.numel()
    for axis in sorted(int(axis) % ndim for axis in axes):
        x = x.unsqueeze(axis)
    return x


def slices(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """From `starts` to `ends`, of `axes` or of the first ones."""
    along = range(starts.numel()) if axes is None else axes.tolist()
    strides = [1] * starts.numel() if steps is None else steps.tolist()
    if min(strides) < 1:
        raise QuantizeError(f"runs backwards (steps {strides})")
    index = [slice(None)] * x.ndim
    for axis, start, end, stride in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        side = x.shape[axis]  # the ends of an axis are written as the smallest and the largest integer
        index[axis] = slice(max(start, -side), min(end, side), stride)
    return x[tuple(index)]


def gather(given: Given, x: Tensor, indices: Tensor) -> Tensor:
    """The entries of `x` at `indices`, of any shape, along ``axis``."""
    axis = given.get("axis", 0) % x.ndim
    inside = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    picked = x.index_select(axis, inside.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def expand(x: Tensor, sides: Tensor) -> Tensor:
    """Broadcast to `sides`, both ways."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(sides.tolist())))  # type: ignore[no-untyped-call]


def pad(given: Given, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    """With a constant."""
    if given.get("mode", b"constant") != b"constant":
        raise QuantizeError(f"pads with {given['mode'].decode()}, only a constant is known")
    along = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes]
    ends = pads.tolist()
    around = {axis: (ends[place], ends[place + len(along)]) for place, axis in enumerate(along)}
    # torch counts from the last axis.
    flat = [side for axis in reversed(range(x.ndim)) for side in around.get(axis, (0, 0))]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def _reduced(function: Callable[..., Tensor]) -> Operator:
    """The operator that reduces by `function` over the axes of its second input; all of them when there is none."""

    def operator(given: Given, x: Tensor, axes: Tensor | None = None) -> Tensor:
        if axes is None and given.get("noop_with_empty_axes", 0):
            return x
        along = tuple(range(x.ndim)) if axes is None else tuple(axes.tolist())
        return function(x, along, keepdim=bool(given.get("keepdims", 1)))

    return operator


def _plain(function: Callable[..., Tensor]) -> Operator:
    """The operator that is `function` of its inputs, whatever its attributes."""
    return lambda _, *inputs: function(*inputs)


def _padded(given: Given, x: Tensor, value: float) -> tuple[Tensor, list[int]]:
    """`x` and the padding that torch adds itself; what differs between the sides is added here."""
    spatial = x.ndim - 2
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise QuantizeError(f"pads by {given['auto_pad'].decode()}: export with explicit pads")
    pads = _per_axis(given, "pads", 2 * spatial, 0)
    before, after = pads[:spatial], pads[spatial:]
    if before == after:
        return x, before
    flat = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return F.pad(x, flat, value=value), [0] * spatial


def _per_axis(given: Given, name: str, count: int, default: int = 1) -> list[int]:
    sides: Sequence[int] = given.get(name, [default] * count)
    return list(sides)


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Cast": cast,
    "Clip": _plain(clip),
    "Concat": lambda given, *parts: torch.cat(parts, given["axis"]),
    "Conv": convolution,
    "Div": _plain(divide),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _plain(expand),
    "Flatten": flatten,
    "Gather": gather,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": _plain(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _plain(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "HardSigmoid": hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "LayerNormalization": layer_normalization,
    "MatMul": _plain(torch.matmul),
    "MaxPool": max_pool,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Pad": pad,
    "Pow": _plain(torch.pow),
    "ReduceL2": _reduced(lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _plain(slices),
    "Softmax": lambda given, x: torch.softmax(x, given.get("axis", -1)),
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _plain(squeeze),
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda given, x: x.permute(given.get("perm", tuple(reversed(range(x.ndim))))),
    "Unsqueeze": _plain(unsqueeze),
}
