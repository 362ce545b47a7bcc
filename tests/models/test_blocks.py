import math

import pytest
import torch
import torch.nn.functional as F

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.models.blocks import (
    CbamGate,
    ChannelGate,
    Gated,
    MlpHead,
    NearestResidual,
    SpatialGate,
    StyleRecalibration,
    nearest_indices,
)
from edgedet.models.pixels import PixelModel


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75])
def test_residual_is_what_two_nearest_resizes_leave(scale, side):
    x = torch.rand(1, 3, side, side)
    small = F.interpolate(x, scale_factor=scale, mode="nearest")
    expected = x - F.interpolate(small, size=(side, side), mode="nearest")
    assert torch.equal(NearestResidual(scale)(x), expected)


def test_residual_of_one_half_is_the_distance_to_the_top_left_of_each_block():
    x = torch.rand(2, 3, 6, 4)
    out = NearestResidual(0.5)(x)
    for row in range(6):
        for column in range(4):
            corner = x[:, :, row - row % 2, column - column % 2]
            assert torch.equal(out[:, :, row, column], x[:, :, row, column] - corner)


def test_three_quarters_repeats_every_fourth_position():
    assert nearest_indices(12, 0.75).tolist() == [0, 0, 1, 2, 4, 4, 5, 6, 8, 8, 9, 10]


@pytest.mark.parametrize(("scale", "side"), [(0.5, 225), (0.25, 226), (0.75, 222), (0.75, 250)])
def test_sizes_that_do_not_come_back_are_refused(scale, side):
    with pytest.raises(ValueError, match=f"multiples of .*got {side}: crop"):
        NearestResidual(scale)(torch.zeros(1, 3, side, side))


def test_residuals_of_integers_are_those_of_normalised_pixels():
    preprocess = models.DETECTORS["npr"].preprocess
    model = PixelModel(models.create(DetectorSpec(name="npr")), preprocess)
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (preprocess.mean, preprocess.std))
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(model.normalise(pixels), NearestResidual(0.5)(normalised), atol=1e-6, rtol=0)


def test_style_recalibration_is_a_gate_on_mean_and_unbiased_deviation():
    block = StyleRecalibration(5).eval()
    torch.nn.init.uniform_(block.bn.weight, 0.5, 1.5)
    torch.nn.init.normal_(block.bn.running_mean)
    x = torch.randn(2, 5, 4, 3)
    expected = torch.empty_like(x)
    for image in range(2):
        for channel in range(5):
            values = x[image, channel]
            z = block.weight[channel, 0] * values.mean() + block.weight[channel, 1] * torch.std(values, unbiased=True)
            norm = block.bn
            z = (z - norm.running_mean[channel]) / math.sqrt(norm.running_var[channel] + norm.eps) * norm.weight[channel]
            expected[image, channel] = values * torch.sigmoid(z + norm.bias[channel])
    torch.testing.assert_close(block(x), expected)


def test_channel_gate_is_two_linear_maps_of_the_channel_means():
    gate = ChannelGate(32, reduction=16)
    x = torch.randn(2, 32, 3, 5)
    for image in range(2):
        means = torch.stack([x[image, channel].mean() for channel in range(32)])
        hidden = torch.relu(gate.reduce.weight.view(2, 32) @ means + gate.reduce.bias)
        expected = torch.sigmoid(gate.expand.weight.view(32, 2) @ hidden + gate.expand.bias)
        torch.testing.assert_close(gate(x)[image].flatten(), expected)


@pytest.mark.parametrize("form", ["sum_of_sigmoids", "sigmoid_of_sum"])
def test_cbam_gate_is_one_bottleneck_on_means_and_maxima(form):
    gate = CbamGate(32, reduction=16, form=form)
    x = torch.randn(2, 32, 3, 5)
    reduce, expand = gate.reduce.weight.view(2, 32), gate.expand.weight.view(32, 2)
    for image in range(2):
        mean, largest = (
            expand @ torch.relu(reduce @ torch.stack([pool(x[image, channel]) for channel in range(32)]))
            for pool in (torch.mean, torch.max)
        )
        expected = torch.sigmoid(mean + largest) if form == "sigmoid_of_sum" else torch.sigmoid(mean) + torch.sigmoid(largest)
        torch.testing.assert_close(gate(x)[image].flatten(), expected)


def test_a_gate_multiplies_what_it_reads():
    block, x = Gated(CbamGate(16)), torch.randn(2, 16, 3, 4)
    gate = block.gate(x)
    for row in range(3):
        for column in range(4):
            torch.testing.assert_close(block(x)[:, :, row, column], x[:, :, row, column] * gate[:, :, 0, 0])


@pytest.mark.parametrize("mean_first", [False, True])
def test_spatial_gate_slides_over_the_maximum_and_the_mean_of_channels(mean_first):
    gate = SpatialGate(3, mean_first=mean_first)
    x = torch.randn(1, 4, 5, 5)
    largest, mean = x[0].max(dim=0).values, x[0].mean(dim=0)
    planes = torch.stack([mean, largest] if mean_first else [largest, mean])
    padded = F.pad(planes, (1, 1, 1, 1))
    out = gate(x)
    for row in range(5):
        for column in range(5):
            z = (padded[:, row : row + 3, column : column + 3] * gate.conv.weight[0]).sum() + gate.conv.bias[0]
            torch.testing.assert_close(out[0, 0, row, column], torch.sigmoid(z))


def test_mlp_head_is_two_normed_gelu_layers_and_two_classes():
    head = MlpHead(12, hidden=(7, 5)).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(3, 12)
    for image in range(3):
        z = x[image]
        for number in (0, 4):
            linear, norm = head.hidden[number], head.hidden[number + 1]
            z = (linear.weight @ z + linear.bias - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
            z = z * 0.5 * (1 + torch.erf(z / math.sqrt(2)))
        torch.testing.assert_close(head(x)[image], head.out.weight @ z + head.out.bias)


def test_the_norms_of_an_mlp_head_have_nothing_to_learn():
    with torch.device("meta"):
        head = MlpHead(768)
    assert sum(parameter.numel() for parameter in head.parameters()) == 525_570
    assert [module.p for module in head.modules() if isinstance(module, torch.nn.Dropout)] == [0.3, 0.3]
