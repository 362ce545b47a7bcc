import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedet.quantize.graph import GraphView
from edgedet.quantize.typed import FLOAT, float_tensors, half_inputs, next_half, write

PIXELS = {"float", "nchw", "centred", "x"}


def kinds_of_constants(model: onnx.ModelProto, node: str) -> list[str]:
    view = GraphView(model)
    values = (view.constant(name) for name in view.by_name[node].input)
    return [str(value.dtype) for value in values if value is not None]


def test_a_nodes_constants_have_its_precision(make_net, pixels, run) -> None:
    net = make_net()
    model = net.finish(net.conv(net.conv("x", 3, 16, "one"), 16, 16, "two"), 16)
    written, casts = write(model, float_tensors(model), {*PIXELS, "two_conv", "head", "logit"})
    assert kinds_of_constants(written, "one_conv") == ["float16", "float16"]
    assert kinds_of_constants(written, "two_conv") == ["float32", "float32"]
    assert casts == 4  # behind the pixels, around the second convolution, before the head
    assert run(written, pixels) == pytest.approx(run(model, pixels), abs=2e-3)


def test_a_tensor_is_cast_once_for_all_who_read_it_so(make_net) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    joined = net.op("Add", net.op("Abs", stem, name="absolute"), net.op("Neg", stem, name="negative"), name="joined")
    model = net.finish(joined, 16)
    written, casts = write(model, float_tensors(model), {*PIXELS, "absolute", "negative", "joined", "pooled", "head", "logit"})
    assert casts == 2
    assert [node.name for node in written.graph.node if "stem_float" in node.input] == ["absolute", "negative"]


def test_a_further_output_keeps_its_name_and_its_type(make_net, pixels, run) -> None:
    net = make_net()
    model = net.finish(net.conv("x", 3, 16, "stem"), 16)
    model.graph.output.append(helper.make_tensor_value_info("stem", TensorProto.FLOAT, ["batch", 16, 16, 16]))
    written, _ = write(model, float_tensors(model), {*PIXELS, "head", "logit"})
    onnx.checker.check_model(written, full_check=True)
    assert [value.type.tensor_type.elem_type for value in written.graph.output] == [FLOAT, FLOAT]
    assert run(written, pixels, "stem").dtype == np.float32


def test_an_inputs_precision_is_read_from_the_operators_definition() -> None:
    floats = {"x", "region", "factors", "y"}
    resize = helper.make_node("Resize", ["x", "region", "factors"], ["y"])
    assert half_inputs(resize, 18, floats) == [True, True, False]
    assert half_inputs(helper.make_node("Relu", ["x"], ["y"]), 20, floats) == [True]
    assert half_inputs(helper.make_node("RandomNormal", [], ["y"], shape=[1]), 20, floats) is None
    assert half_inputs(helper.make_node("Odd", ["x"], ["y"], domain="com.microsoft"), 20, floats) is None


def test_the_next_half_is_never_smaller() -> None:
    values = np.exp(np.random.default_rng(0).uniform(-25, 5, 1000)).astype(np.float32)
    rounded = next_half(values)
    assert (rounded.astype(np.float32) >= values).all()
    assert (np.nextafter(rounded, np.float16(-1)).astype(np.float32) < values).all()
