import numpy as np
import pytest
import torch
from torch import nn

from edgedet.errors import ImageError, ModelError
from edgedet.models.patchwise import AggregatorToLogit, EncoderOnPixels, Patchwise, patchwise
from edgedet.models.pixels import PixelModel
from edgedet.patches import cut
from edgedet.preprocess import Preprocess

PREPROCESS = Preprocess(geometry="native", patch=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Encoder(nn.Module):
    """A patch's mean red, and its first pixel's."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def forward(self, x):
        self.most = max(self.most, len(x))
        return torch.stack([x[:, 0].mean((1, 2)), x[:, 0, 0, 0]], dim=1)


class Aggregator(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(2, 1)

    def forward(self, x):
        return self.classifier(x.mean(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return PixelModel(Patchwise(Encoder(), Aggregator(), 8), PREPROCESS).eval()


def pixels(batch, height, width):
    return np.random.default_rng(height).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(16, 16), (24, 33), (8, 8), (9, 20), (15, 15)])
def test_the_network_cuts_as_the_device_does(model, size):
    given = pixels(2, *size)
    found = model.net.patches(torch.from_numpy(given).permute(0, 3, 1, 2))
    for image, patches in zip(given, found, strict=True):
        np.testing.assert_array_equal(patches.permute(0, 2, 3, 1).numpy(), cut(image, 8))


@pytest.mark.parametrize("size", [(16, 16), (24, 33), (9, 20)])
def test_the_two_parts_together_are_the_network(model, size):
    given = pixels(3, *size)
    encoder, aggregator = EncoderOnPixels(model.net, PREPROCESS), AggregatorToLogit(model)
    with torch.no_grad():
        whole = model(torch.from_numpy(given))
        each = [aggregator(encoder(torch.from_numpy(cut(image, 8)))[None]) for image in given]
    torch.testing.assert_close(whole, torch.cat(each))


def test_few_patches_are_encoded_at_once_unless_there_is_a_gradient(model):
    given = torch.from_numpy(pixels(3, 24, 24))  # 27 patches
    with torch.no_grad():
        without = model(given)
    assert model.net.encoder.most == 16
    torch.testing.assert_close(model(given), without)
    assert model.net.encoder.most == 27


def test_an_image_smaller_than_a_patch_is_refused(model):
    with pytest.raises(ImageError, match="an image of 8x7 is smaller than a patch"):
        model(torch.from_numpy(pixels(1, 7, 8)))


def test_a_network_of_whole_images_has_no_parts():
    with pytest.raises(ModelError, match="a Identity reads whole images, not patches"):
        patchwise(PixelModel(nn.Identity(), PREPROCESS))
