"""Multiply-accumulates of a network: the one definition that tables, recipes and pruning share.

Those of convolutions and of matrix products are counted, attention's included; what is element-wise is not: norms, activations,
softmax, pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from edgedet.models.pixels import PixelModel


def macs(model: PixelModel) -> float:
    """The multiply-accumulates of one image at the model's input size, of the network as it is deployed.

    They are counted on the device that the weights are on; on the device ``meta`` nothing is computed.
    """
    device = next(model.parameters()).device
    pixels = torch.zeros(1, model.preprocess.height, model.preprocess.width, 3, dtype=torch.uint8, device=device)
    return of_pass(model.deployed(), pixels)


def of_pass(module: nn.Module, x: torch.Tensor) -> float:
    """The multiply-accumulates of ``module(x)`` in evaluation."""
    training = module.training
    # As plain matrix products: the fused kernels of some devices are not counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _Count() as count:
        module.eval()(x)
    module.train(training)
    return float(count.flops) / 2


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """On the device ``meta``, leaves out what changes no shape: values in place, norms, activations.

    torch works out by rules in Python what each of them would give, which takes most of the time of making a network there.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.device.type == "meta":
            if func._overloadpacket in _IN_PLACE:
                return first
            if func._overloadpacket in _ALIKE:
                return torch.empty_like(first)
            if func._overloadpacket in _NORMS:
                return torch.empty_like(first), first.new_empty(0), first.new_empty(0)
        return func(*args, **(kwargs or {}))


class _Count(Shapes):
    """Floating point operations by torch's own formulas, two a multiply-accumulate."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(func, types, args, kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=made)
        return made


def _operators(*names: str) -> frozenset[Any]:
    return frozenset(getattr(torch.ops.aten, name) for name in names)


_IN_PLACE = _operators("normal_", "uniform_", "clamp_", "mul_", "add_", "sub_", "div_", "erfinv_", "fill_", "zero_", "copy_")
_ALIKE = _operators("relu", "gelu", "silu", "hardtanh", "sigmoid", "hardswish", "_softmax")
_NORMS = _operators("native_batch_norm", "native_layer_norm")
