import numpy as np
import pytest

from edgedet.quantize.graph import GraphView
from edgedet.quantize.pixels import find_pixel_input

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def stem_of(model):
    view = GraphView(model)
    return find_pixel_input(view, view.by_name["stem_conv"])


def test_a_single_mean_makes_the_pixels_the_quantized_input(make_net) -> None:
    net = make_net(mean=(128 / 255,) * 3, std=(0.25, 0.5, 0.5))
    found = stem_of(net.finish(net.conv("x", 3, 8, "stem"), 8))
    assert found is not None
    assert found.source == "pixels"
    assert found.zero_point == 128
    assert found.zero == pytest.approx([128] * 3, abs=1e-4)
    assert found.gain == pytest.approx(1 / (255 * np.array([0.25, 0.5, 0.5])), rel=1e-6)


def test_three_means_would_pad_with_a_wrong_value(make_net) -> None:
    net = make_net(**IMAGENET)
    assert stem_of(net.finish(net.conv("x", 3, 8, "stem"), 8)) is None


def test_without_padding_three_means_go_into_the_bias(make_net, run, pixels) -> None:
    net = make_net(**IMAGENET)
    found = stem_of(net.finish(net.conv("x", 3, 8, "stem", kernel=1), 8))
    assert found is not None
    weight, bias = np.random.default_rng(0).normal(size=(8, 3, 1, 1)), np.random.default_rng(1).normal(size=8)
    new_weight, new_bias = found.rewrite(weight, bias)
    x = run(make_net(**IMAGENET).finish("x", 3), pixels[:2], "x")  # (2, 3, 16, 16)
    expected = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    steps = found.scale * (pixels[:2].astype(float) - found.zero_point)  # (2, 16, 16, 3)
    actual = np.einsum("oc,bhwc->bohw", new_weight[:, :, 0, 0], steps) + new_bias[:, None, None]
    assert actual == pytest.approx(expected, abs=1e-4)


def test_computed_inputs_are_not_pixels(make_net) -> None:
    net = make_net()
    squared = net.op("Mul", "x", "x", name="squared")
    assert stem_of(net.finish(net.conv(squared, 3, 8, "stem"), 8)) is None
