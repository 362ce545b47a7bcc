import functools

import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.models.bayes import BayesianResNet
from edgedet.models.blocks import Gated, SpatialGate
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters
from edgedet.models.variational import BayesianLinear
from edgedet.preprocess import Preprocess

NAMES = ["resnet50-bnn", "resnet50-sa-bnn"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def fresh(name: str) -> BayesianResNet:
    return models.create(DetectorSpec(name=name)).eval()


def small(**arguments) -> PixelModel:
    """The same on two convolutions."""
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    net = BayesianResNet(trunk, Gated(SpatialGate(3, mean_first=True)), BayesianLinear(16, **arguments))
    return PixelModel(net, Preprocess(height=16, width=16))


def test_with_its_samples_frozen_it_has_the_parameters_that_are_deployed():
    assert count_parameters(fresh("resnet50-sa-bnn").deploy()) == 23_713_031
    assert count_parameters(fresh("resnet50-bnn").deploy()) == 23_713_031 - 99
    assert sum(p.numel() for p in fresh("resnet50-bnn").head.parameters()) == 8_196


@pytest.mark.parametrize("name", NAMES)
def test_what_is_exported_gives_the_same_logits_and_uncertainties(name):
    net = fresh(name)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = net.outputs(x), net.deploy().outputs(x)
        torch.testing.assert_close(net(x), ours["logit"])
    for key in ("logit", "uncertainty"):
        torch.testing.assert_close(theirs[key], ours[key], atol=1e-5, rtol=1e-5)
    assert (ours["logit"].shape, ours["uncertainty"].shape) == ((2, 1), (2,))


def test_the_gate_multiplies_the_last_map_before_it_is_averaged():
    net = fresh("resnet50-sa-bnn")
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features = net.trunk(x)
        planes = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        gate = torch.sigmoid(net.attend.gate.conv(planes))
        expected = net.head((features * gate).mean((2, 3)))
        torch.testing.assert_close(net(x), expected)
    assert features.shape == (1, 2048, 2, 2)
    assert net.attend.gate.conv.bias is not None


def test_evaluation_is_deterministic_and_training_is_not():
    model = small()
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    assert torch.equal(model.eval()(pixels), model(pixels))
    assert not torch.equal(model.train()(pixels), model(pixels))
    found = model.eval().outputs(pixels)
    assert list(found) == ["logit", "uncertainty"]
    assert [tuple(value.shape) for value in found.values()] == [(3,), (3,)]


def test_the_loss_of_training_pays_for_the_divergence():
    model = small()
    assert torch.equal(model.penalty(128), model.net.head.divergence() / 128)


def test_the_mean_weights_are_exported_as_an_ordinary_layer():
    model = small(predict="mean").eval()
    deployed = model.deployed()
    assert type(deployed.net.head) is nn.Linear
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    torch.testing.assert_close(deployed(pixels), model(pixels))
    assert list(deployed.outputs(pixels)) == list(model.outputs(pixels)) == ["logit"]
