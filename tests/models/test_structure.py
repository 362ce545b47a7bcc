import pytest
import torch
from torch import nn

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import WEIGHTS, Artifact, DetectorSpec, Manifest
from edgedet.errors import ArtifactError, ModelError
from edgedet.models import structure

SPEC = DetectorSpec(name="edge32", arguments={"width": 16})


def narrower() -> nn.Module:
    """An edge32 whose second convolution has lost half of its sixteen channels."""
    net = models.create(SPEC)
    net.features[1][0] = nn.Conv2d(16, 8, 3, 1, 1, bias=False)
    net.features[1][1] = nn.BatchNorm2d(8)
    net.features[2][0] = nn.Conv2d(8, 32, 3, 2, 1, bias=False)
    return net


def test_difference_holds_the_changed_layers_alone():
    found = structure.difference(narrower(), models.create(SPEC))
    assert found == {"features.1.0": [8, 16, 1], "features.1.1": [8], "features.2.0": [32, 8, 1]}
    assert structure.difference(models.create(SPEC), models.create(SPEC)) == {}


def test_a_narrower_network_comes_back_from_its_structure_and_weights():
    net = narrower().eval()
    again = models.rebuild(SPEC, structure.difference(net, models.create(SPEC)))
    assert structure.describe(again) == structure.describe(net)
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), net(x))


def test_layers_keep_their_class_and_what_it_adds():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Doubled(3, 8, 3, stride=2, padding="valid", dilation=2), nn.LayerNorm(7), nn.Linear(7, 4))
    structure.apply(net, {"0": [4, 3, 1], "1": [5], "2": [2, 5]})
    assert type(net[0]) is Doubled
    assert structure.describe(net) == {"0": [4, 3, 1], "1": [5], "2": [2, 5]}
    assert net(torch.zeros(1, 3, 13, 13)).shape == (1, 4, 5, 2)


def test_grouped_and_depthwise_widths_round_trip():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8))
    structure.apply(net, {"0": [4, 4, 4], "1": [4]})
    assert net[0].weight.shape == (4, 1, 3, 3)
    assert net(torch.zeros(1, 4, 5, 5)).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"features.9.0": [8, 8, 1]}, "layer 'features.9.0', which this detector does not have"),
        ({"features.1.0": [8]}, r"widths \[8\], which do not fit a Conv2d"),
        ({"features.1.2": [8]}, r"which do not fit a ReLU"),
    ],
)
def test_a_structure_of_another_network_is_refused(widths, message):
    with pytest.raises(ModelError, match=message):
        models.rebuild(SPEC, widths)


def write(path, state, **manifest) -> Artifact:
    from safetensors.torch import save_file

    with artifacts.writing(path) as draft:
        save_file(state, draft.path / WEIGHTS)
        given = {"kind": "checkpoint", "stage": "train", "detector": SPEC, "preprocess": models.lookup("edge32").preprocess}
        draft.manifest = Manifest(**{**given, **manifest})
    return Artifact.load(path)


def test_weights_of_another_width_are_refused_by_name_and_shape(tmp_path):
    other = models.create(DetectorSpec(name="edge32", arguments={"width": 8})).state_dict()
    with pytest.raises(ModelError, match=r"do not fit edge32: .* is \(8,.*expected \(16,"):
        models.build(write(tmp_path / "a", other))


def test_a_missing_tensor_is_named(tmp_path):
    state = models.create(SPEC).state_dict()
    state.pop("head.bias")
    with pytest.raises(ModelError, match=r"missing head\.bias"):
        models.build(write(tmp_path / "a", state))


def test_only_checkpoints_have_a_network(tmp_path):
    with pytest.raises(ArtifactError, match="expected a checkpoint"):
        models.build(write(tmp_path / "a", models.create(SPEC).state_dict(), kind="onnx"))
