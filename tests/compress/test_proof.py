"""Groups that are found wrongly are told from those that are found rightly, by what removal does."""

from typing import get_args

import pytest
import torch
from tiny_networks import ALL, convolutional, groups_of, image, lively, mobile, swin, vit
from torch import nn

from edgedet.compress.groups import find
from edgedet.compress.proof import proven
from edgedet.models.ram import ResidualAttention, Variant
from edgedet.models.variational import BayesianLinear


@pytest.mark.parametrize("build", [vit, swin, mobile, convolutional])
def test_what_is_found_rightly_stands_the_trial(build):
    net = build()
    found = groups_of(build, net)
    assert proven(net, image(build), found) == found


@pytest.mark.parametrize("variant", get_args(Variant))
def test_each_variant_of_residual_attention_goes_with_the_channels_that_it_gates(variant):
    net = nn.Sequential()
    net.before, net.attention = nn.Conv2d(3, 32, 3), ResidualAttention(32, reduction=2, variant=variant)
    net.after, net.flat, net.head = nn.Conv2d(32, 16, 2), nn.Flatten(), nn.Linear(16, 1)
    x = torch.zeros(1, 3, 4, 4)
    found = find(lively(net), x, classifier="head", kinds=ALL)
    assert proven(net, x, found) == found
    inside = {"attention.channel.reduce"} if net.attention.channel else set()
    assert {group.name for group in found.groups} - {"before", "attention.channel.expand"} == {"after"} | inside
    gated = next(group for group in found.groups if group.count == 32)
    assert {"before", "after"} <= {cut.name for cut in gated.cuts}
    assert "attention.spatial.conv" not in {cut.name for cut in gated.cuts}


class Shuffled(nn.Module):
    """Channels change places by a reshape, which nothing that is traced tells."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        x = self.first(x).relu()
        x = x.view(-1, 2, 8, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.head(self.third(self.second(x).relu()).mean((2, 3)))


class Fixed(nn.Module):
    """A width that is written down: it breaks as soon as it changes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.second(self.first(x).view(-1, 16, *x.shape[2:])).mean((2, 3)))


@pytest.mark.parametrize(("net", "good"), [(Shuffled(), {"second", "third"}), (Fixed(), {"second"})])
def test_what_is_found_wrongly_is_left_alone_with_the_reason(net, good):
    x = torch.randn(1, 3, 4, 4)
    found = find(net, x, classifier="head", kinds=ALL)
    assert {group.name for group in found.groups} == good | {"first"}
    tried = proven(net, x, found)
    assert {group.name for group in tried.groups} == good
    assert "removing its units is not the same as ignoring them" in tried.reasons["first"]


def test_a_layer_of_samples_is_ignored_by_all_of_them():
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), BayesianLinear(16)).eval()
    x = torch.randn(1, 3, 4, 4)
    found = find(net, x, classifier="4", kinds=ALL)
    assert [group.name for group in proven(net, x, found).groups] == ["0"]


def test_a_trial_changes_nothing():
    net = vit()
    logits = net(image(vit))
    proven(net, image(vit), groups_of(vit, net))
    assert torch.equal(net(image(vit)), logits)
