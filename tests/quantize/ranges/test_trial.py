"""Ranges judged by what they do to the logit, and a published trap: an outlier-heavy layer that 128-bin entropy ruins."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

from edgedet import target
from edgedet.quantize.draft import Draft
from edgedet.quantize.judge import Judge, LogitError
from edgedet.quantize.ranges import Histogram, observe
from edgedet.quantize.ranges.trial import CHOICES, Choice, try_all
from edgedet.quantize.session import opened

Pixels = npt.NDArray[np.uint8]
GREY, DEVIATION = 128, 7.3
"""Of the pixels. Black and white ones are then 28 and 30 deviations away, once three channels are added up."""


@pytest.fixture
def outlier_net(make_net) -> onnx.ModelProto:
    """A layer `wide` whose outputs are N(0, 1) each and nearly alike, and a layer behind it that reads their differences."""
    net = make_net(mean=(GREY / 255,) * 3, std=(GREY / 255,) * 3)
    weight = np.ones((16, 3)) / 3**0.5 + 0.15 * net.random.normal(size=(16, 3))
    weight *= GREY / DEVIATION / np.linalg.norm(weight, axis=1, keepdims=True)
    net.op("Conv", "x", net.constant(weight[:, :, None, None]), net.constant(np.zeros(16)), name="wide")
    differences = net.random.normal(size=(16, 16, 1, 1))
    differences -= differences.mean(axis=1, keepdims=True)
    net.op("Conv", "wide", net.constant(differences), net.constant(np.zeros(16)), name="mix_conv")
    return net.finish(net.conv(net.op("Relu", "mix_conv", name="mix"), 16, 16, "deep"), 16)


def noise(seed: int, count: int) -> Pixels:
    random = np.random.default_rng(seed)
    return np.clip(np.round(GREY + DEVIATION * random.normal(size=(count, 16, 16, 3))), 0, 255).astype(np.uint8)


@pytest.fixture
def found_on() -> Pixels:
    """Images to find ranges on: noise, with one white pixel and one nearly black one."""
    pixels = noise(0, 32)
    pixels[0, 3, 3], pixels[0, 9, 9] = 255, 10
    return pixels


@pytest.fixture
def judge(outlier_net: onnx.ModelProto) -> Judge:
    held_out = noise(1, 64)
    middle = np.median(opened(outlier_net)(held_out)[0])
    return Judge(outlier_net, lambda: [held_out], lambda logits: logits > middle)


@pytest.fixture(params=["cpu-x86", "rtx-3090"])
def draft(request: pytest.FixtureRequest, outlier_net: onnx.ModelProto) -> Draft:
    scheme = target.load(request.param).int8
    assert scheme is not None
    return Draft.of(outlier_net, scheme)


@pytest.fixture
def histograms(draft: Draft, found_on: Pixels) -> dict[str, Histogram]:
    return observe(draft.model, draft.plan.observed, lambda: [found_on])


class Reader(CalibrationDataReader):
    def __init__(self, pixels: Pixels) -> None:
        self.batches = iter([{"pixels": part} for part in np.split(pixels, 4)])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self.batches, None)


def ranges_of_onnxruntime(model: onnx.ModelProto, pixels: Pixels, folder: Path) -> dict[str, tuple[float, float]]:
    """What ONNX Runtime's entropy calibrator finds with its defaults: 128 bins for 128 levels."""
    onnx.save(model, folder / "model.onnx")
    calibrator = create_calibrator(
        folder / "model.onnx",
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Entropy,
    )
    calibrator.collect_data(Reader(pixels))
    found = calibrator.compute_data().data
    return {name: tuple(float(np.squeeze(end)) for end in data.range_value) for name, data in found.items()}


def test_entropy_with_128_bins_keeps_the_outliers_and_ruins_the_logit(
    outlier_net: onnx.ModelProto, draft: Draft, histograms: dict[str, Histogram], judge: Judge, found_on: Pixels, tmp_path: Path
) -> None:
    theirs = ranges_of_onnxruntime(outlier_net, found_on, tmp_path)
    assert theirs["wide"] == pytest.approx((-28, 30), abs=1.5)
    ours = Choice("entropy").ranged(draft, histograms)
    assert max(np.abs(ours.ranges["wide"])) < 6
    # The same graph but for that layer's range.
    spread = float(np.std(opened(outlier_net)(noise(1, 64))[0]))
    ruined, kept = (
        judge(draft.ranged({**ours.ranges, "wide": found}).write()) for found in (theirs["wide"], ours.ranges["wide"])
    )
    assert ruined.mean > 0.25 * spread
    assert kept.mean < 0.4 * ruined.mean


def test_the_best_of_all_methods_is_found_on_held_out_images(
    draft: Draft, histograms: dict[str, Histogram], judge: Judge
) -> None:
    tried = try_all(draft, histograms, judge)
    errors = {str(choice): judge(choice.ranged(draft, histograms).write()).mean for choice in CHOICES}
    assert [str(each.choice) for each in tried] == sorted(errors, key=errors.__getitem__)
    assert tried[0].error.mean < 0.25 * errors["minmax"]


def test_flips_decide_between_equal_errors() -> None:
    assert LogitError(0.5, 3.0, 1, 10).order < LogitError(0.5, 1.0, 2, 10).order < LogitError(0.6, 1.0, 0, 10).order
