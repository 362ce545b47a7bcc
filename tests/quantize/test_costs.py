import numpy as np
import onnx
import pytest

from edgedet.quantize.costs import estimated_share, gain, interleaved_ms, multiplications


def test_multiplications_are_counted_as_by_hand(make_net, pixels) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem", stride=2)
    weight = net.constant(net.random.normal(size=(16, 1, 3, 3)))
    depthwise = net.op("Conv", stem, weight, name="depthwise", group=16, pads=[1] * 4)
    pooled = net.op("ReduceMean", depthwise, net.constant(np.array([2, 3])), name="pooled", keepdims=0)
    hidden = net.op("MatMul", pooled, net.constant(net.random.normal(size=(16, 32))), name="hidden")
    net.op("Reshape", net.linear(hidden, 32, 1, "head"), net.constant([-1]), name="logit")
    counted = multiplications(net.model("logit"), ["stem_conv", "depthwise", "hidden"], lambda: [pixels])
    assert counted == {"stem_conv": 8 * 8 * 16 * 27, "depthwise": 8 * 8 * 16 * 9, "hidden": 16 * 32}


def test_the_estimate_lies_between_all_in_int8_and_all_in_float() -> None:
    costs = {"one": 100, "two": 300}
    assert estimated_share(costs, ()) == pytest.approx(0.25)
    assert estimated_share(costs, ["one"]) == pytest.approx((100 + 300 / 4) / 400)
    assert estimated_share(costs, ["two", "one"]) == pytest.approx(1.0)


def test_each_graph_is_timed(residual_net: onnx.ModelProto, make_net, pixels) -> None:
    net = make_net()
    small = net.finish(net.conv("x", 3, 8, "stem", kernel=1), 8)
    times = interleaved_ms([residual_net, small], pixels[:1])
    assert len(times) == 2
    assert all(taken > 0 for taken in times)


def test_a_network_that_int8_makes_no_faster_is_told_so(make_net) -> None:
    net, wide = make_net(), make_net()
    small = net.finish(net.conv("x", 3, 8, "stem", kernel=1), 8)
    large = wide.finish(wide.conv(wide.conv("x", 3, 64, "stem"), 64, 128, "second"), 128)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    figures, said = gain(large, small, image)
    assert figures["fp32_ms"] > figures["int8_ms"] > 0
    assert said.startswith(f"INT8 is {figures['fp32_ms'] / figures['int8_ms']:.2g} times as fast here: ")
    figures, said = gain(small, large, image)
    assert figures["fp32_ms"] < figures["int8_ms"]
    assert said.startswith("INT8 is no faster here: ")
    assert f"{figures['int8_ms']:.3g} ms in INT8, processor time of one image on one thread; deploy the FP32 graph" in said
