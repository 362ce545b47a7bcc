import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet.quantize.session import cut, opened

Pixels = npt.NDArray[np.uint8]


def test_any_tensor_can_be_read_and_the_outputs_when_none_is_named(residual_net: onnx.ModelProto, pixels: Pixels, run) -> None:
    stem, logit = opened(residual_net, ["stem", "logit"])(pixels)
    assert stem == pytest.approx(run(residual_net, pixels, "stem"), abs=1e-5)
    assert logit == pytest.approx(run(residual_net, pixels), abs=1e-5)
    (alone,) = opened(residual_net, threads=1)(pixels)
    assert np.array_equal(alone, logit) or alone == pytest.approx(logit, abs=1e-5)


def test_only_what_is_needed_is_left(residual_net: onnx.ModelProto) -> None:
    part = cut(residual_net, ["one", "stem", "one"])
    assert [value.name for value in part.graph.output] == ["one", "stem"]
    assert [node.name for node in part.graph.node if node.op_type == "Conv"] == ["stem_conv", "one_conv"]
    assert len(part.graph.initializer) == len({name for node in part.graph.node for name in node.input if "constant" in name})


def test_the_graph_itself_is_left_alone(residual_net: onnx.ModelProto) -> None:
    before = residual_net.SerializeToString(deterministic=True)
    cut(residual_net, ["stem"])
    assert cut(residual_net, []) is residual_net
    assert residual_net.SerializeToString(deterministic=True) == before
