"""OpenVINO gives what ONNX Runtime gives, from the same file."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

pytest.importorskip("openvino")

from edgedet.errors import ArtifactError
from edgedet.runtime import base
from edgedet.runtime.base import Options
from edgedet.runtime.onnxruntime import OnnxRuntime
from edgedet.runtime.openvino import OpenVino, _quantize_pixels

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_it_gives_the_logits_of_onnx_runtime(make_onnx_artifact, batch):
    artifact, pixels = make_onnx_artifact(), np.resize(PIXELS, (batch, 8, 8, 3))
    expected = base.load(artifact, threads=1).run(pixels)
    found = base.load(artifact, runtime="openvino", threads=1).run(pixels)
    assert list(found) == list(expected)
    np.testing.assert_allclose(found["logit"], expected["logit"], rtol=1e-5, atol=1e-5)


def test_its_answers_are_its_own_and_outlive_the_next_call(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), runtime="openvino", threads=1)
    first = runtime.run(PIXELS)["logit"]
    before = first.copy()
    runtime.run(255 - PIXELS)
    np.testing.assert_array_equal(first, before)


def first_layer(path, *, quantized: bool):
    """A graph whose one convolution, 3x3 with padding, reads the uint8 pixels, or the same in float32."""
    generator = np.random.default_rng(0)
    weights = generator.integers(-127, 128, (16, 3, 3, 3), dtype=np.int8)
    tensors = {"weight": weights, "weight_scale": np.float32(0.01), "scale": np.float32(1 / 128), "zero": np.uint8(128)}
    nodes = [helper.make_node("DequantizeLinear", ["weight", "weight_scale"], ["w"])]
    if quantized:
        nodes += [helper.make_node("Transpose", ["pixels"], ["q"], perm=[0, 3, 1, 2])]
        nodes += [helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"])]
    else:
        tensors |= {"mean": np.float32(128)}
        nodes += [helper.make_node("Cast", ["pixels"], ["c"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Transpose", ["c"], ["t"], perm=[0, 3, 1, 2])]
        nodes += [helper.make_node("Sub", ["t", "mean"], ["s"]), helper.make_node("Mul", ["s", "scale"], ["x"])]
    nodes += [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["logit"], axes=[1, 2, 3], keepdims=0),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])
    logit = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "layer", [pixels], [logit], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def read_model(graph):
    from openvino import Core

    return Core().read_model(graph)


def test_pixels_that_are_the_quantized_input_stay_so_and_no_value_of_them_changes(tmp_path):
    graph = first_layer(tmp_path / "int8.onnx", quantized=True)
    model = read_model(graph)
    _quantize_pixels(model)
    assert [each.get_type_name() for each in model.get_ordered_ops()].count("FakeQuantize") == 1
    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = np.concatenate([every_value, np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)])
    expected = OnnxRuntime(graph, Options(threads=1)).run(pixels)["logit"]
    np.testing.assert_allclose(OpenVino(graph, Options(threads=1)).run(pixels)["logit"], expected, rtol=1e-5)


def test_pixels_of_an_fp32_graph_are_left_as_they_are(tmp_path):
    model = read_model(first_layer(tmp_path / "fp32.onnx", quantized=False))
    _quantize_pixels(model)
    assert "FakeQuantize" not in [each.get_type_name() for each in model.get_ordered_ops()]


def test_it_says_how_it_runs_and_is_never_chosen_by_itself(make_onnx_artifact):
    artifact = make_onnx_artifact()
    about = base.load(artifact, runtime="openvino", threads=1).describe()
    assert (about["runtime"], about["device"], about["threads"]) == ("openvino", "CPU", 1)
    assert base.choose(artifact) == "onnxruntime"


def test_pixels_that_the_graph_does_not_take_are_an_error(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), runtime="openvino", threads=1)
    with pytest.raises(ArtifactError, match=r"refuses uint8 pixels of shape \(3, 8, 8, 4\)"):
        runtime.run(np.zeros((3, 8, 8, 4), np.uint8))


def test_a_graph_without_our_interface_is_refused(make_onnx_artifact):
    with pytest.raises(ArtifactError, match="`logit` as first output, got 1 inputs and probability"):
        base.load(make_onnx_artifact(output="probability"), runtime="openvino", threads=1)


def test_a_damaged_graph_is_refused_by_name(make_onnx_artifact, tmp_path):
    broken = tmp_path / "m.onnx"
    broken.write_bytes(make_onnx_artifact().graph.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"m\.onnx: OpenVINO .* does not accept it"):
        OpenVino(broken, Options(1))
