"""OpenVINO gives what ONNX Runtime gives, from the same file."""

import numpy as np
import pytest

pytest.importorskip("openvino")

from edgedet.errors import ArtifactError
from edgedet.runtime import base

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_it_gives_the_logits_of_onnx_runtime(make_onnx_artifact, batch):
    artifact, pixels = make_onnx_artifact(), np.resize(PIXELS, (batch, 8, 8, 3))
    expected = base.load(artifact, threads=1).run(pixels)
    found = base.load(artifact, runtime="openvino", threads=1).run(pixels)
    assert list(found) == list(expected)
    np.testing.assert_allclose(found["logit"], expected["logit"], rtol=1e-5, atol=1e-5)


def test_its_answers_are_its_own_and_outlive_the_next_call(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), runtime="openvino", threads=1)
    first = runtime.run(PIXELS)["logit"]
    before = first.copy()
    runtime.run(255 - PIXELS)
    np.testing.assert_array_equal(first, before)


def test_it_says_how_it_runs_and_is_never_chosen_by_itself(make_onnx_artifact):
    artifact = make_onnx_artifact()
    about = base.load(artifact, runtime="openvino", threads=1).describe()
    assert (about["runtime"], about["device"], about["threads"]) == ("openvino", "CPU", 1)
    assert base.choose(artifact) == "onnxruntime"


def test_pixels_that_the_graph_does_not_take_are_an_error(make_onnx_artifact):
    runtime = base.load(make_onnx_artifact(), runtime="openvino", threads=1)
    with pytest.raises(ArtifactError, match=r"refuses uint8 pixels of shape \(3, 8, 8, 4\)"):
        runtime.run(np.zeros((3, 8, 8, 4), np.uint8))


def test_a_graph_without_our_interface_is_refused(make_onnx_artifact):
    with pytest.raises(ArtifactError, match="`logit` as first output, got 1 inputs and probability"):
        base.load(make_onnx_artifact(output="probability"), runtime="openvino", threads=1)


def test_a_damaged_graph_is_refused_by_name(make_onnx_artifact, tmp_path):
    from edgedet.runtime.base import Options
    from edgedet.runtime.openvino import OpenVino

    broken = tmp_path / "m.onnx"
    broken.write_bytes(make_onnx_artifact().graph.read_bytes()[:-40])
    with pytest.raises(ArtifactError, match=r"m\.onnx: OpenVINO .* does not accept it"):
        OpenVino(broken, Options(1))
