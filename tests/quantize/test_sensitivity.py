"""A network in which INT8 destroys one known block: it must be found first, and reverted alone."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize.draft import Draft
from edgedet.quantize.graph import GraphView
from edgedet.quantize.judge import Judge, LogitError
from edgedet.quantize.placement import place
from edgedet.quantize.ranges import find_ranges
from edgedet.quantize.sensitivity import MixedGate, Step, blocks, pareto, rank_blocks, revert_until

Pixels = npt.NDArray[np.uint8]
BOTH = pytest.mark.parametrize("name", ["cpu-x86", "rtx-3090"])
GATE = MixedGate(max_error=0.4, max_flips=None)
"""Half of the logits' spread; INT8 costs less where nothing is planted, and twelve times the spread where something is."""


def conv(net, x: str, name: str, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> str:
    net.op("Conv", x, net.constant(weight), net.constant(bias), name=f"{name}_conv", pads=[1, 1, 1, 1])
    return net.op("Relu", f"{name}_conv", name=name)


def planted(make_net, *, weight: float = 0.0, value: float = 0.0) -> onnx.ModelProto:
    """Four layers and a head with an outlier channel in the third, `bad`: its weights for channel 0, or that channel's values.

    In full precision neither matters: where the weights are large the channel is always zero, where its values are large the
    weights are zero.
    """
    net = make_net(mean=(128 / 255,) * 3, std=(128 / 255,) * 3)
    x, inputs = "x", 3
    for name in ("one", "two", "bad", "four"):
        kernel = net.random.normal(0, (2 / (9 * inputs)) ** 0.5, (16, inputs, 3, 3))
        bias = net.random.normal(0, 0.1, 16)
        if name == "two":
            kernel[0], bias[0] = 0, value or -1
        if name == "bad":
            kernel[:, 0] = weight
        x, inputs = conv(net, x, name, kernel, bias), 16
    mean = net.op("ReduceMean", x, net.constant(np.array([2, 3])), name="mean", keepdims=0)
    head = net.op("Gemm", mean, net.constant(4 * net.random.normal(size=(1, 16))), net.constant([0.0]), name="head", transB=1)
    return net.model(net.op("Reshape", head, net.constant([-1]), name="logit"))


def draft_of(model: onnx.ModelProto, name: str, pixels: Pixels) -> Draft:
    draft = Draft.of(model, target.load(name).int8)
    return draft.ranged(find_ranges(draft.model, draft.plan.observed, lambda: [pixels], symmetric=draft.scheme.symmetric))


@BOTH
def test_a_block_with_ruined_weights_is_found_first_and_reverted_alone(name: str, make_net, pixels: Pixels) -> None:
    model = planted(make_net, weight=1000.0)
    draft, judge = draft_of(model, name, pixels[:8]), Judge(model, lambda: [pixels[8:]])
    assert judge(draft.write()).mean > 1
    ranked = rank_blocks(draft, judge)
    assert ranked[0].block == ("bad_conv",)
    assert ranked[0].error.mean > 20 * ranked[1].error.mean
    steps = revert_until(draft, judge, ranked, GATE)
    assert [step.nodes for step in steps] == [[], ["bad_conv"]]
    assert not GATE.holds(steps[0].error)
    assert GATE.holds(steps[-1].error)
    assert set(steps[-1].draft.plan.weights) == {"one_conv", "two_conv", "four_conv"}
    assert "1 Conv left in float: INT8 would cost too much there (mixed precision)" in steps[-1].draft.plan.notes()


def test_a_block_with_ruined_inputs_is_found_first_and_reverted_alone(make_net, pixels: Pixels) -> None:
    model = planted(make_net, value=1000.0)
    draft, judge = draft_of(model, "rtx-3090", pixels[:8]), Judge(model, lambda: [pixels[8:]])
    steps = revert_until(draft, judge, rank_blocks(draft, judge), GATE)
    assert [step.nodes for step in steps] == [[], ["bad_conv"]]


def test_where_outputs_are_quantized_too_both_ends_of_a_ruined_tensor_are_reverted(make_net, pixels: Pixels) -> None:
    model = planted(make_net, value=1000.0)
    draft, judge = draft_of(model, "cpu-x86", pixels[:8]), Judge(model, lambda: [pixels[8:]])
    steps = revert_until(draft, judge, rank_blocks(draft, judge), GATE)
    assert set(steps[-1].nodes) == {"two_conv", "bad_conv"}
    assert len(steps) == 3


@BOTH
def test_a_gate_that_holds_reverts_nothing(name: str, make_net, pixels: Pixels) -> None:
    model = planted(make_net)
    draft, judge = draft_of(model, name, pixels[:8]), Judge(model, lambda: [pixels[8:]])
    (step,) = revert_until(draft, judge, rank_blocks(draft, judge), GATE)
    assert step.reverted == ()


def test_a_gate_that_no_mix_holds_is_refused(make_net, pixels: Pixels) -> None:
    model = planted(make_net)
    draft, judge = draft_of(model, "cpu-x86", pixels[:8]), Judge(model, lambda: [pixels[8:]])
    with pytest.raises(QuantizeError, match=r"no layer can stay in INT8: .*: train with fake quantization, or loosen `mixed`"):
        revert_until(draft, judge, rank_blocks(draft, judge), MixedGate(max_error=0.0))


def test_layers_that_meet_in_a_quantized_addition_are_one_block(residual_net: onnx.ModelProto) -> None:
    view = GraphView(residual_net)
    x86, tensorrt = target.load("cpu-x86").int8, target.load("rtx-3090").int8
    assert blocks(view, place(view, x86)) == [
        ("stem_conv",), ("one_conv",), ("two", "shortcut"), ("three_conv",), ("four",)
    ]  # fmt: skip
    # TensorRT's addition reads one side quantized: the other may stay in float.
    assert all(len(block) == 1 for block in blocks(view, place(view, tensorrt)))


def test_limits_are_of_flips_and_of_the_mean_error() -> None:
    gate = MixedGate(max_flips=0.01, max_error=0.1)
    assert gate.holds(LogitError(0.1, 9.0, 1, 100))
    assert not gate.holds(LogitError(0.11, 9.0, 0, 100))
    assert not gate.holds(LogitError(0.0, 0.0, 2, 100))
    assert MixedGate(max_flips=None, max_error=0.1).holds(LogitError(0.1, 9.0, 50, 100))
    with pytest.raises(ValueError, match="`max_flips`, `max_error` or both"):
        MixedGate(max_flips=None, max_error=None)


def test_a_step_that_brings_nothing_is_not_on_the_pareto_list(make_net, pixels: Pixels) -> None:
    draft = draft_of(planted(make_net), "cpu-x86", pixels)
    steps = [
        Step(tuple((str(n),) for n in range(count)), draft, LogitError(mean, 1.0, flips, 100))
        for count, (mean, flips) in enumerate([(0.5, 9), (0.6, 1), (0.5, 8), (0.5, 8), (0.1, 8)])
    ]
    assert [len(step.reverted) for step in pareto(steps)] == [0, 2, 4]
