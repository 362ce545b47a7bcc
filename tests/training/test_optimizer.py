import pytest
import timm
import torch
from torch import nn

from edgedet.errors import TrainingError
from edgedet.training.config import TrainingConfig
from edgedet.training.optimizer import layer_scales, make_optimizer, parameter_groups, set_rate


class Wrapped(nn.Module):
    """A timm network and a part of our own, as detectors and objectives hold it."""

    def __init__(self, name="vit_tiny_patch16_224", **arguments) -> None:
        super().__init__()
        with torch.device("meta"):
            self.backbone = timm.create_model(name, num_classes=0, **arguments)
        self.head = nn.Linear(192, 1)


def test_optimisers_are_the_ones_asked_for():
    net = nn.Linear(2, 1)
    made = {kind: make_optimizer(net, TrainingConfig(optimizer=kind)) for kind in ("adamw", "adam", "sgd")}
    assert {kind: type(optimizer).__name__ for kind, optimizer in made.items()} == {
        "adamw": "AdamW", "adam": "Adam", "sgd": "SGD",
    }  # fmt: skip


def test_everything_is_in_one_group_unless_asked_otherwise():
    (group,) = parameter_groups(Wrapped(), TrainingConfig(weight_decay=0.1))
    assert len(group["params"]) == len(list(Wrapped().parameters()))
    assert (group["weight_decay"], group["lr_scale"]) == (0.1, 1.0)


def test_a_layers_rate_is_a_share_of_the_next_ones():
    """Twelve blocks: tokens and patches count as depth 0, block n as n + 1, the last norm as its block, the head as 1."""
    scales = layer_scales(Wrapped(), 0.8)
    expected = {"backbone.cls_token": 12, "backbone.patch_embed.proj.weight": 12, "backbone.norm.weight": 0}
    expected |= {f"backbone.blocks.{n}.mlp.fc1.weight": 11 - n for n in range(12)}
    assert {name: scales[name] for name in expected} == pytest.approx({name: 0.8**depth for name, depth in expected.items()})
    assert "head.weight" not in scales


def test_a_networks_own_head_counts_as_the_layer_above_its_blocks():
    with torch.device("meta"):
        net = timm.create_model("vit_tiny_patch16_224", num_classes=1)
    scales = layer_scales(net, 0.5)
    assert (scales["head.weight"], scales["blocks.11.norm1.weight"], scales["pos_embed"]) == (1, 0.5, 0.5**13)


def test_shares_reach_the_optimiser_and_follow_the_rate():
    net = Wrapped()
    optimizer = make_optimizer(net, TrainingConfig(layer_decay=0.5, lr=1.0))
    set_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(net.head.weight)] == 0.1
    assert rates[id(net.backbone.cls_token)] == pytest.approx(0.1 * 0.5**12)
    assert len(rates) == len(list(net.parameters()))


def test_norms_and_biases_and_what_timm_lists_are_exempt_from_decay_when_asked():
    net = Wrapped()
    groups = parameter_groups(net, TrainingConfig(weight_decay=0.1, decay_norms=False))
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = {name: decays[id(parameter)] for name, parameter in net.named_parameters()}
    assert names["backbone.blocks.0.attn.qkv.weight"] == names["head.weight"] == 0.1
    exempt = ("head.bias", "backbone.norm.weight", "backbone.blocks.3.norm1.bias", "backbone.pos_embed", "backbone.cls_token")
    assert [names[name] for name in exempt] == [0.0] * 5


def test_what_is_frozen_is_in_no_group():
    net = Wrapped()
    net.backbone.requires_grad_(False)
    (group,) = parameter_groups(net, TrainingConfig())
    assert [id(p) for p in group["params"]] == [id(net.head.weight), id(net.head.bias)]


def test_layer_decay_of_a_network_of_unknown_depth_is_refused():
    with pytest.raises(TrainingError, match=r"training.layer_decay = 0.8 needs a network that knows its depth"):
        make_optimizer(nn.Linear(2, 1), TrainingConfig(layer_decay=0.8))
