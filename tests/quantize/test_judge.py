import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from edgedet.errors import QuantizeError
from edgedet.quantize.judge import Judge, LogitError

Pixels = npt.NDArray[np.uint8]


def shifted(model: onnx.ModelProto, bias: float) -> onnx.ModelProto:
    """`model` whose logits are higher by `bias`."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    head = next(node for node in other.graph.node if node.name == "head")
    tensor = next(tensor for tensor in other.graph.initializer if tensor.name == head.input[2])
    tensor.CopyFrom(numpy_helper.from_array(np.full(1, bias, np.float32), tensor.name))
    return other


def test_errors_and_flips_are_those_of_all_logits_at_once(residual_net: onnx.ModelProto, pixels: Pixels, run) -> None:
    logits = run(residual_net, pixels)
    threshold = float(np.median(logits))
    judge = Judge(residual_net, lambda: [pixels[:5], pixels[5:]], lambda logits: logits > threshold)
    assert judge(residual_net) == LogitError(0.0, 0.0, 0, 16)
    error = judge(shifted(residual_net, 0.25))
    assert (error.mean, error.largest) == pytest.approx((0.25, 0.25), abs=1e-5)
    assert error.flips == ((logits + 0.25 > threshold) != (logits > threshold)).sum()
    assert error.flip_rate == error.flips / 16
    assert error.figures == {"mean_error": error.mean, "max_error": error.largest, "flips": error.flips, "n": 16}


def test_an_encoder_is_judged_by_the_logits_made_of_its_features(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    judge = Judge(residual_net, lambda: [pixels[:4], pixels[4:]], finish=lambda features: 3 * features.mean(keepdims=True))
    error = judge(shifted(residual_net, 0.25))
    assert error.n == 2  # images of four and of twelve patches
    assert error.mean == pytest.approx(0.75, abs=1e-5)


def test_a_logit_that_is_not_finite_is_infinitely_far(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    judge = Judge(residual_net, lambda: [pixels])
    assert judge(shifted(residual_net, float("nan"))).mean == float("inf")
    assert judge(shifted(residual_net, 5.0)).order < judge(shifted(residual_net, float("nan"))).order


def test_a_float_graph_without_finite_logits_judges_nothing(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    with pytest.raises(QuantizeError, match="full-precision graph gives logits that are not finite"):
        Judge(shifted(residual_net, float("inf")), lambda: [pixels])


def test_without_images_nothing_can_be_judged(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="no held-out images"):
        Judge(residual_net, lambda: [])
