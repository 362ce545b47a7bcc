"""The widths that pruning left, as data: how a pruned network is rebuilt without a pickled module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edgedet.errors import ModelError
from edgedet.models.layout import heads_of, set_heads

Structure = dict[str, list[int]]
"""Name -> widths: [outputs, inputs, groups] of a convolution, [outputs, inputs] of a linear layer, [features] of a norm,
[heads, width of one] of attention whose heads can be removed, the shape of a parameter that none of these layers owns, and
nothing of a block that is taken out."""

class Removed(nn.Identity):
    """In the place of a residual block that was taken out: its shortcut."""


Axis = tuple[str, int]
"""A tensor of a layer, by name, and one of its axes."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_LAYERS = (nn.Conv2d, nn.Linear, *_BATCH_NORMS, nn.LayerNorm)


def describe(net: nn.Module) -> Structure:
    """Every width that pruning can change."""
    return {name: widths for name, owner in _owners(net) if (widths := _widths(owner)) is not None}


def difference(net: nn.Module, original: nn.Module) -> Structure:
    """The part of `net`'s structure that is not `original`'s: what a manifest stores."""
    before = describe(original)
    return {name: widths for name, widths in describe(net).items() if before.get(name) != widths}


def apply(net: nn.Module, structure: Mapping[str, Sequence[int]]) -> nn.Module:
    """Resize the layers of a freshly built `net` to `structure`; their tensors are zeros until weights are loaded.

    Raises:
        ModelError: the structure names a layer that the network does not have, or widths that a layer cannot have.
    """
    owners = dict(_owners(net))
    for name, widths in structure.items():
        if name not in owners:
            raise ModelError(f"the structure names layer {name!r}, which this detector does not have: is it another builder's?")
        owner = owners[name]
        if not widths and isinstance(owner, nn.Module):
            parent, _, key = name.rpartition(".")
            setattr(net.get_submodule(parent), key, Removed())
        elif isinstance(owner, nn.Parameter):
            _replace(net, name, owner, widths)
        else:
            _resize(owner, list(widths), name)
    return net


def axes(owner: nn.Module | nn.Parameter, slot: int) -> tuple[Axis, ...]:
    """The tensors that the width at `slot` of a layer's widths lies in; of a parameter, itself, named by nothing.

    A layer with more tensors than others of its class lists them in an attribute ``axes``, a mapping of slots.
    """
    if isinstance(owner, nn.Parameter):
        return (("", slot),)
    own: Mapping[int, tuple[Axis, ...]] | None = getattr(owner, "axes", None)
    if own is not None:
        return own[slot]
    if isinstance(owner, (*_BATCH_NORMS, nn.LayerNorm)):
        return tuple((name, 0) for name in ("weight", "bias", "running_mean", "running_var"))
    if slot == 0 and isinstance(owner, (nn.Conv2d, nn.Linear)):
        return ("weight", 0), ("bias", 0)
    # Of a depthwise convolution, each group's one input stays; attention has its heads in the layers inside it.
    return (("weight", 1),) if slot == 1 and isinstance(owner, (nn.Conv2d, nn.Linear)) and not depthwise(owner) else ()


def depthwise(layer: nn.Module) -> bool:
    """Whether it is a convolution each of whose channels is a group of its own."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1


def _owners(net: nn.Module) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Modules, and parameters that no layer with widths of its own has, by name."""
    for name, module in net.named_modules():
        yield name, module
        if not isinstance(module, _LAYERS):
            for key, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{key}" if name else key, parameter


def _widths(owner: nn.Module | nn.Parameter) -> list[int] | None:
    if isinstance(owner, nn.Parameter):
        return list(owner.shape)
    if isinstance(owner, Removed):
        return []
    if isinstance(owner, nn.Conv2d):
        return [owner.out_channels, owner.in_channels, owner.groups]
    if isinstance(owner, nn.Linear):
        return [owner.out_features, owner.in_features]
    if isinstance(owner, _BATCH_NORMS):
        return [owner.num_features]
    if isinstance(owner, nn.LayerNorm):
        return list(owner.normalized_shape)
    return heads_of(owner)


def _resize(layer: nn.Module, widths: list[int], name: str) -> None:
    before = _widths(layer)
    if before is None or len(before) != len(widths):
        raise ModelError(f"the structure gives layer {name!r} widths {widths}, which do not fit a {type(layer).__name__}")
    if not isinstance(layer, _LAYERS):
        set_heads(layer, *widths)
        return
    changed = [slot for slot, (old, new) in enumerate(zip(before, widths, strict=True)) if old != new]
    for slot in changed:
        for key, axis in axes(layer, slot):
            tensor = getattr(layer, key, None)
            if tensor is not None:
                shape = list(tensor.shape)
                shape[axis] = widths[slot] // widths[2] if isinstance(layer, nn.Conv2d) and slot == 1 else widths[slot]
                _replace(layer, key, tensor, shape)
    _SET[next(kind for kind in _LAYERS if isinstance(layer, kind))](layer, widths)


def _set_convolution(layer: Any, widths: list[int]) -> None:
    layer.out_channels, layer.in_channels, layer.groups = widths


def _set_linear(layer: Any, widths: list[int]) -> None:
    layer.out_features, layer.in_features = widths


def _set_batch_norm(layer: Any, widths: list[int]) -> None:
    layer.num_features = widths[0]


def _set_layer_norm(layer: Any, widths: list[int]) -> None:
    layer.normalized_shape = tuple(widths)


_SET: dict[type[nn.Module], Callable[[Any, list[int]], None]] = {
    nn.Conv2d: _set_convolution,
    nn.Linear: _set_linear,
    nn.BatchNorm1d: _set_batch_norm,
    nn.BatchNorm2d: _set_batch_norm,
    nn.LayerNorm: _set_layer_norm,
}


def _replace(net: nn.Module, name: str, before: Tensor, shape: Sequence[int]) -> None:
    """Zeros of another shape in place of a tensor: the layer keeps its class, with all that it adds."""
    owner, _, key = name.rpartition(".")
    zeros = before.detach().new_zeros(tuple(shape))
    made = nn.Parameter(zeros, before.requires_grad) if isinstance(before, nn.Parameter) else zeros
    setattr(net.get_submodule(owner), key, made)


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
