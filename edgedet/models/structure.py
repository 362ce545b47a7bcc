"""The widths that pruning left, as data: how a pruned network is rebuilt without a pickled module."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Resize the layers of a freshly built `net` to `structure`; their tensors are zeros until weights are loaded.

    Raises:
        ModelError: the structure names a layer that the network does not have, or widths that a layer cannot have.
    """
    modules = dict(net.named_modules())
    for name, widths in structure.items():
        if name not in modules:
            raise ModelError(f"the structure names layer {name!r}, which this detector does not have: is it another builder's?")
        _resize(modules[name], widths, name)
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


def _resize(module: nn.Module, widths: list[int], name: str) -> None:
    if isinstance(module, nn.Conv2d) and len(widths) == 3:
        module.out_channels, module.in_channels, module.groups = widths
        _reshape(module, weight=(widths[0], widths[1] // widths[2], *module.kernel_size), bias=widths[:1])
    elif isinstance(module, nn.Linear) and len(widths) == 2:
        module.out_features, module.in_features = widths
        _reshape(module, weight=widths, bias=widths[:1])
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and len(widths) == 1:
        module.num_features = widths[0]
        _reshape(module, weight=widths, bias=widths, running_mean=widths, running_var=widths)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(widths)
        _reshape(module, weight=widths, bias=widths)
    else:
        raise ModelError(f"the structure gives layer {name!r} widths {widths}, which do not fit a {type(module).__name__}")


def _reshape(module: nn.Module, **shapes: Sequence[int]) -> None:
    """Give the tensors that `module` has new shapes, in place: a layer of timm's keeps its class, with all that it adds."""
    for key, shape in shapes.items():
        before = getattr(module, key)
        if isinstance(before, nn.Parameter):
            setattr(module, key, nn.Parameter(before.detach().new_zeros(tuple(shape)), before.requires_grad))
        elif before is not None:
            setattr(module, key, before.new_zeros(tuple(shape)))


def count_parameters(net: nn.Module) -> int:
    """The number of values in parameters."""
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
