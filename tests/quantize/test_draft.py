import numpy as np
import onnx
import pytest

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize.draft import Draft
from edgedet.quantize.qdq import count_pairs
from edgedet.quantize.ranges import find_ranges

X86 = target.load("cpu-x86").int8


@pytest.fixture(params=["cpu-x86", "rtx-3090"])
def draft(request: pytest.FixtureRequest, residual_net: onnx.ModelProto, pixels) -> Draft:
    draft = Draft.of(residual_net, target.load(request.param).int8)
    found = find_ranges(draft.model, draft.plan.observed, lambda: [pixels], symmetric=draft.scheme.symmetric)
    return draft.ranged(found)


def test_any_part_can_stay_in_float_with_the_same_ranges(draft: Draft) -> None:
    for name in draft.plan.weights:
        for part in (draft.keeping([name]), draft.only([name])):
            written = part.write()
            onnx.checker.check_model(written, full_check=True)
            weights = [node for node in written.graph.node if node.name.endswith("_weight_dequantized")]
            assert len(weights) == len(part.plan.weights) in (1, 5)
    assert count_pairs(draft.keeping(list(draft.plan.weights)).write()) == 0


def test_a_graph_is_written_as_far_as_it_is_needed(draft: Draft, pixels, run) -> None:
    part = draft.write("one_conv")
    assert [value.name for value in part.graph.output] == ["one_conv"]
    assert {node.op_type for node in part.graph.node if node.name in draft.plan.weights} == {"Conv"}
    assert sum(node.name in draft.plan.weights for node in part.graph.node) == 2
    # Its fused kernels round a little differently than those of the whole graph with one more output.
    whole = run(draft.write(), pixels, "one_conv")
    assert run(part, pixels, "one_conv") == pytest.approx(whole, abs=0.02 * float(abs(whole).max()))


def test_what_passes_values_on_takes_their_range(make_net, pixels) -> None:
    net = make_net()
    deepest = net.op("MaxPool", net.conv("x", 3, 8, "stem"), name="max", kernel_shape=[2, 2], strides=[2, 2])
    model = net.finish(net.conv(deepest, 8, 8, "next"), 8)
    draft = Draft.of(model, X86)
    draft = draft.ranged(find_ranges(draft.model, draft.plan.observed, lambda: [pixels]))
    assert draft.ranges["max"] == draft.ranges["stem"]
    # With the first convolution in float the pooling's output is a tensor of its own, and has its range already.
    onnx.checker.check_model(draft.keeping(["stem_conv"]).write(), full_check=True)


@pytest.mark.parametrize(("zero", "std", "exact"), [(128, 0.5, True), (128, (0.5, 0.4, 0.5), False), (127.5, 0.5, False)])
def test_signed_pixels_are_rounded_only_where_they_must_be(make_net, pixels, run, zero, std, exact: bool) -> None:
    net = make_net(mean=(zero / 255,) * 3, std=std if isinstance(std, tuple) else (std,) * 3)
    model = net.finish(net.conv("x", 3, 16, "stem"), 16)
    draft = Draft.of(model, target.load("rtx-3090").int8)
    draft = draft.ranged(find_ranges(draft.model, draft.plan.observed, lambda: [pixels], symmetric=True))
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    rounding = np.abs(run(draft.write("stem_conv"), every, "x_dequantized") - run(model, every, "x")).max()
    assert (rounding < 1e-5) == exact


def test_the_float_graph_is_not_changed(residual_net: onnx.ModelProto) -> None:
    before = residual_net.SerializeToString(deterministic=True)
    Draft.of(residual_net, X86)
    assert residual_net.SerializeToString(deterministic=True) == before


def test_without_ranges_nothing_is_written(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="no range was found"):
        Draft.of(residual_net, X86).write()
