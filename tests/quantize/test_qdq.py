import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize import qdq
from edgedet.quantize.graph import GraphView
from edgedet.quantize.placement import place
from edgedet.quantize.qdq import Parameters, parameters, quantize_weight
from edgedet.quantize.ranges import find_ranges
from edgedet.target import Scheme

X86 = target.load("cpu-x86").int8
SIGNED = Scheme(activations="int8", symmetric=True, bias="float", residual="both", outputs=False, ops=("Conv",))


def written(model: onnx.ModelProto, pixels, scheme: Scheme | None = X86, **given) -> onnx.ModelProto:
    plan = place(GraphView(model), scheme)
    ranges = find_ranges(model, plan.observed, lambda: [pixels], method="minmax", symmetric=scheme.symmetric)
    result = qdq.write(model, plan, ranges, scheme, **given)
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((0.0, 5.1), Parameters(0.02, 0, "uint8")),
        ((-2.55, 2.55), Parameters(0.02, 128, "uint8")),
        ((1.0, 5.1), Parameters(0.02, 0, "uint8")),  # zero must be representable
        ((-5.1, -1.0), Parameters(0.02, 255, "uint8")),
    ],
)
def test_unsigned_parameters_represent_zero_exactly(found, expected: Parameters) -> None:
    actual = parameters(found, X86)
    assert actual.scale == pytest.approx(expected.scale)
    assert abs(actual.zero_point - expected.zero_point) <= 1
    assert actual.dtype == "uint8"


def test_signed_parameters_have_zero_point_zero() -> None:
    assert parameters((-1.27, 1.27), SIGNED) == Parameters(pytest.approx(0.01), 0, "int8")
    assert parameters((-1.28, 0.5), SIGNED) == Parameters(pytest.approx(0.01), 0, "int8")  # there is a -128


@pytest.mark.parametrize(("axis", "bits", "top"), [(0, 8, 127), (1, 8, 127), (0, 7, 63), (None, 8, 127)])
def test_weights_are_rounded_to_the_nearest_step(axis: int | None, bits: int, top: int) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 4, 3, 3)).astype(np.float32)
    values, scale = quantize_weight(weight, axis, bits)
    shape = [-1 if position == axis else 1 for position in range(4)]
    error = np.abs(values * scale.reshape(shape if axis is not None else []) - weight)
    assert np.abs(values).max() == top
    assert (error <= 0.501 * scale.reshape(shape if axis is not None else [])).all()


def test_int8_logits_follow_the_float_ones(residual_net: onnx.ModelProto, pixels, run) -> None:
    expected, actual = run(residual_net, pixels), run(written(residual_net, pixels), pixels)
    assert np.corrcoef(expected, actual)[0, 1] > 0.99
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def test_pixels_as_they_are_lose_nothing(make_net, pixels, run) -> None:
    net = make_net(mean=(128 / 255,) * 3, std=(128 / 255,) * 3)
    model = net.finish(net.conv("x", 3, 8, "stem"), 8)
    quantized = written(model, pixels)
    assert not any(node.op_type == "Cast" for node in quantized.graph.node)
    name = next(node.output[0] for node in quantized.graph.node if node.output[0].endswith("_pixels"))
    assert run(quantized, pixels, name) == pytest.approx(run(model, pixels, "x"), abs=1e-6)


def test_bias_is_in_steps_of_input_times_weight(residual_net: onnx.ModelProto, pixels) -> None:
    view = GraphView(written(residual_net, pixels))
    names = {"in": "stem_scale", "weight": "one_conv_weight_scale", "bias": "one_conv_bias_scale"}
    scales = {key: view.constant(name) for key, name in names.items()}
    assert scales["bias"] == pytest.approx(scales["in"] * scales["weight"], rel=1e-6)
    assert view.constant("one_conv_bias_quantized").dtype == np.int32


def test_what_is_rounded_is_known_before_it_is(residual_net: onnx.ModelProto, pixels) -> None:
    view = GraphView(written(residual_net, pixels))
    floats = qdq.unrounded(residual_net, place(GraphView(residual_net), X86))
    assert len(floats) == 2 * 6
    for name, value in floats.items():
        integers, scale = (view.constant(tensor) for tensor in view.producer(name).input[:2])
        along = scale.reshape(-1, *[1] * (value.ndim - 1))
        assert np.abs(integers * along - value).max() <= 0.5001 * scale.max()


def test_what_passes_values_on_shares_their_scale(make_net, pixels) -> None:
    net = make_net()
    smaller = net.op("MaxPool", net.conv("x", 3, 8, "stem"), name="smaller", kernel_shape=[2, 2], strides=[2, 2])
    view = GraphView(written(net.finish(net.conv(smaller, 8, 8, "next"), 8), pixels))
    assert view.by_name["smaller_quantized"].input[1:] == view.by_name["stem_dequantized"].input[1:]


def test_a_dead_channel_with_a_large_bias_does_not_overflow(make_net, pixels, run) -> None:
    net = make_net()
    model = net.finish(net.conv(net.conv("x", 3, 8, "stem"), 8, 8, "next"), 8)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == GraphView(model).by_name["next_conv"].input[1])
    values = numpy_helper.to_array(weight).copy()
    values[3] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    expected = run(model, pixels, "next")[:, 3]
    actual = run(written(model, pixels), pixels, "next")[:, 3]
    assert np.isfinite(actual).all()
    assert actual == pytest.approx(expected, abs=0.05)


def test_a_float_bias_and_signed_activations_for_targets_that_refuse_others(residual_net: onnx.ModelProto, pixels) -> None:
    model = written(residual_net, pixels, SIGNED)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.INT32 not in types.values()
    assert onnx.TensorProto.UINT8 not in types.values()
    # Nothing but the inputs of convolutions is quantized.
    quantized = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized == {"x", "stem", "one", "block", "three"}


def test_a_missing_range_is_named(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="no range was found for stem"):
        qdq.write(residual_net, place(GraphView(residual_net), X86), {}, X86)
