"""Scores against torch-pruning's, and against the change of the loss worked out unit by unit."""

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from tiny_networks import groups_of, image, lively, mobile, vit
from torch import nn

from edgedet.compress.groups import find
from edgedet.compress.importance import magnitude, scores, taylor
from edgedet.models.edgenet import edgenet


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def residual() -> nn.Module:
    torch.manual_seed(0)
    return lively(edgenet(stem=16, widths=(16, 24), depths=(2, 1), strides=(1, 2), block="residual"))


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("magnitude", tp.importance.GroupMagnitudeImportance(p=2)), ("bn-scale", tp.importance.BNScaleImportance())],
)
def test_magnitudes_and_scales_rank_as_torch_prunings_do(kind, reference):
    net, x = residual(), torch.zeros(1, 3, 16, 16)
    groups = find(net, x, classifier="head", kinds=("channels",)).groups
    found = dict(zip((group.name for group in groups), scores(kind, net, groups, None), strict=True))
    graph = tp.DependencyGraph().build_dependency(net, x)
    names = {module: name for name, module in net.named_modules()}
    theirs = {names[group[0].dep.target.module]: reference(group) for group in graph.get_all_groups(ignored_layers=[net.head])}
    assert found.keys() == theirs.keys()
    for name, score in found.items():
        torch.testing.assert_close(score, theirs[name])


def test_a_heads_magnitude_is_that_of_its_rows_and_columns():
    net = vit()
    group = next(group for group in groups_of(vit, net).groups if group.name == "blocks.1.attn")
    attention, width = net.blocks[1].attn, 16
    for head, found in enumerate(magnitude(net, group)):
        rows = [slice(part * 48 + head * width, part * 48 + (head + 1) * width) for part in range(3)]
        wanted = sum((attention.qkv.weight[each] ** 2).sum() for each in rows)
        wanted += (attention.proj.weight[:, head * width : (head + 1) * width] ** 2).sum()
        assert found == pytest.approx(wanted.item(), rel=1e-5)


def test_the_scale_says_nothing_of_a_group_without_batch_norm():
    net = vit()
    found = scores("bn-scale", net, groups_of(vit, net).groups, None)
    assert found == [None] * len(found)


def test_every_score_is_one_number_a_unit():
    net = mobile()
    groups = groups_of(mobile, net).groups
    for kind in ("magnitude", "bn-scale", "random"):
        for group, score in zip(groups, scores(kind, net, groups, None), strict=True):
            assert score is None or (score.shape == (group.count,) and torch.isfinite(score).all())


LABELS = torch.tensor([0.0, 1.0])


def batches(build):
    """Two batches, and the loss on each."""
    images = [image(build, 2), image(build, 2).flip(0) * 0.5]

    def losses(net):
        for x in images:
            yield F.binary_cross_entropy_with_logits(net(x).flatten(), LABELS)

    return losses


@pytest.mark.parametrize("build", [vit, mobile])
def test_taylor_is_the_gradient_by_a_gate_on_every_reader_of_a_unit(build):
    """The slow reference: each unit multiplied by a gate of 1 wherever it is read, and the loss differentiated by the gate."""
    net = build()
    groups = groups_of(build, net).groups
    wanted = {group.name: torch.zeros(group.count) for group in groups}
    for batch in range(2):
        for group in groups:
            gate = torch.ones(group.count, requires_grad=True)
            hooks = [
                net.get_submodule(cut.name).register_forward_pre_hook(gated(net.get_submodule(cut.name), gate, cut.units))
                for cut in group.cuts
                if cut.reads
            ]
            loss = list(batches(build)(net))[batch]
            wanted[group.name] += torch.autograd.grad(loss, gate)[0] ** 2 / 2
            for hook in hooks:
                hook.remove()
    for group, found in zip(groups, taylor(net, groups, batches(build)), strict=True):
        torch.testing.assert_close(found, wanted[group.name], rtol=1e-3, atol=1e-9)


def gated(layer: nn.Module, gate: torch.Tensor, units: torch.Tensor):
    def hook(_, given):
        factor = gate[units]
        return (given[0] * (factor[:, None, None] if isinstance(layer, nn.Conv2d) else factor),)

    return hook


def test_a_unit_that_nothing_reads_is_missed_by_nobody():
    net = vit()
    net.blocks[0].mlp.fc2.weight.data[:, 3] = 0
    net.blocks[1].attn.proj.weight.data[:, 16:32] = 0
    groups = groups_of(vit, net).groups
    found = dict(zip((group.name for group in groups), scores("taylor", net, groups, batches(vit)), strict=True))
    assert found["blocks.0.mlp.fc1"].argmin() == 3
    assert found["blocks.0.mlp.fc1"][3] == found["blocks.1.attn"][1] == 0
    assert (found["blocks.1.attn"][[0, 2]] > 0).all()


def test_frozen_weights_are_scored_and_stay_frozen():
    net = vit().requires_grad_(False)
    groups = groups_of(vit, net).groups
    assert all(score.sum() > 0 for score in scores("taylor", net, groups, batches(vit)))
    assert not any(parameter.requires_grad for parameter in net.parameters())
