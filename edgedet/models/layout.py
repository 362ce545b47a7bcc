"""Where heads and channels lie in layers that are made of several: what pruning and rebuilding must keep consistent.

A convolution's widths are its own two; an attention layer's heads lie in the rows of one linear layer, the columns of another
and perhaps in a table of position biases. A layer of edgedet says so itself, by a method ``layout() -> Layout``; those of timm
are listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.swin_transformer import PatchMerging, WindowAttention
from timm.models.vision_transformer import Block
from torch import nn


@dataclass(frozen=True)
class Part:
    """Positions of one width that belong to units: position p to unit ``(p // width) % count``.

    name: of a layer inside, or of a parameter of its own.
    slot: which of its widths, as `edgedet.models.structure` numbers them; of a parameter, the axis.
    width: how many neighbours belong to one unit: a head's width, 1 for channels.
    """

    name: str
    slot: int
    width: int = 1


@dataclass(frozen=True)
class Units:
    """Things that are removed whole, and every width that they lie in."""

    count: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """What a layer of several parts reads, gives and holds.

    reads, gives: the channels that come in and go out; through: where both are the same channels.
    heads: its attention heads, each `head_width` wide; `counts` and `inner` name the attributes that hold their number, and
        their number times their width.
    mixes: what it makes of a channel depends on the others (a norm, a mean over channels), so that a removed channel is not the
        same as one that nothing reads.
    refused: why nothing of it, and no channel that it reads or gives, is pruned.
    """

    reads: Units | None = None
    gives: Units | None = None
    through: Units | None = None
    heads: Units | None = None
    head_width: int = 0
    counts: tuple[str, ...] = ("num_heads",)
    inner: tuple[str, ...] = ()
    mixes: bool = False
    refused: str = ""


def layout_of(layer: nn.Module) -> Layout | None:
    """The layout of a layer that is made of several; None for any other module.

    Attention of a kind that is not known is refused: it has a number of heads, and nobody says where they lie.
    """
    own: Callable[[], Layout] | None = getattr(layer, "layout", None)
    if callable(own):
        return own()
    known = next((made for kind, made in _TIMM.items() if isinstance(layer, kind)), None)
    if known is not None:
        return known(layer)
    if isinstance(layer, nn.MultiheadAttention):
        return Layout(refused="PyTorch's attention takes the width of a head from the embedding's and the number of heads")
    if isinstance(getattr(layer, "num_heads", None), int) and not any(layout_of(inner) for inner in layer.children()):
        return Layout(refused=f"{type(layer).__name__} has heads, and nothing says where they lie")
    return None


def heads_of(layer: nn.Module) -> list[int] | None:
    """[number of heads, width of one] of an attention layer whose heads can be removed."""
    layout = layout_of(layer)
    return None if layout is None or layout.heads is None else [layout.heads.count, layout.head_width]


def set_heads(layer: nn.Module, count: int, width: int) -> None:
    """Tell an attention layer how many heads it has, after its tensors have changed or before they do."""
    layout = layout_of(layer)
    assert layout is not None
    for name in layout.counts:
        setattr(layer, name, count)
    for name in layout.inner:
        setattr(layer, name, count * width)


def _attention(layer: Any) -> Layout:
    """Of timm's attention: rows of `qkv` are (3, heads, width), columns of `proj` are (heads, width)."""
    if not hasattr(layer, "attn_dim"):
        return Layout(refused="this timm's attention takes the width of its heads from its input's: install a newer timm")
    if isinstance(layer.norm, nn.LayerNorm):
        return Layout(refused="its heads are normalised together")
    width: int = layer.head_dim
    gate = ("gate",) if layer.gate is not None else ()
    return Layout(
        reads=Units(layer.qkv.in_features, tuple(Part(name, 1) for name in ("qkv", *gate))),
        gives=Units(layer.proj.out_features, (Part("proj", 0),)),
        heads=Units(layer.num_heads, (*(Part(name, 0, width) for name in ("qkv", *gate)), Part("proj", 1, width))),
        head_width=width,
        inner=("attn_dim",),
    )


def _window_attention(layer: Any) -> Layout:
    """Swin's: the same, and a column of position biases for each head. (Liu et al., ICCV 2021, equation 4.)"""
    width: int = layer.qkv.out_features // (3 * layer.num_heads)
    return Layout(
        reads=Units(layer.qkv.in_features, (Part("qkv", 1),)),
        gives=Units(layer.proj.out_features, (Part("proj", 0),)),
        heads=Units(
            layer.num_heads,
            (Part("qkv", 0, width), Part("proj", 1, width), Part("relative_position_bias_table", 1)),
        ),
        head_width=width,
    )


def _patch_merging(layer: Any) -> Layout:
    """Swin's: the channels of four neighbours side by side, normalised and reduced."""
    return Layout(
        reads=Units(layer.reduction.in_features // 4, (Part("norm", 0), Part("reduction", 1))),
        gives=Units(layer.reduction.out_features, (Part("reduction", 0),)),
        mixes=True,
    )


# Where the class is defined differs between versions of timm.
_ATTENTION: type[nn.Module] = type(Block(dim=8, num_heads=1).attn)

_TIMM: dict[type[nn.Module], Callable[[Any], Layout]] = {
    _ATTENTION: _attention,
    WindowAttention: _window_attention,
    PatchMerging: _patch_merging,
}
