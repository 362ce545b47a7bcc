import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.errors import ExportError, RuntimeUnavailable
from edgedet.export import compile as compiler
from edgedet.export.compile import Compiled, Kernel, compile_ahead, kernel_table

needs_compiler = pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")

TABLE = """Layers:
Name: first, LayerType: kgen, Inputs: [ { Name: pixels, Dimensions: [-1,4,4,3], Datatype: UInt8, Format: x }], \
Constants: [], Outputs: [ { Name: a, Datatype: Int8, Format: x }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: cast]
Name: conv, LayerType: correlation, Inputs: [ { Name: a, Datatype: Int8, Format: x }], \
Constants: [ { Name: w, Datatype: Int8, Format: x }], Outputs: [ { Name: b, Datatype: Float, Format: x }], TacticName: , \
StreamId: 0, Metadata: [ONNX Layer: conv1][ONNX Layer: weight]"""


def graph(path: Path, *, activations: bool = True, zero_point: int = 0) -> Path:
    """Cast, layout change, a 16-channel convolution, mean; Q/DQ on its weights, and on its input unless told otherwise."""
    random = np.random.default_rng(0)
    constants = {
        "scale": np.float32(2.0),
        "zero": np.int8(zero_point),
        "w": random.integers(-127, 128, (16, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(16, 0.01, np.float32),
        "w_zero": np.zeros(16, np.int8),
        "axes": np.array([1, 2, 3]),
    }
    pair = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"], name="x_q"),
        helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_dq"], name="x_dq"),
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], name="nchw", perm=[0, 3, 1, 2]),
        *(pair if activations else []),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], name="w_dq", axis=0),
        helper.make_node("Conv", ["x_dq" if activations else "x", "w_dq"], ["y"], name="conv1", pads=[1] * 4),
        helper.make_node("ReduceMean", ["y", "axes"], ["logit"], name="mean", keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_kernel_table_is_read_from_the_log() -> None:
    first, second = kernel_table(TABLE)
    assert (first.name, first.kind, first.nodes) == ("first", "kgen", ("cast",))
    assert (first.inputs, first.outputs) == (("UInt8",), ("Int8",))
    assert (second.kind, second.inputs, second.outputs) == ("correlation", ("Int8",), ("Float",))
    found = Compiled("1", "86", 0.1, 1, 1, 1, 1, (first, second))
    assert found.convolutions == {"conv1": True}
    assert found.figures["kernels_in"] == {"Int8": 1, "Half": 0, "Float": 0}  # the first reads UInt8 and writes Int8
    assert found.figures["kernels_writing"] == {"Float": 1, "Int8": 1}
    assert (found.figures["compute_capability"], found.figures["products"]) == ("86", 0)
    assert found.figures["evidence"] == "compiled ahead of time for compute capability 86, not run: no measurement"
    with pytest.raises(ExportError, match="1 of 2 quantized convolutions do not read Int8 in the compiled kernels: conv2"):
        found.require_int8(["conv1", "conv2"])


@needs_compiler
def test_a_quantized_convolution_reads_int8_on_the_rtx_3090(tmp_path: Path) -> None:
    found = compile_ahead(graph(tmp_path / "q.onnx"), capability="86")
    found.require_int8(["conv1"])
    assert found.figures["int8_convolutions"] == found.figures["convolutions"] == 1
    assert found.weights_bytes > 0
    assert found.activation_bytes > 0


@needs_compiler
def test_quantized_weights_alone_run_in_float(tmp_path: Path) -> None:
    found = compile_ahead(graph(tmp_path / "weights.onnx", activations=False))
    assert found.convolutions == {"conv1": False}
    with pytest.raises(ExportError, match="their inputs carry no Q/DQ pair"):
        found.require_int8(["conv1"])


@needs_compiler
def test_a_refusal_names_the_node_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"node x_q \(QuantizeLinear\): .*Non-zero zero point is not supported"):
        compile_ahead(graph(tmp_path / "asymmetric.onnx", zero_point=3))


@needs_compiler
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a graph")
    with pytest.raises(ExportError, match="Failed to parse the ONNX model"):
        compile_ahead(path)


@needs_compiler
def test_a_compiler_without_memory_ends_with_an_error_and_not_with_this_process(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"memory limit 32 MiB|crashed with SIG|refuses the graph"):
        compile_ahead(graph(tmp_path / "q.onnx"), memory=32 << 20)


@needs_compiler
def test_a_compiler_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="should compile it was not done after 0 seconds: stopped"):
        compile_ahead(graph(tmp_path / "q.onnx"), seconds=0.01)


@needs_compiler
def test_an_unknown_capability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="compiles for 75, 80, 86, 89, 120"):
        compile_ahead(tmp_path / "any.onnx", capability="87")


def test_a_crash_of_the_compiler_is_reported_with_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "available", lambda: True)
    done = subprocess.CompletedProcess([], -6, "", "terminate called\nwhat(): bad graph\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(ExportError, match=r"should compile it crashed with SIGABRT: what\(\): bad graph"):
        compile_ahead(tmp_path / "any.onnx")


def test_without_the_compiler_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "available", lambda: False)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'edgedet\[compile\]'"):
        compile_ahead(tmp_path / "any.onnx")


@pytest.mark.parametrize(
    ("inputs", "outputs", "precision"),
    [
        (("Int8", "Half"), ("Half",), "Int8"),
        (("Half",), ("Int8",), "Half"),
        (("Half",), ("Float",), "Float"),
        (("UInt8",), ("Float",), "Float"),
        ((), (), ""),
    ],
)
def test_a_kernel_is_counted_in_one_precision(inputs: tuple[str, ...], outputs: tuple[str, ...], precision: str) -> None:
    assert Kernel("k", "kgen", inputs, outputs, ()).precision == precision


@needs_compiler
@pytest.mark.parametrize("capability", ["80", "89", "120"])
def test_other_architectures_take_the_same_graph(capability: str, tmp_path: Path) -> None:
    found = compile_ahead(graph(tmp_path / "q.onnx"), capability=capability)
    found.require_int8(["conv1"])
    assert found.figures["compute_capability"] == capability
