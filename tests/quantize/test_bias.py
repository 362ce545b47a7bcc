import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize.bias import add_to_bias, bias_holder, channel_means, correct
from edgedet.quantize.draft import Draft
from edgedet.quantize.graph import GraphView
from edgedet.quantize.judge import Judge
from edgedet.quantize.ranges import find_ranges

Pixels = npt.NDArray[np.uint8]


def draft_of(model: onnx.ModelProto, name: str, pixels: Pixels) -> Draft:
    draft = Draft.of(model, target.load(name).int8)
    found = find_ranges(draft.model, draft.plan.observed, lambda: [pixels], method="minmax", symmetric=draft.scheme.symmetric)
    return draft.ranged(found)


@pytest.fixture
def rounded_down(make_net) -> onnx.ModelProto:
    """A network whose rounding is no noise: each weight of `two` lies just below half a step, so that all are rounded down."""
    net = make_net(mean=(128 / 255,) * 3, std=(128 / 255,) * 3)
    stem = net.conv("x", 3, 16, "stem")
    weight = np.full((16, 16, 1, 1), 10.45 / 127)
    weight[np.arange(16), np.arange(16)] = 1.0
    net.op("Conv", stem, net.constant(weight), net.constant(np.zeros(16)), name="two_conv")
    return net.finish(net.conv(net.op("Relu", "two_conv", name="two"), 16, 16, "three"), 16)


@pytest.mark.parametrize("name", ["cpu-x86", "rtx-3090"])
def test_the_mean_of_every_layer_is_the_float_one_again(name: str, rounded_down: onnx.ModelProto, pixels: Pixels) -> None:
    draft = draft_of(rounded_down, name, pixels)
    layers = ["stem_conv", "two_conv", "three_conv"]

    def shifts(draft: Draft) -> dict[str, float]:
        """The largest difference of a channel's mean to the float graph's, in standard deviations of the layer's means."""
        found = {}
        for layer in layers:
            expected = channel_means(rounded_down, [layer], lambda: [pixels])[layer]
            actual = channel_means(draft.write(layer), [layer], lambda: [pixels])[layer]
            found[layer] = float(np.abs(actual - expected).max() / expected.std())
        return found

    before, after = shifts(draft), shifts(correct(draft, lambda: [pixels[:8], pixels[8:]]).draft)
    assert before["two_conv"] > 0.1
    assert after["two_conv"] < 0.05 * before["two_conv"]
    assert max(after.values()) < 0.02


@pytest.mark.parametrize("name", ["cpu-x86", "rtx-3090"])
def test_correction_lowers_the_logit_error_on_other_images(name: str, rounded_down: onnx.ModelProto, pixels: Pixels) -> None:
    draft = draft_of(rounded_down, name, pixels[:10])
    judge = Judge(rounded_down, lambda: [pixels[10:]])
    corrected = correct(draft, lambda: [pixels[:10]])
    assert corrected.skipped == ()
    assert judge(corrected.draft.write()).mean < 0.5 * judge(draft.write()).mean


def test_biases_keep_their_types(rounded_down: onnx.ModelProto, pixels: Pixels) -> None:
    for name, kind in (("cpu-x86", np.int32), ("rtx-3090", np.float32)):
        written = correct(draft_of(rounded_down, name, pixels), lambda: [pixels]).draft.write()
        onnx.checker.check_model(written, full_check=True)
        view = GraphView(written)
        bias = view.by_name["two_conv"].input[2]
        holder = view.producer(bias)
        value = view.constant(bias if holder is None else holder.input[0])
        assert value is not None
        assert value.dtype == kind
        assert np.abs(value).max() > 0


def test_channel_means_are_those_of_everything_in_memory(residual_net: onnx.ModelProto, pixels: Pixels, run) -> None:
    found = channel_means(residual_net, ["sum", "pooled"], lambda: [pixels[:3], pixels[3:]])
    assert found["sum"] == pytest.approx(run(residual_net, pixels, "sum").mean(axis=(0, 2, 3)), abs=1e-5)
    assert found["pooled"] == pytest.approx(run(residual_net, pixels, "pooled").mean(axis=0), abs=1e-5)


def token_net(make_net, *, added: npt.NDArray[np.float64] | None) -> onnx.ModelProto:
    """Tokens (B, 64, 16) through a MatMul, with `added` to its result, as vision transformers have it."""
    net = make_net()
    stem = net.conv("x", 3, 16, "stem", stride=2)
    tokens = net.op("Transpose", net.op("Reshape", stem, net.constant([0, 16, 64]), name="flat"), name="tokens", perm=[0, 2, 1])
    mixed = net.op("MatMul", tokens, net.constant(net.random.normal(0, 0.25, (16, 32))), name="mixed")
    if added is not None:
        mixed = net.op("Add", net.constant(added), mixed, name="biased")
    active = net.op("Relu", mixed, name="active")
    mean = net.op("ReduceMean", active, net.constant(np.array([1])), name="mean", keepdims=0)
    return net.model(net.op("Reshape", net.linear(mean, 32, 1, "head"), net.constant([-1]), name="logit"))


def test_a_matmul_has_its_bias_in_the_addition_behind_it(make_net, pixels: Pixels) -> None:
    model = token_net(make_net, added=np.zeros(32))
    node, position = bias_holder(GraphView(model), "mixed")
    assert (node.name, position) == ("biased", 0)
    draft = draft_of(model, "rtx-3090", pixels)
    assert "mixed" in draft.plan.weights
    changed = correct(draft, lambda: [pixels]).draft
    for tensor in ("biased", "active"):
        expected = channel_means(model, [tensor], lambda: [pixels])[tensor]
        actual = channel_means(changed.write(tensor), [tensor], lambda: [pixels])[tensor]
        assert actual == pytest.approx(expected, abs=0.01 * float(np.abs(expected).max()))


@pytest.mark.parametrize("added", [None, np.zeros((64, 32)), np.zeros(1)])
def test_a_matmul_without_such_an_addition_is_skipped(make_net, pixels: Pixels, added) -> None:
    model = token_net(make_net, added=added)
    assert bias_holder(GraphView(model), "mixed") is None
    assert correct(draft_of(model, "rtx-3090", pixels), lambda: [pixels]).skipped == ("mixed",)
    with pytest.raises(QuantizeError, match="mixed has no bias to correct"):
        add_to_bias(model, "mixed", np.ones(32))


def test_a_layer_without_a_bias_gets_one(make_net, pixels: Pixels, run) -> None:
    net = make_net()
    net.op("Conv", "x", net.constant(net.random.normal(size=(16, 3, 1, 1))), name="plain")
    model = net.finish(net.op("Relu", "plain", name="active"), 16)
    shift = np.arange(16.0)
    changed = add_to_bias(model, "plain", shift)
    assert run(changed, pixels, "plain") == pytest.approx(run(model, pixels, "plain") + shift[:, None, None], abs=1e-4)


def test_without_images_there_is_nothing_to_correct_on(rounded_down: onnx.ModelProto, pixels: Pixels) -> None:
    with pytest.raises(QuantizeError, match="no images to correct biases on"):
        correct(draft_of(rounded_down, "cpu-x86", pixels), lambda: [])
