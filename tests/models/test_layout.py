"""Where heads and channels lie, checked by taking one away by hand."""

import pytest
import torch
from timm.layers import AttentionPoolLatent
from timm.models.swin_transformer import PatchMerging, WindowAttention
from timm.models.vision_transformer import Block
from torch import nn

from edgedet.models import structure
from edgedet.models.blocks import ChannelGate, SpatialGate, StyleRecalibration
from edgedet.models.layout import Units, heads_of, layout_of, set_heads

ATTENTION = Block(dim=48, num_heads=3, qkv_bias=True).attn
WINDOWS = WindowAttention(dim=48, num_heads=3, window_size=2)


def positions(layer: nn.Module, units: Units, unit: int) -> dict[tuple[str, int], list[int]]:
    """Of one unit, in every width that it lies in."""
    widths = structure.describe(layer)
    return {
        (part.name, part.slot): [p for p in range(widths[part.name][part.slot]) if p // part.width % units.count == unit]
        for part in units.parts
    }


@pytest.mark.parametrize("layer", [ATTENTION, WINDOWS])
def test_a_heads_rows_are_those_of_its_query_key_and_value(layer):
    heads = layout_of(layer).heads
    found = positions(layer, heads, 1)
    assert heads_of(layer) == [3, 16]
    assert found["qkv", 0] == [*range(16, 32), *range(48 + 16, 48 + 32), *range(96 + 16, 96 + 32)]
    assert found["proj", 1] == list(range(16, 32))
    if layer is WINDOWS:
        assert found["relative_position_bias_table", 1] == [1]


def test_every_attention_reads_and_gives_the_embedding():
    for layer in (ATTENTION, WINDOWS):
        layout = layout_of(layer)
        assert positions(layer, layout.reads, 5) == {("qkv", 1): [5]}
        assert positions(layer, layout.gives, 5) == {("proj", 0): [5]}


def test_merged_patches_have_each_channel_four_times():
    layer = PatchMerging(dim=8)
    layout = layout_of(layer)
    assert positions(layer, layout.reads, 3) == {("norm", 0): [3, 11, 19, 27], ("reduction", 1): [3, 11, 19, 27]}
    assert layout.gives.count == 16
    x = torch.randn(1, 2, 2, 8)
    merged = {}
    layer.norm.register_forward_pre_hook(lambda _, given: merged.update(x=given[0]))
    layer(x)
    assert sorted(merged["x"][0, 0, 0, [3, 11, 19, 27]].tolist()) == sorted(x[0, :, :, 3].flatten().tolist())


def test_the_number_of_heads_stands_wherever_the_layer_looks_for_it():
    layer = Block(dim=48, num_heads=3).attn
    set_heads(layer, 2, 16)
    assert (layer.num_heads, layer.head_dim, layer.attn_dim, layer.scale) == (2, 16, 32, 16**-0.5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MultiheadAttention(16, 2), "takes the width of a head from the embedding's"),
        (AttentionPoolLatent(16, num_heads=2), "AttentionPoolLatent has heads, and nothing says where they lie"),
        (Block(dim=16, num_heads=2, scale_attn_norm=True).attn, "normalised together"),
    ],
)
def test_attention_of_another_kind_is_refused_with_the_reason(layer, reason):
    assert reason in layout_of(layer).refused
    assert heads_of(layer) is None


def test_our_own_layers_say_it_themselves():
    assert layout_of(SpatialGate()).mixes
    assert layout_of(StyleRecalibration(8)).through.count == 8
    assert layout_of(ChannelGate(32)) is None
    assert layout_of(Block(dim=16, num_heads=2)) is None
