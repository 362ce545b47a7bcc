"""Which widths go together, and what is left alone and why."""

from collections import Counter

import pytest
import torch
from timm.layers import AttentionPoolLatent
from tiny_networks import ALL, groups_of, image, mobile, swin, vit
from torch import nn

from edgedet.compress.groups import find
from edgedet.models import structure
from edgedet.models.blocks import StyleRecalibration


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def widths_of(group, unit: int) -> dict[tuple[str, int], list[int]]:
    return {(cut.name, cut.slot): (cut.units == unit).nonzero()[:, 0].tolist() for cut in group.cuts}


def test_a_vision_transformer_has_one_embedding_a_hidden_width_and_the_heads_of_every_block():
    found = groups_of(vit, vit())
    assert Counter(group.kind for group in found.groups) == {"embedding": 1, "mlp": 2, "heads": 2}
    assert found.reasons == {"head": "the output"}
    embedding = widths_of(next(group for group in found.groups if group.kind == "embedding"), 5)
    assert {("cls_token", 2), ("pos_embed", 2), ("patch_embed.proj", 0), ("blocks.1.attn.proj", 0), ("head", 1)} <= {*embedding}
    assert set(map(tuple, embedding.values())) == {(5,)}
    hidden = next(group for group in found.groups if group.kind == "mlp")
    assert widths_of(hidden, 7) == {(f"{hidden.name}", 0): [7], (hidden.name.replace("fc1", "fc2"), 1): [7]}


def test_a_head_takes_its_table_column_with_it():
    found = groups_of(swin, swin())
    heads = [group for group in found.groups if group.kind == "heads"]
    assert [group.count for group in heads] == [2, 2, 4, 4]
    one = widths_of(heads[2], 3)
    assert one["layers.1.blocks.0.attn.relative_position_bias_table", 1] == [3]
    assert one["layers.1.blocks.0.attn", 0] == [3]
    assert len(one["layers.1.blocks.0.attn.qkv", 0]) == 3 * 16


def test_merging_patches_reads_one_stage_and_gives_the_next():
    found = groups_of(swin, swin())
    first, second = sorted((group for group in found.groups if group.kind == "embedding"), key=lambda group: group.count)
    assert (first.count, second.count) == (32, 64)
    assert widths_of(first, 3)["layers.1.downsample.reduction", 1] == [3, 35, 67, 99]
    assert widths_of(second, 3)["layers.1.downsample.reduction", 0] == [3]


def test_a_depthwise_convolution_goes_with_the_layers_on_both_sides_and_with_its_gate():
    found = groups_of(mobile, mobile())
    assert found.reasons == {"classifier": "the output"}
    group = next(group for group in found.groups if ("blocks.3.0.conv_dw", 0) in widths_of(group, 0))
    assert {name for name, _ in widths_of(group, 0)} == {
        f"blocks.3.0.{layer}" for layer in ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl")
    }
    assert [slot for name, slot in widths_of(group, 0) if name.endswith("conv_dw")] == [0, 1, 2]
    assert {cut.name for cut in group.cuts if cut.reads} == {"blocks.3.0.conv_pwl", "blocks.3.0.se.conv_reduce"}


def test_dimensions_that_were_not_asked_for_are_left_alone():
    found = groups_of(vit, vit(), kinds=("mlp",))
    assert {group.kind for group in found.groups} == {"mlp"}
    assert found.reasons["blocks.0.attn"] == "heads is not among dims"
    assert "embedding is not among dims" in found.reasons.values()


def test_a_flattened_map_has_a_channel_at_many_positions():
    layers = (nn.Conv2d(3, 16, 3), StyleRecalibration(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4, 8), nn.Linear(8, 1))
    net = nn.Sequential(*layers)
    found = find(net, torch.zeros(1, 3, 4, 4), classifier="5", kinds=ALL)
    one = widths_of(next(group for group in found.groups if group.kind == "channels"), 2)
    assert one == {("0", 0): [2], ("1.weight", 0): [2], ("1.bn", 0): [2], ("4", 1): [8, 9, 10, 11]}


class Gram(nn.Module):
    """Channels become the sides of an image."""

    def __init__(self):
        super().__init__()
        self.textures, self.read, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(1, 16, 3), nn.Linear(16, 1)

    def forward(self, x):
        flat = self.textures(x).flatten(2)
        return self.head(self.read((flat @ flat.transpose(1, 2)).unsqueeze(1)).mean((2, 3)))


class Pooled(nn.Module):
    """Attention of a kind that is not known."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(3, 16, 3), AttentionPoolLatent(16, num_heads=2), nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.pool(self.conv(x).flatten(2).transpose(1, 2)))


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1, groups=4), nn.Flatten(), nn.Linear(16 * 4, 1))


@pytest.mark.parametrize(
    ("net", "head", "layer", "reason"),
    [
        (Gram(), "head", "textures", "what is on the way to it is not computed channel by channel"),
        (Pooled(), "head", "conv", "pool: AttentionPoolLatent has heads, and nothing says where they lie"),
        (grouped(), "3", "0", "1 is a grouped convolution: its groups would differ in width"),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(2, 16), nn.Flatten(), nn.Linear(64, 1)), "3", "0",
         "it reaches 1, a GroupNorm, whose widths are not known here"),
        (nn.Sequential(nn.Conv2d(3, 16, 3), nn.LayerNorm([16, 2, 2]), nn.Flatten(), nn.Linear(64, 1)), "3", "0",
         "1 normalises it together with its positions"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_left_alone_with_the_reason(net, head, layer, reason):
    found = find(net, torch.zeros(1, 3, 4, 4), classifier=head, kinds=ALL)
    assert reason in found.reasons[layer]
    assert layer not in {group.name for group in found.groups}


def test_looking_changes_nothing():
    net = vit()
    before, logits = structure.describe(net), net(image(vit))
    groups_of(vit, net)
    assert structure.describe(net) == before
    assert torch.equal(net(image(vit)), logits)
