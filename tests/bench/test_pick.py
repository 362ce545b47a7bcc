"""Which runtime is taken is decided on samples that are given: nothing here depends on how fast this machine is."""

import numpy as np
import pytest

from edgedet.bench import pick
from edgedet.bench.scenarios import Comparison
from edgedet.bench.statistics import Samples
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.runtime import base


def compared(**medians: float) -> Comparison:
    """Twenty rounds of ten calls around each median, in ms, with a tenth of noise and a neighbour in half of the rounds."""
    rng = np.random.default_rng(0)
    neighbour = np.repeat(rng.choice([1.0, 3.0], 20), 10)
    timed = {
        name: Samples((ms * 1e6 * neighbour * rng.normal(1, 0.1, 200)).astype(np.int64), np.repeat(np.arange(20), 10))
        for name, ms in medians.items()
    }
    return Comparison(next(iter(medians)), timed, {})


@pytest.mark.parametrize(
    ("medians", "taken"),
    [
        ({"onnxruntime": 2.0, "openvino": 1.4}, "openvino"),
        ({"onnxruntime": 2.0, "openvino": 2.0}, "onnxruntime"),  # no faster for certain: the default stays
        ({"onnxruntime": 2.0, "openvino": 3.0}, "onnxruntime"),
        ({"onnxruntime": 2.0, "openvino": 1.4, "third": 1.0}, "third"),
    ],
)
def test_another_runtime_is_taken_when_its_whole_interval_is_faster(medians, taken):
    found = pick.decided(compared(**medians), {})
    assert found.runtime == taken
    for name, ratio in found.ratios.items():
        assert ratio.low <= medians["onnxruntime"] / medians[name] <= ratio.high


def test_the_choice_is_said_with_its_ratio_and_its_reasons():
    found = pick.decided(compared(onnxruntime=2.0, openvino=1.0), {"third": "has 2 graphs, this runtime runs one"})
    ratio = found.ratios["openvino"]
    assert str(found) == (
        f"runs on openvino: openvino is {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times as fast as onnxruntime; "
        "third is left out: has 2 graphs, this runtime runs one"
    )


def test_one_that_cannot_load_is_left_out_and_alone_nothing_is_timed():
    def load(name):
        if name == "openvino":
            raise ArtifactError("does not accept it")
        return lambda: None

    found = pick.among(load, "onnxruntime", ["openvino"])
    assert (found.runtime, found.ratios, found.left_out) == ("onnxruntime", {}, {"openvino": "does not accept it"})


def test_without_the_default_there_is_no_choice():
    def load(name):
        raise RuntimeUnavailable("not installed")

    with pytest.raises(RuntimeUnavailable):
        pick.among(load, "onnxruntime", ["openvino"])


def test_a_kind_with_one_runtime_is_not_timed(make_onnx_artifact, monkeypatch):
    monkeypatch.setattr(base, "missing", lambda package: "not here" if package == "openvino" else "")
    found = pick.fastest(make_onnx_artifact(), [], threads=1)
    assert str(found) == "runs on onnxruntime: there is no other runtime for it here"
