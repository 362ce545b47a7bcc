"""The widths that pruning left, as data: how a pruned network is rebuilt without a pickled module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgedet.errors import ModelError

Structure = dict[str, list[int]]
"""Module name -> [outputs, inputs, groups] of a convolution, [outputs, inputs] of a linear layer, [features] of a norm."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def describe(net: nn.Module) -> Structure:
    """The widths of every layer whose width pruning can change."""
    return {name: widths for name, module in net.named_modules() if (widths := _widths(module))}


def difference(net: nn.Module, original: nn.Module) -> Structure:
    """The part of `net`'s structure that is not `original`'s: what a manifest stores."""
    before = describe(original)
    return {name: widths for name, widths in describe(net).items() if before.get(name) != widths}


def apply(net: nn.Module, structure: Structure) -> nn.Module:
    """Replace the layers of a freshly built `net` so that it has `structure`; weights are to be loaded afterwards.

    Raises:
        ModelError: the structure names a layer that the network does not have.
    """
    modules = dict(net.named_modules())
    for name, widths in structure.items():
        if name not in modules:
            raise ModelError(f"the structure names layer {name!r}, which this detector does not have: is it another builder's?")
        parent, _, leaf = name.rpartition(".")
        setattr(modules[parent] if parent else net, leaf, _resized(modules[name], widths, name))
    return net


def _widths(module: nn.Module) -> list[int] | None:
    if isinstance(module, nn.Conv2d):
        return [module.out_channels, module.in_channels, module.groups]
    if isinstance(module, nn.Linear):
        return [module.out_features, module.in_features]
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return [module.num_features]
    if isinstance(module, nn.LayerNorm):
        return list(module.normalized_shape)
    return None


def _resized(module: nn.Module, widths: list[int], name: str) -> nn.Module:
    if isinstance(module, nn.Conv2d) and len(widths) == 3:
        return nn.Conv2d(
            widths[1],
            widths[0],
            _pair(module.kernel_size),
            _pair(module.stride),
            module.padding if isinstance(module.padding, str) else _pair(module.padding),
            _pair(module.dilation),
            widths[2],
            module.bias is not None,
        )
    if isinstance(module, nn.Linear) and len(widths) == 2:
        return nn.Linear(widths[1], widths[0], module.bias is not None)
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and len(widths) == 1:
        # timm's BatchNormAct2d carries an activation: resize in place, so that the class is kept.
        return _resize_norm(module, widths[0])
    if isinstance(module, nn.LayerNorm):
        return nn.LayerNorm(widths, module.eps, module.elementwise_affine)
    raise ModelError(f"the structure gives layer {name!r} widths {widths}, which do not fit a {type(module).__name__}")


def _resize_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, features: int) -> nn.Module:
    norm.num_features = features
    for key, parameter in list(norm.named_parameters(recurse=False)):
        setattr(norm, key, nn.Parameter(parameter.detach().new_zeros(features)))
    for key, buffer in list(norm.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(norm, key, buffer.new_zeros(features))
    return norm


def _pair(value: tuple[int, ...] | Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def count_parameters(net: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in net.parameters())


def same_shapes(net: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """What keeps `state` from being loaded into `net`: missing, unexpected and misshapen tensors."""
    own = net.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    shared = own.keys() & state.keys()
    return problems + [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(shared)
        if own[key].shape != state[key].shape
    ]
