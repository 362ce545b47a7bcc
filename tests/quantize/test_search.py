import platform

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet import target
from edgedet.errors import QuantizeError
from edgedet.quantize.draft import Draft
from edgedet.quantize.judge import Judge
from edgedet.quantize.model import quantize
from edgedet.quantize.ranges import observe
from edgedet.quantize.ranges.trial import CHOICES
from edgedet.quantize.sample import Images
from edgedet.quantize.search import QuantizeOptions
from edgedet.quantize.sensitivity import MixedGate

Pixels = npt.NDArray[np.uint8]
X86, RTX = target.load("cpu-x86"), target.load("rtx-3090")
on_x86 = pytest.mark.skipif(platform.machine() not in X86.machines, reason="times the kernels of an x86 CPU")


@pytest.fixture
def images(pixels: Pixels) -> Images:
    return Images(ranges=lambda: [pixels[:6], pixels[6:10]], few=lambda: [pixels[:4]], held_out=lambda: [pixels[10:]])


@pytest.fixture
def delicate(make_net) -> onnx.ModelProto:
    """Three layers; INT8 ruins the weights of the second, `bad`."""
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    weight = net.random.normal(0, 0.1, (16, 16, 3, 3))
    weight[:, 0] = 1000.0
    bias = np.zeros(16)
    net.op("Mul", stem, net.constant(np.r_[0.0, np.ones(15)].reshape(1, 16, 1, 1)), name="masked")
    net.op("Conv", "masked", net.constant(weight), net.constant(bias), name="bad_conv", pads=[1] * 4)
    return net.finish(net.conv(net.op("Relu", "bad_conv", name="bad"), 16, 16, "last"), 16)


def test_by_default_nothing_is_tried_and_batches_are_enough(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    result = quantize(residual_net, X86, lambda: [pixels])
    assert set(result.figures) <= {"gain", "needs_vnni"}  # what INT8 gains is measured where the target is this machine
    assert not any("held-out" in note for note in result.notes)


@pytest.mark.parametrize("aim", [X86, RTX], ids=["cpu-x86", "rtx-3090"])
def test_auto_takes_the_method_that_is_best_on_held_out_images(
    aim: target.Target, residual_net: onnx.ModelProto, images: Images, pixels: Pixels
) -> None:
    result = quantize(residual_net, aim, images, QuantizeOptions(ranges="auto"))
    whole = Draft.of(residual_net, aim.int8)
    histograms = observe(whole.model, whole.plan.observed, images.ranges)
    judge = Judge(residual_net, lambda: [pixels[10:]])
    errors = {str(choice): judge(choice.ranged(whole, histograms).write()).mean for choice in CHOICES}
    table = result.figures["ranges"]
    assert {row["ranges"]: row["mean_error"] for row in table} == errors
    assert judge(result.model).mean == table[0]["mean_error"] == min(errors.values())
    assert result.figures["held_out"]["mean_error"] == table[0]["mean_error"]
    (note,) = (note for note in result.notes if note.startswith("ranges by "))
    assert note.startswith(f"ranges by {table[0]['ranges']}: mean logit error ")
    assert "on 6 held-out images, of 5 methods between" in note


def test_corrected_biases_are_kept_only_when_they_are_better(
    residual_net: onnx.ModelProto, images: Images, pixels: Pixels
) -> None:
    judge = Judge(residual_net, lambda: [pixels[10:]])
    plain, corrected, best = (
        quantize(residual_net, X86, images, QuantizeOptions(bias_correction=wanted)) for wanted in (False, True, "auto")
    )
    found = best.figures["bias_correction"]
    assert found["before"]["mean_error"] == judge(plain.model).mean
    assert found["after"]["mean_error"] == judge(corrected.model).mean
    assert found["kept"] == (judge(corrected.model).order < judge(plain.model).order)
    assert judge(best.model).order == min(judge(plain.model).order, judge(corrected.model).order)
    assert "biases corrected in 6 of 6 layers" in corrected.notes


def test_what_is_rounded_is_known_with_corrected_biases_too(residual_net: onnx.ModelProto, images: Images) -> None:
    plain, corrected = (
        quantize(residual_net, X86, images, QuantizeOptions(bias_correction=wanted)) for wanted in (False, True)
    )
    moved = {name for name, value in plain.floats.items() if not np.array_equal(value, corrected.floats[name])}
    assert moved == {name for name in plain.floats if name.endswith("_bias_dequantized")}


def test_mixed_precision_reverts_what_breaks_the_gate_and_lists_what_it_costs(
    delicate: onnx.ModelProto, images: Images
) -> None:
    result = quantize(delicate, X86, images, QuantizeOptions(mixed=MixedGate(max_error=0.2)))
    found = result.figures["mixed"]
    assert found["gate"] == {"max_flips": 0.01, "max_error": 0.2}
    assert found["alone"][0]["block"] == ["bad_conv"]
    (why,) = found["reverted"]
    assert why["layer"] == "bad_conv"
    assert why["widest_weights"] > 1000
    assert any(note.startswith("bad_conv: the widest input channel is") for note in result.notes)
    none, one = found["pareto"]
    assert (none["blocks_in_float"], one["blocks_in_float"]) == (0, 1)
    assert one["layers_in_float"] == ["bad_conv"]
    assert one["mean_error"] < 0.2 < none["mean_error"]
    assert none["estimated_time"] == pytest.approx(0.25)
    assert 0.25 < one["estimated_time"] < 1
    assert "estimated share" in found["how"]
    assert result.figures["held_out"]["mean_error"] == one["mean_error"]
    assert any(note.startswith("mixed precision: 1 of 3 layers in float (bad_conv); mean logit error") for note in result.notes)
    assert msgspec.json.decode(msgspec.json.encode(result.figures)) == result.figures


def test_ranges_and_biases_are_decided_again_for_what_stays_in_int8(delicate: onnx.ModelProto, images: Images) -> None:
    options = QuantizeOptions(ranges="auto", bias_correction="auto", mixed=MixedGate(max_error=0.02, max_flips=None))
    result = quantize(delicate, X86, images, options)
    # With the ruined layer quantized all methods are alike, and alike bad.
    assert result.figures["mixed"]["pareto"][0]["mean_error"] > 0.3
    assert all(row["mean_error"] < 0.1 for row in result.figures["ranges"])
    assert result.figures["bias_correction"]["before"]["mean_error"] == result.figures["ranges"][0]["mean_error"]
    assert result.figures["held_out"]["mean_error"] <= result.figures["ranges"][0]["mean_error"] <= 0.02
    assert len([note for note in result.notes if note.startswith("ranges by")]) == 1


@on_x86
def test_mixes_for_this_machine_are_timed_and_others_are_not(delicate: onnx.ModelProto, images: Images) -> None:
    options = QuantizeOptions(mixed=MixedGate(max_error=0.2, max_flips=None))
    here, there = (quantize(delicate, aim, images, options).figures["mixed"] for aim in (X86, RTX))
    assert here["float_ms"] > 0
    assert all(row["measured_ms"] > 0 for row in here["pareto"])
    assert there["float_ms"] is None
    assert not any("measured_ms" in row for row in there["pareto"])


def test_a_gate_that_holds_leaves_all_in_int8(residual_net: onnx.ModelProto, images: Images) -> None:
    result = quantize(residual_net, X86, images, QuantizeOptions(mixed=MixedGate(max_error=10.0, max_flips=None)))
    assert "mixed" not in result.figures
    assert result.figures["held_out"]["n"] == 6


def test_without_images_held_out_nothing_can_be_decided(residual_net: onnx.ModelProto, pixels: Pixels) -> None:
    for options in (
        QuantizeOptions(ranges="auto"),
        QuantizeOptions(bias_correction="auto"),
        QuantizeOptions(mixed=MixedGate()),
    ):
        assert options.judges
        with pytest.raises(QuantizeError, match="needs held-out images"):
            quantize(residual_net, X86, lambda: [pixels], options)
    assert not QuantizeOptions(bias_correction=True).judges
