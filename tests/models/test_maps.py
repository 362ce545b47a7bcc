"""Maps that come with the forward pass: what each adds up to, for every detector of the table that has one."""

from __future__ import annotations

import functools

import msgspec
import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models.maps import Maps, with_maps
from edgedet.models.pixels import PixelModel
from edgedet.models.ram import ResidualAttention
from edgedet.models.table import Detector
from edgedet.preprocess import Preprocess

OWN_SIZE = ("swin",)
"""Families that take no other size than their own."""

WITH_FEATURES = [name for name, line in models.DETECTORS.items() if line.features]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@functools.cache
def small(name: str) -> PixelModel:
    """The detector for small images, in evaluation mode, its normalisation layers not those of a fresh network."""
    torch.manual_seed(0)
    preprocess = models.lookup(name).preprocess
    side = preprocess.height if name.startswith(OWN_SIZE) else 64
    net = models.create(DetectorSpec(name=name))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    if preprocess.resize is not None:
        preprocess = msgspec.structs.replace(preprocess, geometry="resize_squash", resize=None)
    return PixelModel(net, msgspec.structs.replace(preprocess, height=side, width=side)).eval()


def photographs(model: PixelModel, batch: int = 2) -> torch.Tensor:
    size = (batch, model.preprocess.height, model.preprocess.width, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def given(model: PixelModel, name: str) -> dict[str, torch.Tensor]:
    maps = with_maps(model, name)
    with torch.inference_mode():
        logit, *further = maps(photographs(model))
    return {"logit": logit, **dict(zip(maps.names, further, strict=True))}


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_the_mean_of_the_map_and_the_bias_are_the_logit(name):
    """This is what `features` in the table promises: that map, averaged, is what the classifier reads."""
    model = small(name)
    found = given(model, name)
    with torch.inference_mode():
        assert torch.equal(model(photographs(model)), found["logit"]) or "patches" in found
        if "cam" not in found:
            torch.testing.assert_close(found["patches"].mean((1, 2)), found["logit"])
            return
        bias = models.classifier_of(model.deployed().net, name).bias
    towards_fake = bias[0] if len(bias) == 1 else (bias[1::2] - bias[::2]).mean()
    if "uncertainty" in found:  # the logit of a mean of probabilities is not the mean of the logits
        return
    torch.testing.assert_close(found["cam"].mean((1, 2)) + towards_fake, found["logit"], rtol=1e-4, atol=1e-4)


def test_a_class_map_is_the_weighted_sum_of_the_channels():
    name, model = "resnet50", small("resnet50")
    net, line = model.net, models.lookup("resnet50")
    with torch.inference_mode():
        x = model.normalise(photographs(model))
        channels = net.forward_features(x)
    weight = net.fc.weight
    expected = torch.zeros(2, 2, 2)
    for channel in range(2048):
        expected += (weight[1, channel] - weight[0, channel]).item() * channels[:, channel]
    assert line.features == "layer4"
    torch.testing.assert_close(given(model, name)["cam"], expected, rtol=1e-4, atol=1e-4)


def test_gates_are_the_mean_of_the_last_stage_that_has_any():
    name, model = "ram-net", small("ram-net")
    seen: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, given, _: seen.append(module.spatial(*given) * module.channel(*given)))
        for module in model.net.modules()
        if isinstance(module, ResidualAttention)
    ]
    with torch.inference_mode():
        model(photographs(model))
    for hook in hooks:
        hook.remove()
    assert [tuple(gate.shape[2:]) for gate in seen] == [(8, 8)] * 4 + [(4, 4)] * 6
    expected = sum(seen[4:]) / 6  # (B, C, h, w): what each feature is multiplied by
    torch.testing.assert_close(given(model, name)["attention"], expected.mean(1))
    assert given(model, name)["attention"].min() > 0


class OwnOutputs(nn.Module):
    """Logits of columns, and a number besides."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(x.mean((2, 3)))

    def outputs(self, x):
        return {"logit": self.forward(x), "attention": x.mean(1), "uncertainty": x.std((1, 2, 3))}


INPUT = Preprocess(height=4, width=6)


def test_what_the_network_gives_besides_is_given_on():
    model = PixelModel(OwnOutputs(), INPUT)
    line = Detector(OwnOutputs, "here", INPUT)
    maps = Maps(model, line)
    assert maps.names == ("attention", "uncertainty")
    logit, attention, uncertainty = maps(photographs(model))
    assert [tuple(each.shape) for each in (logit, attention, uncertainty)] == [(2,), (2, 4, 6), (2,)]


def test_the_model_itself_is_left_as_it_is():
    model = small("resnet50")
    before = [name for name, _ in model.named_modules()]
    given(model, "resnet50")
    assert [name for name, _ in model.named_modules()] == before


def test_a_detector_without_any_says_so():
    model = PixelModel(models.create(DetectorSpec(name="cifake-cnn")), models.lookup("cifake-cnn").preprocess)
    with pytest.raises(ModelError, match="cifake-cnn gives its logit and nothing else"):
        with_maps(model, "cifake-cnn")
