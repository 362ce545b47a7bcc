"""What can be removed from a network: groups of widths that go together, found by tracing, as data.

Which layers' channels go together is torch-pruning's to find (Fang et al., DepGraph, CVPR 2023). Every layer is one operation
to it: what is inside attention is not followed, its heads are known from `edgedet.models.layout`. What cannot be followed, or
is not to be pruned, is left alone with the reason.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgedet.models import structure
from edgedet.models.layout import Units, layout_of

Kind = Literal["channels", "mlp", "heads", "embedding"]
"""channels: what convolutions give; mlp: what linear layers give to linear layers; heads: of attention, whole; embedding: what
the blocks of a transformer read and add to."""

_TRACED = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


@dataclass(frozen=True, eq=False)
class Cut:
    """The positions of one width of a layer or parameter: `units`, int64 (size,), has the unit of each, -1 for what stays.

    slot: which width, as `edgedet.models.structure` numbers them.
    reads: whether the layer computes something of these channels, so that with its weights for them the channels go.
    """

    name: str
    slot: int
    units: Tensor
    reads: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """`count` units that can be removed, each whole, and the widths that they lie in.

    name: of the layer that gives them, the last of several, or of the attention whose heads they are.
    mixes: something on their way is computed of several at once, as a norm is.
    """

    name: str
    kind: Kind
    count: int
    cuts: tuple[Cut, ...]
    mixes: bool = False


@dataclass(frozen=True)
class Found:
    """The groups of a network, and what is left alone: the name of a layer, and the reason."""

    groups: tuple[Group, ...]
    reasons: dict[str, str]


def find(net: nn.Module, x: Tensor, *, classifier: str, kinds: Iterable[Kind]) -> Found:
    """The groups of these kinds in `net`, for an input `x` (1, 3, H, W); nothing of `net` is changed.

    classifier: the layer that gives the logits, whose outputs stay.
    """
    search = _Search(copy.deepcopy(net).eval().requires_grad_(True), classifier, frozenset(kinds))
    for group in search.traced(x):
        try:
            search.add(group)
        except _Refused as refusal:
            search.reasons[search.name_of(group)] = str(refusal)
    search.add_heads()
    return Found(tuple(search.groups), search.reasons)


class _Refused(Exception):
    """Why a group is left alone."""


@dataclass
class _Search:
    """Through a copy of the network, whose layers are made single operations."""

    net: nn.Module
    classifier: str
    kinds: frozenset[Kind]
    groups: list[Group] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.widths = structure.describe(self.net)
        self.layouts = {module: layout for module in self.net.modules() if (layout := layout_of(module)) is not None}
        self.names: dict[object, str] = {module: name for name, module in self.net.named_modules()}
        self.names.update({parameter: name for name, parameter in self.net.named_parameters()})

    def traced(self, x: Tensor) -> Iterator[Any]:
        """torch-pruning's groups, each with all of its units."""
        within = {inner for layer in self.layouts for inner in layer.modules() if inner is not layer}
        anchor = torch.zeros((), requires_grad=True)
        for layer in self.net.modules():
            if layer not in within and (layer in self.layouts or isinstance(layer, _TRACED)):
                _make_single(layer, anchor)
        apart = {type(layer): _Ends() if layout.reads else _Same() for layer, layout in self.layouts.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.graph = tp.DependencyGraph().build_dependency(self.net, x, customized_pruners=apart, verbose=False)
            yield from self.graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear])

    def name_of(self, group: Any) -> str:
        """The layer that torch-pruning began at."""
        return self.names[group[0].dep.target.module]

    def add(self, group: Any) -> None:
        """Take up one of torch-pruning's groups.

        Raises:
            _Refused: it is left alone.
        """
        members = [item for item in group.items if item.dep.target.module in self.names]
        modules = [item.dep.target.module for item in members]
        for module in modules:
            if self._layout(module, "refused"):
                raise _Refused(f"{self.names[module]}: {self._layout(module, 'refused')}")
        cuts = [cut for item in members for cut in self._cuts(item)]
        kind = self._kind(modules)
        if kind not in self.kinds:
            raise _Refused(f"{kind} is not among dims")
        mixes = any(isinstance(module, nn.LayerNorm) or self._layout(module, "mixes") for module in modules)
        self.groups.append(Group(self.name_of(group), kind, len(group[0].idxs), tuple(cuts), mixes))

    def add_heads(self) -> None:
        """Take up the heads of every attention layer."""
        for layer, layout in self.layouts.items():
            units, name = layout.heads, self.names[layer]
            if units is None:
                continue
            if "heads" not in self.kinds:
                self.reasons[name] = "heads is not among dims"
            else:
                cuts = (Cut(name, 0, torch.arange(units.count)), *self._inside(name, units, torch.arange(units.count)))
                self.groups.append(Group(name, "heads", units.count, cuts))

    def _kind(self, modules: Sequence[object]) -> Kind:
        if any(isinstance(module, nn.LayerNorm) or self._layout(module, "reads") for module in modules):
            return "embedding"
        return "channels" if any(isinstance(module, nn.Conv2d) for module in modules) else "mlp"

    def _layout(self, module: object, key: str) -> Any:
        layout = self.layouts.get(module) if isinstance(module, nn.Module) else None
        return getattr(layout, key, None)

    def _cuts(self, item: Any) -> list[Cut]:
        """What a member of a group loses with its units."""
        module, name = item.dep.target.module, self.names[item.dep.target.module]
        gives = bool(self.graph.is_out_channel_pruning_fn(item.dep.handler))
        if gives and name == self.classifier:
            raise _Refused("the output")
        if module in self.layouts:
            units = self._layout(module, "through") or self._layout(module, "gives" if gives else "reads")
            return self._inside(name, units, _units(item, units.count, name)) if units is not None else []
        if isinstance(module, nn.Parameter):
            axis = item.dep.target.pruning_dim
            return [Cut(name, axis, _units(item, module.shape[axis], name))]
        _require_known(module, name)
        slot = 0 if gives or isinstance(module, nn.LayerNorm) or len(self.widths[name]) == 1 else 1
        return self._along(name, slot, _units(item, self.widths[name][slot], name))

    def _inside(self, name: str, units: Units, unit_of: Tensor) -> list[Cut]:
        """The widths inside a layer of several parts; `unit_of`: of each of its own units, the group's."""
        cuts = []
        for part in units.parts:
            inner = f"{name}.{part.name}" if name else part.name
            positions = torch.arange(self.widths[inner][part.slot])
            cuts += self._along(inner, part.slot, unit_of[positions // part.width % units.count])
        return cuts

    def _along(self, name: str, slot: int, units: Tensor) -> list[Cut]:
        """The cut of one width, or of all three of a depthwise convolution, which are the same channels."""
        owner = dict(self.net.named_modules()).get(name)
        if owner is not None and structure.depthwise(owner):
            return [Cut(name, each, units) for each in range(3)]
        return [Cut(name, slot, units, reads=isinstance(owner, (nn.Conv2d, nn.Linear)) and slot == 1)]


def _units(item: Any, size: int, name: str) -> Tensor:
    """The unit of each of `size` positions of a group's member, -1 for those that are no part of the group."""
    units = torch.full((size,), -1)
    for position, unit in zip(item.idxs, item.root_idxs, strict=True):
        if unit is None or not 0 <= position < size:
            raise _Refused(f"{name} has other channels: what is on the way to it is not computed channel by channel")
        units[position] = unit
    return units


def _require_known(module: nn.Module, name: str) -> None:
    if not isinstance(module, _TRACED):
        raise _Refused(f"it reaches {name}, a {type(module).__name__}, whose widths are not known here")
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
        raise _Refused(f"{name} normalises it together with its positions")
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not structure.depthwise(module):
        raise _Refused(f"{name} is a grouped convolution: its groups would differ in width")


class _Operation(torch.autograd.Function):
    """A layer as one operation of the graph that is traced; no gradient is ever taken."""

    @staticmethod
    def forward(_: Any, made: Tensor, *__: Tensor) -> Tensor:
        return made.clone()


def _make_single(layer: nn.Module, anchor: Tensor) -> None:
    """Hide what is inside `layer`, in place; `anchor` makes a layer of the image a part of the graph."""
    inner = layer.forward

    def forward(x: Tensor, *others: Any, **options: Any) -> Tensor:
        with torch.no_grad():
            made = inner(x, *others, **options)
        return torch.as_tensor(_Operation.apply(made, x, anchor))

    layer.__dict__["forward"] = forward


class _Ends:
    """How torch-pruning sees a layer of several parts that gives other channels than it reads. It never prunes by it."""

    pruning_dim: int | None = None

    def prune_out_channels(self, layer: nn.Module, _: Sequence[int]) -> nn.Module:
        """Told apart from the next by identity."""
        return layer

    def prune_in_channels(self, layer: nn.Module, _: Sequence[int]) -> nn.Module:
        """Of the channels that are read."""
        return layer

    def get_out_channels(self, layer: nn.Module) -> int | None:
        """How many it gives."""
        layout = layout_of(layer)
        return layout.gives.count if layout and layout.gives else None

    def get_in_channels(self, layer: nn.Module) -> int | None:
        """How many it reads."""
        layout = layout_of(layer)
        return layout.reads.count if layout and layout.reads else None


class _Same(_Ends):
    """One that gives the channels that it reads, or of whose widths nothing is said."""

    prune_in_channels = _Ends.prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int | None:
        """How many go through it."""
        layout = layout_of(layer)
        return layout.through.count if layout and layout.through else None

    get_in_channels = get_out_channels
