import numpy as np
import pytest
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.export.anchor import untrained
from edgedet.models import structure
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess

SPEC = DetectorSpec(name="edge32", arguments={"width": 16})
INPUT = Preprocess(height=32, width=32)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_an_untrained_checkpoint_says_so_and_rebuilds_to_the_bit(tmp_path):
    made = untrained(tmp_path / "a", SPEC, INPUT)
    assert (made.manifest.kind, made.manifest.detector, made.manifest.notes) == (
        "checkpoint",
        SPEC,
        ("untrained: for latency only",),
    )
    golden = made.golden
    with torch.inference_mode():
        logits = models.build(made)(torch.from_numpy(golden.pixels)).numpy()
    np.testing.assert_allclose(logits, golden.logits, atol=1e-6)


def test_its_statistics_are_those_of_the_photographs_and_its_weights_those_of_the_seed(tmp_path):
    first, second = (untrained(tmp_path / name, SPEC, INPUT) for name in "ab")
    np.testing.assert_array_equal(first.golden.logits, second.golden.logits)
    means = [value for name, value in models.build(first).net.state_dict().items() if name.endswith("running_mean")]
    assert means
    assert all(value.abs().max() > 0 for value in means)


def test_a_network_that_was_changed_first_keeps_its_structure(tmp_path):
    def halve(model: PixelModel) -> None:
        structure.apply(model.net, {"features.1.0": [8, 16, 1], "features.1.1": [8], "features.2.0": [32, 8, 1]})

    made = untrained(tmp_path / "a", SPEC, INPUT, change=halve)
    assert made.manifest.structure == {"features.1.0": [8, 16, 1], "features.1.1": [8], "features.2.0": [32, 8, 1]}
    assert models.build(made).net.features[1][0].out_channels == 8


def test_an_unknown_detector_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no detector is called 'edge33'"):
        untrained(tmp_path / "a", DetectorSpec(name="edge33"), INPUT)


def test_norms_without_a_scale_are_settled_like_the_others(tmp_path):
    spec = DetectorSpec(name="cvt13-mlp", arguments={"depths": [1, 1, 1], "widths": [64, 64, 64]})
    state = models.build(untrained(tmp_path / "a", spec, INPUT)).net.state_dict()
    assert state["backbone.stages.0.blocks.0.attention.query.norm.running_mean"].abs().max() > 0
    assert "head.hidden.1.weight" not in state
