"""Multiply-accumulates against products written out by hand."""

import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.models.macs import macs, of_pass
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess


def test_a_convolution_costs_its_kernel_at_every_position_of_every_channel():
    assert of_pass(nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.zeros(1, 3, 8, 8)) == 4 * 4 * 16 * 3 * 9
    assert of_pass(nn.Conv2d(8, 8, 3, groups=8), torch.zeros(1, 8, 5, 5)) == 3 * 3 * 8 * 9
    assert of_pass(nn.Conv2d(8, 12, 3, groups=4), torch.zeros(1, 8, 5, 5)) == 3 * 3 * 12 * 2 * 9
    assert of_pass(nn.Linear(10, 4), torch.zeros(1, 7, 10)) == 7 * 10 * 4


def test_what_is_element_wise_costs_nothing():
    net = nn.Sequential(nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2), nn.Softmax(1), nn.Flatten(), nn.LayerNorm(16))
    assert of_pass(net, torch.zeros(1, 4, 4, 4)) == 0


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_four_projections_and_two_products_of_tokens(fused):
    block, tokens, width = Block(dim=32, num_heads=4, mlp_ratio=2), 10, 32
    block.attn.fused_attn = fused
    projections, products, mlp = 4 * tokens * width**2, 2 * tokens**2 * width, 2 * tokens * width * 2 * width
    assert of_pass(block, torch.zeros(1, tokens, width)) == projections + products + mlp


@pytest.mark.parametrize(
    ("name", "mmacs"),
    # The products of tokens are 2 x 197^2 x 384 in each of ViT-S's 12 blocks, 358 of its MMACs.
    [("vit_small_patch16_224", 4_598.5), ("swin_tiny_patch4_window7_224", 4_489.8), ("resnet18", 1_813.6)],
)
def test_published_networks_cost_what_is_published_without_being_run(name, mmacs):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=1)
    assert macs(PixelModel(net, Preprocess()).to("meta")) / 1e6 == pytest.approx(mmacs, abs=0.1)


def test_shapes_alone_give_the_count_of_a_real_pass():
    spec = DetectorSpec(name="efficientnet-lite0")
    real = PixelModel(models.create(spec), models.lookup(spec.name).preprocess)
    assert macs(models.weightless(spec)) == macs(real)


def test_counting_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = net[1].running_mean.clone()
    of_pass(net, torch.randn(1, 3, 8, 8))
    assert net.training
    assert torch.equal(net[1].running_mean, before)


def test_a_model_is_counted_at_its_own_input():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1))
    assert macs(PixelModel(net, Preprocess(height=6, width=4))) == 6 * 4 * 3 * 8 + 8
