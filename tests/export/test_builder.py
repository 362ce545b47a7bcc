"""The builder's own code, run for real by TensorRT-RTX: it has the interface of TensorRT 11 and needs no GPU."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet.export.builder import MEMORY, Profile, Refused, configure, holds_half, parse, serialize, stated
from edgedet.runtime.gpu import listener

trt = pytest.importorskip("tensorrt_rtx_bindings")


def graph(path: Path, *, half: bool = False, operator: str = "Relu") -> Path:
    """Pixels (batch, 8, 8, 3) to their mean, through `operator`, in half precision when asked."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], name="cast", to=kind),
        helper.make_node("Mul", ["x", "factor"], ["y"], name="scale"),
        helper.make_node(operator, ["y"], ["z"], name="rectify"),
        helper.make_node("ReduceMean", ["z", "axes"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Cast", ["mean"], ["logit"], name="single", to=TensorProto.FLOAT),
    ]
    constants = {"factor": np.array([0.1, 0.2, 0.3], dtype), "axes": np.array([1, 2, 3])}
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 8, 8, 3])],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def logger():
    return listener(trt, MEMORY)


def test_a_network_is_strongly_typed_when_it_is_asked_to_be(logger, tmp_path):
    builder = trt.Builder(logger)
    network, _parser = parse(trt, builder, logger, str(graph(tmp_path / "m.onnx")), ("STRONGLY_TYPED",))
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert (network.num_inputs, network.get_input(0).name) == (1, "pixels")


@pytest.mark.parametrize("half", [False, True])
def test_half_precision_in_the_graph_is_seen(half, logger, tmp_path):
    network, _parser = parse(trt, trt.Builder(logger), logger, str(graph(tmp_path / "m.onnx", half=half)))
    assert holds_half(trt, network) is half


def test_what_the_parser_refuses_has_node_operator_and_words(logger, tmp_path):
    path = graph(tmp_path / "m.onnx", operator="NoSuchOperator")
    with pytest.raises(Refused) as refused:
        parse(trt, trt.Builder(logger), logger, str(path))
    assert (refused.value.node, refused.value.operator) == ("rectify", "NoSuchOperator")
    assert refused.value.plain["text"]


def test_a_file_that_is_no_graph_is_refused(logger, tmp_path):
    (tmp_path / "m.onnx").write_text("not a graph")
    with pytest.raises(Refused, match=r".+"):
        parse(trt, trt.Builder(logger), logger, str(tmp_path / "m.onnx"))


def test_the_configuration_has_the_profile_the_flags_and_the_limit(logger, tmp_path):
    builder = trt.Builder(logger)
    network, _parser = parse(trt, builder, logger, str(graph(tmp_path / "m.onnx")))
    flags = {"TF32": False, "STRICT_NANS": True}
    config = configure(trt, builder, network, Profile((1, 2, 16), (8, 8)), flags, workspace=1 << 28)
    assert (config.get_flag(trt.BuilderFlag.TF32), config.get_flag(trt.BuilderFlag.STRICT_NANS)) == (False, True)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 28
    assert config.num_optimization_profiles == 1
    usual = configure(trt, builder, network, Profile((1, 1, 16), (8, 8)), {})
    assert usual.get_flag(trt.BuilderFlag.TF32)


def test_the_engine_is_bytes_and_its_memory_is_stated(logger, tmp_path):
    builder = trt.Builder(logger)
    network, _parser = parse(trt, builder, logger, str(graph(tmp_path / "m.onnx")))
    engine = serialize(builder, network, configure(trt, builder, network, Profile((1, 1, 16), (8, 8)), {}), logger)
    assert len(engine) > 1000
    weights, activation, scratch = stated(logger.lines)
    assert min(weights, activation, scratch) >= 0
    assert max(weights, activation, scratch) > 0


def test_a_builder_that_refuses_says_why(logger, tmp_path):
    builder = trt.Builder(logger)
    network, _parser = parse(trt, builder, logger, str(graph(tmp_path / "m.onnx")))
    # Sixteen is the least batch, and eight the largest.
    config = configure(trt, builder, network, Profile((16, 16, 8), (8, 8)), {})
    with pytest.raises(Refused, match=r".+"):
        serialize(builder, network, config, logger)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ((-1, 224, 160, 3), ((1, 224, 160, 3), (2, 224, 160, 3), (16, 224, 160, 3))),
        ((-1, -1, -1, 3), ((1, 32, 48, 3), (2, 32, 48, 3), (16, 32, 48, 3))),
        ((1, -1, 1096), ((1, 1, 1096), (1, 2, 1096), (1, 16, 1096))),  # the features of so many patches
    ],
)
def test_a_profile_keeps_what_the_graph_fixes(declared, expected):
    assert Profile((1, 2, 16), (32, 48)).shapes(declared) == expected


def test_memory_that_is_not_stated_is_nought():
    assert stated(["Total Weights Memory: 12 bytes", "Total Weights Memory: 34 bytes", "noise"]) == (34, 0, 0)
