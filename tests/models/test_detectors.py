import functools

import pytest
import timm
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models.pixels import PixelModel
from edgedet.models.resnet import with_weights
from edgedet.models.structure import count_parameters

PUBLISHED = {
    "cifake-cnn": 61_241,
    "cifake-cnn-srm": 61_265,
    "resnet50": 23_512_130,
    "ram-net": 24_439_328,
    "resnet50-bnn": 23_508_032 + 8_196,
    "resnet50-sa-bnn": 23_508_032 + 99 + 8_196,
    "ram-net-sequential": 24_439_328,
    "ram-net-channel": 24_438_338,
    "ram-net-spatial": 23_513_120,
    "ram-net-noresidual": 24_439_328,
    "xception": 20_811_050,
    "gram-net": 11_734_722,
    "cvit-compact": 3_948_035,
    "cvit-conv": 88_987_810,
    "npr": 1_437_761,
    "npr-multiscale": 1_437_765,
    "npr-channel": 1_446_465,
    "npr-spatial": 1_437_957,
    "npr-final": 1_446_469,
    "efficientnet-lite0": 3_372_289,
    "mobilenetv4-small": 2_494_305,
    "spai": 132_628_761,
    "spai-tiny": 8_797_273,
    "vit-b16-mlp": 86_324_226,
    "vit-b16-cnn": 86_393_732,
    "swin-tiny-mlp": 28_044_924,
    "cvt13-mlp": 19_940_674,
    "effnetv2-b0-attention": 7_992_914,
    "resnet101": 42_502_209,
    "vit-small": 21_666_049,
    "vit-small-384": 21_811_969,
    "swin-tiny": 27_520_123,
}
SMALLER = {"swin-tiny": {"depths": [1, 1, 1, 1], "width": 48}}
FIXED_SIZE = {"swin-tiny": 224}


@functools.cache
def outline(name: str) -> torch.nn.Module:
    """A detector without weights, whose shapes can be looked at."""
    with torch.device("meta"):
        return models.create(DetectorSpec(name=name))


@functools.cache
def fresh(name: str) -> torch.nn.Module:
    """A detector that runs: making a large one takes a second."""
    return models.create(DetectorSpec(name=name, arguments=SMALLER.get(name, {})))


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_of_the_papers(name):
    assert count_parameters(outline(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["cifake-cnn", "cifake-cnn-srm", "edge32", "edge32-teacher", "edgenet"])
def test_every_small_detector_takes_uint8_pixels_and_gives_one_logit(name):
    model = PixelModel(fresh(name), models.lookup(name).preprocess).eval()
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    logits = model(pixels)
    assert (logits.shape, logits.dtype) == ((3,), torch.float32)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", models.DETECTORS)
def test_the_table_names_the_linear_layer_that_gives_the_logits(name):
    assert models.classifier_of(outline(name), name).out_features in (1, 2)


@pytest.mark.parametrize("name", ["edge32", "edge32-teacher", "edge224", "edgenet"])
def test_edge_widths_are_multiples_of_eight(name):
    widths = [m.out_channels for m in outline(name).modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths
    assert all(width % 8 == 0 for width in widths)


def test_edge_widths_that_kernels_would_pad_are_refused():
    with pytest.raises(ModelError, match=r"multiples of 8.*\[12, 12, 36\]"):
        models.create(DetectorSpec(name="edge32", arguments={"width": 12}))


def test_edge_lists_of_different_lengths_are_refused():
    with pytest.raises(ModelError, match="equally long, got 1, 2, 1"):
        models.create(DetectorSpec(name="edgenet", arguments={"widths": [8], "depths": [1, 1], "strides": [1]}))


def test_any_timm_model_is_a_detector_with_one_logit_and_its_own_input():
    line = models.lookup("timm/mobilenetv3_small_050")
    assert (line.preprocess.height, line.preprocess.width) == (224, 224)
    assert line.preprocess.mean == pytest.approx(models.IMAGENET_MEAN)
    net = models.create(DetectorSpec(name="timm/mobilenetv3_small_050")).eval()
    assert models.classifier_of(net, "timm/mobilenetv3_small_050").out_features == 1
    assert PixelModel(net, line.preprocess)(models.example_pixels(line.preprocess)).shape == (2,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DetectorSpec(name="ram_net"), "no detector is called 'ram_net'; did you mean 'ram-net'"),
        (DetectorSpec(name="timm/resnet5o"), "timm has no model 'resnet5o'; did you mean 'resnet50'"),
        (DetectorSpec(name="edge32", arguments={"widht": 8}), "edge32 takes no argument 'widht'; did you mean 'width'"),
        (DetectorSpec(name="timm/resnet18", arguments={"depht": 3}), "timm/resnet18: .*depht"),
    ],
)
def test_unknown_names_and_arguments_have_the_nearest_right_one(spec, message):
    with pytest.raises(ModelError, match=message):
        models.create(spec)


def test_the_imagenet_weights_of_resnet50_are_those_of_the_word():
    assert (with_weights(False), with_weights(True)) == ("resnet50", "resnet50")
    assert timm.get_pretrained_cfg(with_weights("torchvision")).url.endswith("/resnet50-0676ba61.pth")
    for name in ("resnet50", "resnet50-bnn"):
        with pytest.raises(ModelError, match="is true, false or \"torchvision\", got 'tv'"):
            models.create(DetectorSpec(name=name, arguments={"pretrained": "tv"}))


def test_two_classes_become_one_logit_whose_sigmoid_is_the_softmax():
    class TwoClasses(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3))[:, :2] * torch.tensor([3.0, -2.0])

    preprocess = models.DETECTORS["edge32"].preprocess
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    model = PixelModel(TwoClasses(), preprocess)
    both = model.net(model.normalise(pixels))
    torch.testing.assert_close(torch.sigmoid(model(pixels)), torch.softmax(both, dim=1)[:, 1])


def test_pixels_are_normalised_channel_by_channel():
    preprocess = models.DETECTORS["npr"].preprocess
    model = PixelModel(torch.nn.Identity(), preprocess)
    pixels = torch.randint(0, 256, (2, 4, 6, 3), dtype=torch.uint8)
    expected = torch.empty(2, 3, 4, 6)
    for channel, (mean, std) in enumerate(zip(preprocess.mean, preprocess.std, strict=True)):
        expected[:, channel] = (pixels[..., channel] / 255 - mean) / std
    torch.testing.assert_close(model.normalise(pixels), expected, atol=1e-6, rtol=0)


def test_the_bytes_of_small_detectors_are_a_quantized_input_already():
    model = PixelModel(torch.nn.Identity(), models.DETECTORS["edge32"].preprocess)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    torch.testing.assert_close(model.normalise(pixels)[0, 0].flatten(), (torch.arange(256.0) - 128) / 128, atol=1e-6, rtol=0)


class Sampled(torch.nn.Module):
    """A network with everything that is optional."""

    def __init__(self, bias: float = 1.0):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        return torch.stack([-x.mean((1, 2, 3)), self.bias + x.mean((1, 2, 3))], dim=1)

    def outputs(self, x):
        return {"logit": self(x), "map": x.mean(1)}

    def deploy(self):
        return torch.nn.Sequential(Sampled(self.bias.item()))


def test_further_outputs_stand_behind_the_logit():
    model = PixelModel(Sampled(), models.DETECTORS["edge32"].preprocess)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    found = model.outputs(pixels)
    assert list(found) == ["logit", "map"]
    torch.testing.assert_close(found["logit"], model(pixels))
    assert found["map"].shape == (2, 32, 32)
    plain = PixelModel(torch.nn.Sequential(Sampled()), model.preprocess)
    assert list(plain.outputs(pixels)) == ["logit"]


def test_the_deployed_form_is_another_network_with_the_same_logits():
    model = PixelModel(Sampled(), models.DETECTORS["edge32"].preprocess).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    deployed = model.deployed()
    assert isinstance(deployed.net, torch.nn.Sequential)
    assert not deployed.training
    torch.testing.assert_close(deployed(pixels), model(pixels))
    plain = PixelModel(torch.nn.Identity(), model.preprocess)
    assert plain.deployed() is plain


@pytest.mark.parametrize("name", [name for name, line in models.DETECTORS.items() if line.features])
def test_the_mean_of_the_named_features_is_what_the_classifier_reads(name):
    net, line = fresh(name).eval(), models.lookup(name)
    seen = {}
    hooks = [
        net.get_submodule(line.features).register_forward_hook(lambda _, __, out: seen.update(features=out)),
        net.get_submodule(line.classifier).register_forward_pre_hook(lambda _, given: seen.update(embedding=given[0])),
    ]
    side = FIXED_SIZE.get(name, 64)
    PixelModel(net, line.preprocess)(torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen["features"].mean((2, 3)), seen["embedding"], atol=1e-5, rtol=1e-4)
