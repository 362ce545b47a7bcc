"""Grad-CAM at any layer; at the last map it is the class activation map."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import timm
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ExplainError
from edgedet.explain.gradcam import default_layer, gradcam
from edgedet.models.maps import with_maps
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess

PARAMETERS = {"edge32": {"width": 16}}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def built(name: str, side: int = 64) -> PixelModel:
    torch.manual_seed(0)
    net = models.create(DetectorSpec(name=name, arguments=PARAMETERS.get(name, {})))
    return PixelModel(net, Preprocess(height=side, width=side)).eval()


def photographs(side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["edge32", "npr", "efficientnet-lite0", "resnet50"])
def test_at_the_last_map_it_is_the_class_activation_map_over_the_number_of_places(name):
    model, line = built(name), models.lookup(name)
    with torch.inference_mode():
        logits, cam = with_maps(model, name)(photographs())
    again, found = gradcam(model, photographs(), line.features)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    places = cam.shape[1] * cam.shape[2]
    assert places > 1
    torch.testing.assert_close(found * places, cam, rtol=1e-3, atol=1e-4 * cam.abs().max().item())


class Cubes(nn.Module):
    """A logit that is the sum of cubes of the features above 0, each weighted: its slopes are known by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1)
        self.inplace = nn.ReLU(inplace=True)
        self.unused = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        self.unused(x)
        above = self.inplace(self.features(x))
        return (above**3 * torch.tensor([1.0, -2.0])[:, None, None]).sum((1, 2, 3))[:, None]


def test_slopes_are_averaged_over_places_and_weigh_the_channels():
    torch.manual_seed(0)
    model = PixelModel(Cubes(), Preprocess(height=4, width=6)).eval()
    pixels = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    _, found = gradcam(model, pixels, "features")
    with torch.no_grad():
        features = model.net.features(model.normalise(pixels))
    slopes = 3 * features.relu() ** 2 * torch.tensor([1.0, -2.0])[:, None, None]
    expected = sum(slopes[:, c].mean((1, 2), keepdim=True) * features[:, c] for c in range(2))
    torch.testing.assert_close(found, expected)


def vit() -> PixelModel:
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=1, depth=2, img_size=(32, 48))
    return PixelModel(net, Preprocess(height=32, width=48)).eval()


def test_the_tokens_of_a_vit_are_a_map_of_its_patches():
    pixels = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    layer = default_layer(vit(), None)
    assert layer == "blocks.1.norm1"
    _, found = gradcam(vit(), pixels, layer)
    assert found.shape == (2, 2, 3)
    assert found.abs().max() > 0


def test_a_map_with_channels_last_is_turned():
    torch.manual_seed(0)
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=1, depths=(1, 1, 1, 1), embed_dim=24)
    model = PixelModel(net, Preprocess()).eval()
    _, found = gradcam(model, torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8), "layers.1")
    assert found.shape == (1, 28, 28)


def test_what_is_looked_at_when_nothing_is_said():
    assert default_layer(built("edge32"), "features") == "features"
    cifake = PixelModel(models.create(DetectorSpec(name="cifake-cnn")), Preprocess(height=32, width=32))
    assert default_layer(cifake.eval(), None) == "conv2"
    assert default_layer(PixelModel(Flat(), Preprocess(height=4, width=4)).eval(), None) is None


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 1)
        self.twice = nn.Identity()

    def forward(self, x):
        return self.head(self.twice(self.twice(x.flatten(1))))


@pytest.mark.parametrize(
    ("net", "layer", "words"),
    [
        (Cubes, "feature", "no layer is called 'feature'; did you mean 'features'"),
        (Cubes, "unused", "the logit does not depend on layer 'unused'"),
        (Flat, "head", r"layer 'head' gives \(1, 1\), expected a map"),
        (Flat, "twice", "layer 'twice' is called 2 times"),
    ],
)
def test_a_layer_that_has_no_map_is_refused(net, layer, words):
    model = PixelModel(net(), Preprocess(height=4, width=4)).eval()
    with pytest.raises(ExplainError, match=words):
        gradcam(model, torch.zeros(1, 4, 4, 3, dtype=torch.uint8), layer)
