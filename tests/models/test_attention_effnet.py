import copy

import pytest
import torch
from tiny_networks import lively

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress.groups import find
from edgedet.compress.removal import remove
from edgedet.errors import ModelError
from edgedet.models.attention_effnet import AttentionEfficientNet, AttentionPool
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def literal(pool: AttentionPool, features: torch.Tensor, gate: float, *, residual: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Every position's values mixed as its row of A says, and only then the mean; of one image, in float64."""
    tokens = features[0].flatten(1).T
    normed = pool.norm(tokens)
    q, k, v = pool.query(normed), pool.key(normed), pool.value(normed)
    rows = torch.stack([torch.softmax(torch.stack([q_i @ k_j for k_j in k]) / q.shape[1] ** 0.5, dim=0) for q_i in q])
    mixed = torch.stack([sum(rows[i, j] * v[j] for j in range(len(v))) for i in range(len(q))])
    summed = tokens + gate * mixed if residual else mixed
    return summed.mean(0), rows.mean(0).reshape(features.shape[2:])


@pytest.mark.parametrize(
    ("residual", "gated", "gate"),
    [(True, True, 0.7), (True, False, 1.0), (False, False, 1.0)],
    ids=["gated", "full", "no_residual"],
)
def test_mixing_once_is_mixing_at_every_position_and_averaging(residual, gated, gate):
    pool = AttentionPool(24, 8, residual=residual, gated=gated).double()
    torch.nn.init.normal_(pool.norm.bias)
    if gated:
        torch.nn.init.constant_(pool.gate, gate)
    features = torch.randn(1, 24, 3, 4, dtype=torch.float64)
    pooled, attention = pool.attend(features)
    expected, expected_attention = literal(pool, features, gate, residual=residual)
    torch.testing.assert_close(pooled[0], expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(attention[0], expected_attention, atol=1e-12, rtol=0)


def test_attention_counts_for_nothing_before_its_gate_is_trained():
    pool = AttentionPool(24, 8, residual=True, gated=True)
    features = torch.randn(2, 24, 3, 3)
    torch.testing.assert_close(pool(features), features.mean((2, 3)))
    pool(features).sum().backward()
    assert pool.gate.grad.abs().item() > 0


class Blind(torch.nn.Module):
    """Layer normalisation over the channels that are `seen`; the others become zero."""

    def __init__(self, norm: torch.nn.LayerNorm, seen: torch.Tensor):
        super().__init__()
        self.norm, self.seen = norm, seen

    def forward(self, x):
        made = torch.zeros_like(x)
        some = torch.nn.functional.layer_norm(x[..., self.seen], [int(self.seen.sum())], eps=self.norm.eps)
        made[..., self.seen] = some * self.norm.weight[self.seen] + self.norm.bias[self.seen]
        return made


def test_a_network_without_some_channels_is_the_whole_one_that_does_not_read_them():
    whole = AttentionEfficientNet(torch.nn.Conv2d(3, 1280, 2, 2), AttentionPool(1280, 160, residual=True, gated=True))
    lively(whole)
    net, x = copy.deepcopy(whole), torch.randn(2, 3, 8, 8)
    (group,) = find(net, x[:1], classifier="head", kinds=("channels",)).groups
    kept = torch.arange(1280) % 3 != 0
    remove(net, [group], [kept])
    whole.attention.norm = Blind(whole.attention.norm, kept)
    whole.hidden.weight.data[:, ~kept] = 0
    torch.testing.assert_close(net(x), whole(x), atol=1e-5, rtol=1e-4)
    assert net.attention.value.weight.shape == (853, 853)


def test_the_map_is_a_share_of_attention_for_each_position():
    net = models.create(DetectorSpec(name="effnetv2-b0-attention")).eval()
    model = PixelModel(net, models.lookup("effnetv2-b0-attention").preprocess)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        found = model.outputs(pixels)
        torch.testing.assert_close(found["logit"], model(pixels))
    assert list(found) == ["logit", "attention"]
    assert found["attention"].shape == (2, 7, 7)
    torch.testing.assert_close(found["attention"].sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize(("variant", "parameters"), [("gated", 7_992_914), ("full", 10_862_353), ("no_residual", 7_992_913)])
def test_variants_have_the_parameters_of_their_description(variant, parameters):
    with torch.device("meta"):
        net = models.create(DetectorSpec(name="effnetv2-b0-attention", arguments={"variant": variant}))
    assert isinstance(net, AttentionEfficientNet)
    assert count_parameters(net) == parameters
    assert count_parameters(net.backbone) == 5_858_704


def test_another_variant_is_refused():
    with pytest.raises(ModelError, match=r'`variant` is "gated", "full" or "no_residual", got \'gate\''):
        models.create(DetectorSpec(name="effnetv2-b0-attention", arguments={"variant": "gate"}))


def test_the_last_ten_keras_layers_of_the_backbone_have_these_names():
    """The second stage of training unfreezes them: of block 6h the excitation and the projection, then the top convolution."""
    with torch.device("meta"):
        net = models.create(DetectorSpec(name="effnetv2-b0-attention"))
    names = [name for name, module in net.backbone.named_modules() if isinstance(module, torch.nn.Conv2d)]
    last = ["blocks.5.7.se.conv_reduce", "blocks.5.7.se.conv_expand", "blocks.5.7.conv_pwl", "conv_head"]
    assert names[-4:] == last
