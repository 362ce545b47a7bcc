import platform

import numpy as np
import onnx
import pytest

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize import fused
from edgedet.quantize.draft import Draft
from edgedet.quantize.model import quantize
from edgedet.quantize.ranges import find_ranges

X86 = target.load("cpu-x86")
on_x86 = pytest.mark.skipif(platform.machine() not in X86.machines, reason="the kernels of an x86 CPU")


@on_x86
def test_every_convolution_and_addition_runs_on_integers(residual_net: onnx.ModelProto, pixels) -> None:
    found = fused.operators(quantize(residual_net, X86, lambda: [pixels]).model)
    assert found["QLinearConv/nhwc"] == 6
    assert found["QLinearAdd"] == 2
    assert fused.integer_layers(found) == 6
    # Nothing is quantized at run time, and one tensor leaves the integers: the features before the pooling.
    assert found["QuantizeLinear"] == 0
    assert found["DequantizeLinear"] == 1
    assert not any(found[name] for name in ("Conv", "FusedConv", "Cast", "Relu", "Sub", "Mul"))


@on_x86
def test_clipped_activations_hidden_layers_and_pooling_fuse_too(make_net, pixels, run) -> None:
    net = make_net()
    plain = net.conv("x", 3, 16, "stem", relu=False)
    capped = net.op("Clip", plain, net.constant(np.float32(0)), net.constant(np.float32(6)), name="relu6")
    pooled = net.op("MaxPool", net.conv(capped, 16, 16, "body"), name="max", kernel_shape=[4, 4], strides=[4, 4])
    hidden = net.op("Relu", net.linear(net.op("Flatten", pooled, name="flat"), 256, 32, "hidden"), name="active")
    net.op("Reshape", net.linear(hidden, 32, 1, "head"), net.constant([-1]), name="logit")
    model = net.model("logit")
    result = quantize(model, X86, lambda: [pixels])
    found = fused.operators(result.model)
    assert fused.integer_layers(found) == 3
    assert found["QGemm"] == 1
    assert found["Clip"] == found["Relu"] == 0
    assert "3 of 3 quantized layers run on integer kernels, 1 Q/DQ left" in result.notes
    assert np.corrcoef(run(model, pixels), run(result.model, pixels))[0, 1] > 0.98


@on_x86
def test_a_gated_network_keeps_its_gates_in_float_and_its_logits(make_net, pixels, run) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    model = net.finish(net.conv(net.gate(stem, 16, "gated"), 16, 16, "after"), 16)
    result = quantize(model, X86, lambda: [pixels])
    found = fused.operators(result.model)
    assert found["QLinearConv/nhwc"] + found["QLinearConv"] == 2
    # The gate's two convolutions, each with the activation behind it, in float.
    assert found["Conv"] == 2
    assert "2 Conv left in float: gate that multiplies features" in result.notes
    assert np.corrcoef(run(model, pixels), run(result.model, pixels))[0, 1] > 0.98


def test_a_graph_without_layers_cannot_be_quantized(make_net, pixels) -> None:
    net = make_net()
    net.op("Reshape", net.linear(net.pool("x"), 3, 1, "head"), net.constant([-1]), name="logit")
    with pytest.raises(QuantizeError, match="nothing to quantize in this graph: 1 Gemm left in float: last linear layer"):
        quantize(net.model("logit"), X86, lambda: [pixels])


@on_x86
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_that_is_kept_in_float_between_integer_ones_stays_so(make_net, pixels, run, has_bias: bool) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    weight = net.random.normal(0, 0.1, (16, 16, 3, 3))
    weight[:, 0] *= 100  # what 8 bits for the whole tensor would ruin
    bias = [net.constant(net.random.normal(0, 0.1, 16))] if has_bias else []
    kept = net.op("Relu", net.op("Conv", stem, net.constant(weight), *bias, name="kept", pads=[1] * 4), name="active")
    model = net.finish(net.conv(kept, 16, 16, "after"), 16)
    draft = Draft.of(model, X86.int8)
    draft = draft.ranged(find_ranges(draft.model, draft.plan.observed, lambda: [pixels])).keeping(["kept"])
    written = draft.write()
    onnx.checker.check_model(written, full_check=True)
    found = fused.operators(written)
    # ONNX Runtime would make it a third QLinearConv otherwise.
    assert found["QLinearConv/nhwc"] + found["QLinearConv"] == 2
    assert found["Conv"] + found["FusedConv"] == 1
    # As accurate as the graph without any fusion, where a float layer is one.
    plain = run(written, pixels, "kept")
    assert run(draft.write("kept"), pixels, "kept") == pytest.approx(plain, abs=1e-4 * float(abs(plain).max()))
