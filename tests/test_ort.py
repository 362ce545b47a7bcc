"""The one pass of ONNX Runtime that is left out, and why."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgedet.ort import open_session


def half_layer(input_scale: float = 1e-3, weight_scale: float = 2e-4) -> onnx.ModelProto:
    """A 1x1 convolution with Q/DQ pairs, scales in half precision and a float bias: as it is made for TensorRT."""
    half = TensorProto.FLOAT16
    constants = {
        "x_scale": np.float16(input_scale),
        "zero": np.int8(0),
        "weight_quantized": np.full((1, 1, 1, 1), 100, np.int8),
        "weight_scale": np.float16([weight_scale]),
        "zeros": np.zeros(1, np.int8),
        "bias": np.float16([0.5]),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["weight_quantized", "weight_scale", "zeros"], ["weight"], axis=0),
        helper.make_node("Conv", ["dq", "weight", "bias"], ["half"]),
        helper.make_node("QuantizeLinear", ["half", "x_scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "x_scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", half, [1, 1, 1, 1])],
        [helper.make_tensor_value_info("half", half, [1, 1, 1, 1]), helper.make_tensor_value_info("y", half, [1, 1, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_bias_in_half_precision_survives():
    x = np.full((1, 1, 1, 1), 0.1, np.float16)
    logits = open_session(half_layer().SerializeToString(), threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(logits.ravel(), [100 * 1e-3 * 100 * 2e-4 + 0.5], rtol=1e-2)


def test_without_this_the_bias_is_lost_so_the_pass_is_still_to_be_left_out():
    """Fails once ONNX Runtime has mended it: then LEFT_OUT can go."""
    x = np.full((1, 1, 1, 1), 0.1, np.float16)
    plain = ort.InferenceSession(half_layer().SerializeToString(), providers=["CPUExecutionProvider"])
    assert abs(float(plain.run(None, {"x": x})[0].ravel()[0]) - 0.502) > 0.1


def test_a_file_and_its_bytes_give_the_same_and_the_optimised_graph_can_be_looked_at(tmp_path):
    path, optimised = tmp_path / "layer.onnx", tmp_path / "optimised.onnx"
    onnx.save(half_layer(), path)
    x = np.full((1, 1, 1, 1), 0.1, np.float16)
    sessions = [open_session(path, threads=1, optimised=optimised), open_session(path.read_bytes(), threads=2, spin=True)]
    first, second = (session.run(None, {"x": x})[0] for session in sessions)
    np.testing.assert_array_equal(first, second)
    assert "Conv" in {node.op_type for node in onnx.load(optimised).graph.node}
