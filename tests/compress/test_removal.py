"""What stays of a group, and that the narrower network is the whole one that does without."""

import copy

import pytest
import torch
from tiny_networks import convolutional, groups_of, image, mobile, swin, vit
from torch import nn

from edgedet.compress.groups import Group
from edgedet.compress.removal import Limits, choose, narrower, remove, until
from edgedet.models import structure
from edgedet.models.macs import of_pass


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def every_third(groups) -> list[torch.Tensor]:
    return [torch.arange(group.count) % 3 != 0 for group in groups]


@pytest.mark.parametrize("build", [vit, swin, convolutional])
def test_a_network_without_a_head_is_the_whole_one_whose_projection_ignores_that_head(build):
    net = build()
    groups = [group for group in groups_of(build, net).groups if group.kind == "heads"]
    gone = 1
    for group in groups:
        layer = net.get_submodule(group.name)
        width = layer.qkv.out_features // (3 * layer.num_heads)
        layer.proj.weight.data[:, gone * width : (gone + 1) * width] = 0
    wanted = net(image(build, 2))
    heads = {group.name: net.get_submodule(group.name).num_heads for group in groups}
    remove(net, groups, [torch.arange(group.count) != gone for group in groups])
    assert {name: net.get_submodule(name).num_heads for name in heads} == {name: count - 1 for name, count in heads.items()}
    torch.testing.assert_close(net(image(build, 2)), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [vit, swin])
def test_a_network_with_a_smaller_embedding_is_the_whole_one_whose_norms_do_not_see_the_rest(build):
    net = build()
    groups = [group for group in groups_of(build, net).groups if group.kind == "embedding"]
    kept = every_third(groups)
    seen = {cut.name: mask[cut.units] for group, mask in zip(groups, kept, strict=True) for cut in group.cuts}
    whole = copy.deepcopy(net)
    for name, module in whole.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = blind(module, seen[name])
    remove(net, groups, kept)
    torch.testing.assert_close(net(image(build, 2)), whole(image(build, 2)), atol=1e-5, rtol=1e-4)


def blind(norm: nn.LayerNorm, seen: torch.Tensor):
    """Layer normalisation over some channels; the others become zero, so that nothing reads them."""

    def forward(x):
        some = x[..., seen]
        normal = (some - some.mean(-1, keepdim=True)) / (some.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        made = torch.zeros_like(x)
        made[..., seen] = normal * norm.weight[seen] + norm.bias[seen]
        return made

    return forward


def test_a_network_without_channels_is_the_whole_one_whose_layers_do_not_read_them():
    net = mobile()
    groups, whole = groups_of(mobile, net).groups, copy.deepcopy(net)
    kept = every_third(groups)
    for group, mask in zip(groups, kept, strict=True):
        for cut in group.cuts:
            if cut.reads:
                whole.get_submodule(cut.name).weight.data[:, ~mask[cut.units]] = 0
    remove(net, groups, kept)
    torch.testing.assert_close(net(image(mobile, 2)), whole(image(mobile, 2)), atol=1e-4, rtol=1e-3)
    depthwise = [module for module in net.modules() if structure.depthwise(module)]
    assert all(layer.weight.shape[1] == 1 and layer.groups == len(layer.weight) for layer in depthwise)


@pytest.mark.parametrize("build", [vit, swin, mobile, convolutional])
def test_it_comes_back_from_its_structure_to_the_bit(build):
    net = build()
    groups = groups_of(build, net).groups
    remove(net, groups, every_third(groups))
    found = structure.difference(net, build())
    assert all(isinstance(width, int) for widths in found.values() for width in widths)
    again = structure.apply(build(), found)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(image(build, 2)), net(image(build, 2)))


def test_a_narrower_copy_leaves_the_network_alone():
    net = vit()
    before, logits = structure.describe(net), net(image(vit))
    groups = groups_of(vit, net).groups
    made = narrower(net, groups, every_third(groups))
    assert structure.count_parameters(made) < structure.count_parameters(net)
    assert structure.describe(net) == before
    assert torch.equal(net(image(vit)), logits)
    assert {parameter.requires_grad for parameter in made.parameters()} == {True}


def plain(name: str, count: int, kind="channels") -> Group:
    return Group(name, kind, count, ())


def test_the_least_go_first_wherever_they_are():
    groups = [plain("a", 16), plain("b", 16)]
    scores = [torch.arange(16.0), torch.arange(16.0) + 8]
    kept = choose(groups, scores, 0.5, Limits(round_to=1, max_share=0.99))
    # Sixteen of 32 go: 0 to 11 of the first, of which 8 to 11 tie with 0 to 3 of the second.
    assert kept[0].tolist() == [False] * 12 + [True] * 4
    assert kept[1].tolist() == [False] * 4 + [True] * 12


@pytest.mark.parametrize(("share", "stays"), [(0.0, 20), (0.05, 20), (0.3, 16), (0.5, 8), (1.0, 8)])
def test_widths_become_the_nearest_multiple_and_one_that_is_none_stays_whole(share, stays):
    kept = choose([plain("a", 20)], [torch.arange(20.0)], share, Limits(round_to=8, max_share=0.75))
    assert int(kept[0].sum()) == stays


@pytest.mark.parametrize(
    ("count", "max_share", "least"), [(64, 0.75, 16), (64, 0.5, 32), (20, 0.75, 8), (6, 0.75, 6), (40, 0.7, 16)]
)
def test_no_group_loses_more_than_its_share_nor_its_last_multiple(count, max_share, least):
    assert Limits(8, max_share).least(plain("a", count)) == least


def test_heads_go_one_by_one_and_one_stays():
    limits = Limits(8, 0.9)
    assert [limits.least(plain("a", count, "heads")) for count in (1, 3, 12)] == [1, 1, 2]


def test_kinds_are_ranked_apart():
    groups = [plain("a", 16), plain("h", 4, "heads")]
    kept = choose(groups, [torch.arange(16.0) + 100, torch.tensor([3.0, 1.0, 2.0, 0.0])], 0.5, Limits(8))
    assert [int(mask.sum()) for mask in kept] == [8, 2]
    assert kept[1].tolist() == [True, False, True, False]


def test_the_least_share_that_is_enough_is_found_in_a_few_trials():
    net = vit()
    groups = groups_of(vit, net).groups
    scores = [torch.rand(group.count, generator=torch.Generator().manual_seed(0)) for group in groups]
    x, whole, tried = image(vit), of_pass(net, image(vit)), []

    def enough(candidate: nn.Module) -> bool:
        tried.append(of_pass(candidate, x))
        return tried[-1] <= 0.7 * whole

    kept = until(net, groups, scores, Limits(), enough)
    assert len(tried) <= 8
    every = [of_pass(narrower(net, groups, choose(groups, scores, share / 100, Limits())), x) for share in range(1, 101)]
    assert of_pass(narrower(net, groups, kept), x) == max(cost for cost in every if cost <= 0.7 * whole)


def test_a_target_out_of_reach_gives_nothing():
    net = vit()
    groups = groups_of(vit, net).groups
    assert until(net, groups, [torch.ones(group.count) for group in groups], Limits(), lambda _: False) is None
