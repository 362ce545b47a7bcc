from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize import qdq
from edgedet.quantize.graph import GraphView
from edgedet.quantize.half import Half, find_magnitudes, to_half
from edgedet.quantize.placement import place
from edgedet.quantize.ranges import find_ranges
from edgedet.quantize.typed import FLOAT, HALF


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Node -> the type of its first output."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return {node.name: kinds[node.output[0]] for node in model.graph.node}


def count(model: onnx.ModelProto, kind: str) -> int:
    return Counter(node.op_type for node in model.graph.node)[kind]


def half(model: onnx.ModelProto, pixels) -> Half:
    return to_half(model, find_magnitudes(model, lambda: [pixels]))


def with_pairs(model: onnx.ModelProto, pixels) -> onnx.ModelProto:
    """The model in INT8 as an RTX 3090 takes it, with float32 around it."""
    scheme = target.load("rtx-3090").int8
    assert scheme is not None
    plan = place(GraphView(model), scheme)
    ranges = find_ranges(model, plan.observed, lambda: [pixels], method="minmax", symmetric=True)
    return qdq.write(model, plan, ranges, scheme)


def test_the_layers_are_half_the_pixels_and_the_logit_are_not(residual_net: onnx.ModelProto, pixels, run) -> None:
    made = half(residual_net, pixels)
    kinds = types(made.model)
    assert {kinds[name] for name in ("float", "nchw", "centred", "x", "logit")} == {FLOAT}
    assert {kinds[name] for name in ("stem_conv", "stem", "sum", "block", "block2", "pooled", "head")} == {HALF}
    assert count(made.model, "Cast") == 3  # of the pixels, and one each way
    assert made.notes == ("15 nodes in FP16, 4 in FP32 (0 to save casts), 2 casts",)
    exact = run(residual_net, pixels)
    assert run(made.model, pixels) == pytest.approx(exact, rel=2e-3, abs=2e-3)


def test_only_what_is_behind_the_last_layer_of_an_encoder_stays_single(make_net, pixels) -> None:
    net = make_net()
    last = net.conv(net.conv("x", 3, 16, "stem", stride=2), 16, 16, "last")
    model = net.model(net.op("Reshape", net.pool(last), net.constant(np.array([-1])), name="features"))
    quantized = with_pairs(model, pixels)
    assert count(quantized, "QuantizeLinear") == 2  # no layer is in float
    kinds = types(to_half(quantized, find_magnitudes(model, lambda: [pixels])).model)
    assert {kinds[name] for name in ("stem_conv", "stem", "last_conv")} == {HALF}
    assert {kinds[name] for name in ("last", "pooled", "features")} == {FLOAT}


def test_scales_are_half_and_need_no_casts(residual_net: onnx.ModelProto, pixels, run) -> None:
    quantized = with_pairs(residual_net, pixels)
    made = half(quantized, pixels)
    view = GraphView(made.model)
    for node in made.model.graph.node:
        scale = view.constant(node.input[1]) if "Linear" in node.op_type else None
        assert scale is None or scale.dtype == (np.float32 if node.name == "x_quantized" else np.float16)
    # The pixels are quantized from float32 and dequantized to half; the one cast is behind the head.
    assert types(made.model)["x_dequantized_half"] == HALF
    assert count(made.model, "Cast") == 2
    assert run(made.model, pixels) == pytest.approx(run(quantized, pixels), rel=0.02, abs=0.02)


def test_what_half_would_overflow_on_real_images_stays_in_fp32(make_net, pixels, run) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    large = net.op("Mul", stem, net.constant(1000.0), name="large")
    squared = net.op("Mul", large, large, name="squared")
    model = net.finish(net.op("Sqrt", squared, name="root"), 16)
    made = half(model, pixels)
    assert "in FP32, activations beyond 512: large, squared, root, pooled, head" in made.notes
    assert {types(made.model)[name] for name in ("large", "squared", "root")} == {FLOAT}
    assert run(made.model, pixels) == pytest.approx(run(model, pixels), rel=2e-3)


def test_what_lies_between_nodes_in_fp32_is_so_too_when_that_saves_casts(make_net, pixels) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    first = net.op("Add", stem, net.constant(1e-10), name="first")
    between = net.op("Neg", net.op("Abs", first, name="absolute"), name="negative")
    second = net.op("Add", between, net.constant(1e-10), name="second")
    made = half(net.finish(net.conv(second, 16, 16, "last"), 16), pixels)
    assert "in FP32, a constant that half cannot hold: first, second" in made.notes
    assert "(2 to save casts)" in made.notes[0]
    assert {types(made.model)[name] for name in ("absolute", "negative")} == {FLOAT}


def test_no_cast_follows_a_cast(make_net, pixels) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    sides = net.op("Cast", net.op("Size", stem, name="size"), name="sides", to=TensorProto.FLOAT)
    model = net.finish(net.conv(net.op("Div", stem, sides, name="share"), 16, 16, "last"), 16)
    made = half(model, pixels)
    view = GraphView(made.model)
    behind = [view.producer(node.input[0]) for node in view.nodes if node.op_type == "Cast"]
    assert all(node is None or node.op_type != "Cast" for node in behind)


def test_weights_that_half_cannot_hold_stay_in_fp32(make_net, pixels) -> None:
    net = make_net()
    model = net.finish(net.conv(net.conv("x", 3, 16, "large"), 16, 16, "small"), 16)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, factor in (("large_conv", 1e6), ("small_conv", 1e-7)):
        weight = next(node.input[1] for node in model.graph.node if node.name == name)
        tensors[weight].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[weight]) * np.float32(factor), weight))
    assert "in FP32, a constant that half cannot hold: large_conv, small_conv" in to_half(model, {}).notes


def test_integer_weights_are_rounded_again_for_scales_that_are_denormal_in_half(make_net, pixels, run) -> None:
    net = make_net()
    model = net.finish(net.conv(net.op("Mul", "x", net.constant(300.0), name="bright"), 3, 16, "stem"), 16)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [16, 3, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e-4), weight.name))
    quantized = with_pairs(model, pixels)
    made = half(quantized, pixels)
    view = GraphView(made.model)
    node = next(node for node in view.nodes if node.name == "stem_conv_weight_dequantized_half")
    scale, exact = view.constant(node.input[1]), GraphView(quantized).constant("stem_conv_weight_scale")
    assert scale is not None
    assert exact is not None
    assert exact.max() < np.finfo(np.float16).smallest_normal
    assert (scale >= exact).all()
    before, after = (run(each, pixels, "stem_conv") for each in (quantized, made.model))
    assert np.abs(after - before).max() < 0.01 * np.abs(before).max()


def test_magnitudes_are_those_of_all_images(residual_net: onnx.ModelProto, pixels, run) -> None:
    found = find_magnitudes(residual_net, lambda: (pixels[start : start + 3] for start in range(0, 16, 3)))
    assert found["float"] == pixels.max()
    for tensor in ("x", "stem_conv", "block", "logit"):
        assert found[tensor] == pytest.approx(np.abs(run(residual_net, pixels, tensor)).max(), rel=1e-5)


def test_no_images_are_refused(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="checked on real images, and the ranges split has none"):
        find_magnitudes(residual_net, lambda: [])


def test_scales_at_an_opset_that_has_no_half_ones_are_refused(residual_net: onnx.ModelProto, pixels) -> None:
    quantized = with_pairs(residual_net, pixels)
    quantized.opset_import[0].version = 18
    with pytest.raises(QuantizeError, match="half-precision scales need opset 19, the graph has 18: export at 20"):
        to_half(quantized, {})


def test_a_graph_in_half_precision_is_not_converted_again(residual_net: onnx.ModelProto, pixels) -> None:
    with pytest.raises(QuantizeError, match="is in half precision already: give the FP32 graph"):
        to_half(half(residual_net, pixels).model, {})
