import numpy as np
import pytest

from edgedet.quantize.channels import spreads
from edgedet.quantize.graph import GraphView


def test_the_widest_channel_is_told_apart_in_values_and_in_weights(make_net, pixels, run) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    scaled = net.op("Mul", stem, net.constant(np.r_[50.0, np.ones(15)].reshape(1, 16, 1, 1)), name="scaled")
    weight = np.ones((8, 16, 3, 3))
    weight[:, 5] = 7.0
    net.op("Conv", scaled, net.constant(weight), name="wide", pads=[1] * 4)
    pooled = net.op("ReduceMean", "wide", net.constant(np.array([2, 3])), name="pooled", keepdims=0)
    hidden = net.linear(pooled, 8, 4, "hidden")  # Gemm with transB: its input channels are the weight's columns
    net.op("Reshape", net.linear(hidden, 4, 1, "head"), net.constant([-1]), name="logit")
    model = net.model("logit")
    conv, gemm = spreads(model, ["wide", "hidden"], lambda: [pixels[:9], pixels[9:]])
    largest = np.abs(run(model, pixels, "scaled")).max(axis=(0, 2, 3))
    assert conv.layer == "wide"
    assert conv.values == pytest.approx(largest.max() / np.median(largest[largest > 0]), rel=1e-5)
    assert conv.weights == pytest.approx(7.0)
    columns = np.abs(GraphView(model).constant(GraphView(model).by_name["hidden"].input[1])).max(axis=0)
    assert gemm.weights == pytest.approx(columns.max() / np.median(columns), rel=1e-5)
    assert str(conv).startswith("wide: the widest input channel is ")


def test_a_dead_input_has_no_spread(make_net, pixels) -> None:
    net = make_net()
    dead = net.op("Mul", net.conv("x", 3, 16, "stem"), net.constant(np.zeros((1, 16, 1, 1))), name="dead")
    (found,) = spreads(net.finish(net.conv(dead, 16, 16, "next"), 16), ["next_conv"], lambda: [pixels])
    assert found.values == 1.0
