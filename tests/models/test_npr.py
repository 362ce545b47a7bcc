import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models.npr import SCALES, MultiScaleResidual, Npr
from edgedet.models.pixels import PixelModel

NAMES = ["npr", "npr-multiscale", "npr-channel", "npr-spatial", "npr-final"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def fresh(name: str) -> PixelModel:
    """With weights that no part can hide behind: other shares, another factor, and every block with a part in the output."""
    model = PixelModel(models.create(DetectorSpec(name=name)), models.lookup(name).preprocess).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, MultiScaleResidual):
            module.weights.data = torch.tensor([0.3, -1.0, 1.2])
    if isinstance(model.net, Npr) and isinstance(model.net.gain, nn.Parameter):
        model.net.gain.data.fill_(0.9)
    return model


def resized(x: torch.Tensor, scale: float) -> torch.Tensor:
    """The residual by two Resize operators."""
    small = F.interpolate(x, scale_factor=scale, mode="nearest")
    return x - F.interpolate(small, size=x.shape[2:], mode="nearest")


@pytest.mark.parametrize("side", [224, 256])
def test_several_scales_are_a_weighted_sum_of_resize_residuals(side):
    block = MultiScaleResidual()
    block.weights.data = torch.tensor([0.3, -1.0, 1.2])
    x = torch.randint(0, 256, (1, 3, side, side)).float()
    shares = torch.exp(block.weights) / torch.exp(block.weights).sum()
    expected = sum(share * resized(x, scale) for share, scale in zip(shares, SCALES, strict=True))
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(block.frozen()(x), expected, atol=1e-4, rtol=1e-6)
    assert sum(p.numel() for p in block.frozen().parameters()) == 0


def test_the_residual_of_an_even_surface_is_exactly_zero():
    block = MultiScaleResidual()
    block.weights.data = torch.tensor([0.3, -1.0, 1.2])
    surface = torch.full((1, 3, 16, 16), 201.0)
    assert torch.equal(block(surface), torch.zeros_like(surface))
    assert torch.equal(block.frozen()(surface), torch.zeros_like(surface))


@pytest.mark.parametrize("side", [222, 226, 250, 255])
def test_sides_that_are_no_multiple_of_four_are_refused(side):
    with pytest.raises(ValueError, match=f"multiples of 4, got {side}: crop the image"):
        MultiScaleResidual()(torch.zeros(1, 3, side, side))
    for name in set(NAMES) - {"npr"}:
        assert models.lookup(name).preprocess.multiple == 4


@pytest.mark.parametrize("name", ["npr-multiscale", "npr-student"])
def test_residuals_of_pixels_are_those_of_normalised_pixels(name):
    model = fresh(name)
    pixels = torch.randint(60, 160, (1, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (model.preprocess.mean, model.preprocess.std))
    normalised = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    front_end = model.net.front_end if name == "npr-multiscale" else model.net.front_end[0]
    torch.testing.assert_close(model.normalise(pixels), front_end(normalised), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_forward_pass(name):
    """Gates behind the stem and the stages, residuals and their factor before the stem, written down once more."""
    model = fresh(name)
    net, pixels = model.net, torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    std = torch.tensor(model.preprocess.std).view(3, 1, 1)
    x = pixels.permute(0, 3, 1, 2) / 255 / std
    if name in ("npr-multiscale", "npr-final"):
        shares = torch.softmax(net.front_end.weights, 0)
        x = 0.9 * sum(share * resized(x, scale) for share, scale in zip(shares, SCALES, strict=True))
    else:
        x = 2 / 3 * resized(x, 0.5)

    def channel(x, gate):
        return x * sum(torch.sigmoid(gate.expand(F.relu(gate.reduce(p)))) for p in (F.adaptive_avg_pool2d(x, 1), pool(x)))

    def pool(x):
        return F.adaptive_max_pool2d(x, 1)

    def spatial(x, gate):
        planes = torch.stack([x.mean(1), x.max(1).values], dim=1)
        return x * torch.sigmoid(F.conv2d(planes, gate.conv.weight, padding=3))

    with torch.inference_mode():
        x = F.relu(net.bn1(F.conv2d(x, net.conv1.weight, stride=2, padding=1)))
        x = channel(x, net.attend_stem[0].gate) if name in ("npr-channel", "npr-final") else x
        x = net.layer1(F.max_pool2d(x, 3, 2, 1))
        x = channel(x, net.attend1[0].gate) if name in ("npr-channel", "npr-final") else x
        x = spatial(x, net.attend1[0].gate) if name == "npr-spatial" else x
        x = net.layer2(x)
        x = spatial(x, net.attend2[0].gate) if name == "npr-spatial" else x
        expected = net.head(x.mean((2, 3)))[:, 0]
        torch.testing.assert_close(model(pixels), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.deployed()(pixels), model(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["npr-multiscale", "npr-final"])
def test_the_exported_form_has_numbers_where_training_has_parameters(name):
    deployed = fresh(name).deployed().net
    trained = {key for key, _ in fresh(name).net.named_parameters()} - {key for key, _ in deployed.named_parameters()}
    assert trained == {"front_end.weights", "gain"}
    assert isinstance(fresh(name).net.gain, nn.Parameter)
    torch.testing.assert_close(deployed.conv1.weight, 0.9 * fresh(name).net.conv1.weight)


def test_the_weights_of_the_scales_and_their_factor_are_trained():
    model = PixelModel(models.create(DetectorSpec(name="npr-multiscale")), models.lookup("npr-multiscale").preprocess).train()
    assert torch.equal(model.net.front_end.weights, torch.ones(3))
    assert model.net.gain.item() == pytest.approx(2 / 3)
    (model(torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)) * torch.tensor([1.0, -2.0])).sum().backward()
    assert model.net.front_end.weights.grad.abs().max() > 0
    assert model.net.gain.grad is not None


def test_a_student_is_few_plain_convolutions_of_widths_that_kernels_like():
    net = models.create(DetectorSpec(name="npr-student"))
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [16, 32, 32, 64, 64]
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 1, 2, 1]
    wider = models.create(DetectorSpec(name="npr-student", arguments={"width": 24, "depth": 1}))
    assert [m.out_channels for m in wider.modules() if isinstance(m, nn.Conv2d)] == [24, 48, 96]


def test_a_students_residuals_are_exact_in_int8():
    model = fresh("npr-student")
    pixels = torch.tensor([[0, 255], [40, 41]], dtype=torch.uint8).view(1, 2, 2, 1).expand(1, 2, 2, 3)
    x = model.normalise(pixels)
    assert (x[0, 0] * 128).tolist() == [[0, 127], [40, 41]]
    scale = x.abs().max() / 127
    assert torch.equal(torch.fake_quantize_per_tensor_affine(x, scale.item(), 0, -127, 127), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 12}, "multiple of 8 .*got 12"), ({"depth": 0}, "positive, got 0 and 127"), ({"limit": 0}, "got 2 and 0")],
)
def test_students_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name="npr-student", arguments=arguments))
