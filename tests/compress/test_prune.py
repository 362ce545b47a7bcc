import msgspec
import numpy as np
import pytest
import torch
from tiny_training import SIDE
from torch import nn

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.compress import prune
from edgedet.compress.prune import PruneRecipe, protected_layers, remove
from edgedet.errors import NothingToPrune, RecipeError, TrainingError
from edgedet.models import structure
from edgedet.models.blocks import StyleRecalibration
from edgedet.models.pixels import PixelModel
from edgedet.models.ram import ResidualAttention
from edgedet.training import stage
from edgedet.training.config import TrainingConfig

RECIPE = PruneRecipe(
    stage="prune", keep=0.6, steps=2, round_to=8, training=TrainingConfig(epochs=1, batch_size=16, lr=0.01, amp=False)
)


@pytest.fixture(scope="module")
def pruned(teacher, data, tmp_path_factory) -> Artifact:
    return prune.run(RECIPE, teacher, data, tmp_path_factory.mktemp("pruned") / "pruned")


def test_a_pruned_network_is_rebuilt_from_its_structure_to_the_bit(pruned):
    assert pruned.manifest.structure
    golden = pruned.golden
    with torch.inference_mode():
        logits = models.build(Artifact.load(pruned.path))(torch.from_numpy(golden.pixels)).numpy()
    np.testing.assert_array_equal(logits, golden.logits)
    assert not [name for name in pruned.manifest.files if name.endswith((".pt", ".pth", ".pkl"))]


def test_the_promised_share_is_left_and_widths_suit_the_kernels(pruned, teacher):
    before, after = prune.macs(models.build(teacher)), prune.macs(models.build(pruned))
    assert 0 < after <= 0.6 * before
    assert pruned.manifest.metrics["cost"] == {"kind": "macs", "before": before, "after": after}
    widths = [m.out_channels for m in models.build(pruned).net.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert pruned.model_bytes < teacher.model_bytes


def test_the_manifest_says_what_was_left_alone_and_what_each_step_left(pruned, teacher):
    assert pruned.manifest.notes[0] == "head: not pruned: the output"
    assert [note.split(":")[0] for note in pruned.manifest.notes[1:]] == ["step 1", "step 2"]
    assert pruned.manifest.gates == teacher.manifest.gates
    assert (pruned.manifest.stage, pruned.manifest.parent.digest) == ("prune", teacher.digest)


def test_a_pruning_stopped_between_steps_goes_on_where_it_was(pruned, teacher, data, tmp_path, monkeypatch):
    taught = stage.train
    calls = []

    def dies_before_the_second_step(*arguments, **options):
        calls.append(options["title"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return taught(*arguments, **options)

    monkeypatch.setattr(stage, "train", dies_before_the_second_step)
    with pytest.raises(KeyboardInterrupt):
        prune.run(RECIPE, teacher, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(stage, "train", taught)
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        prune.run(msgspec.structs.replace(RECIPE, keep=0.8), teacher, data, tmp_path / "out", resume=True)
    again = prune.run(RECIPE, teacher, data, tmp_path / "out", resume=True)
    assert again.manifest.structure == pruned.manifest.structure
    np.testing.assert_array_equal(again.golden.logits, pruned.golden.logits)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_target_out_of_reach_is_refused_with_the_layers_and_the_reasons(teacher, data, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, keep=0.01, steps=1, max_layer_share=0.1)
    with pytest.raises(NothingToPrune, match=r"protected: head \(the output\); raise keep or max_layer_share"):
        prune.run(recipe, teacher, data, tmp_path / "out")


def test_a_latency_target_needs_what_measures_it(teacher, data, tmp_path):
    with pytest.raises(RecipeError, match="needs the function that measures it"):
        prune.run(msgspec.structs.replace(RECIPE, cost="latency"), teacher, data, tmp_path / "out")


def test_any_cost_can_be_the_target(teacher, data, tmp_path):
    def parameters(model) -> float:
        return float(structure.count_parameters(model.net))

    recipe = msgspec.structs.replace(RECIPE, cost="latency", steps=1)
    made = prune.run(recipe, teacher, data, tmp_path / "out", cost=parameters)
    assert parameters(models.build(made)) <= 0.6 * parameters(models.build(teacher))


def test_layers_are_left_alone_for_a_reason():
    net = nn.Sequential()
    net.head = nn.Linear(8, 1)
    net.depthwise = nn.Conv2d(16, 16, 3, groups=16)
    net.grouped = nn.Conv2d(16, 16, 3, groups=4)
    net.narrow = nn.Conv2d(16, 3, 1)
    net.free = nn.Conv2d(16, 16, 3)
    reasons = protected_layers(net, "edge32")
    assert reasons.keys() == {"head", "depthwise", "grouped", "narrow"}
    assert reasons["depthwise"].startswith("depthwise: its channels are those of the layer before it")
    assert reasons["grouped"].startswith("grouped convolution")
    assert reasons["narrow"] == "only 3 channels"


def narrowed(spec: DetectorSpec, side: int, share: float = 0.9) -> tuple[nn.Module, nn.Module]:
    """A fresh network and the same after one removal."""
    torch.manual_seed(0)
    before, net = models.create(spec), models.create(spec)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    net.eval()
    whole = structure.count_parameters(net)
    config = msgspec.structs.replace(RECIPE, importance="random", max_layer_share=0.5)
    remove(
        net, torch.zeros(1, 3, side, side), config, protected_layers(net, spec.name),
        lambda: structure.count_parameters(net) <= share * whole,
    )  # fmt: skip
    return before, net


@pytest.mark.parametrize(("name", "side"), [("edge32-teacher", 16), ("npr", 32), ("resnet50", 32), ("ram-net", 32)])
def test_each_family_still_runs_and_comes_back_from_its_structure(name, side):
    spec = DetectorSpec(name=name)
    before, net = narrowed(spec, side)
    found = structure.difference(net, before)
    assert found
    again = models.rebuild(spec, found).eval()
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(again(x), net(x))


def test_a_spatial_gate_keeps_its_two_channels_while_those_around_it_go():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3, padding=1)
            self.attention = ResidualAttention(32, reduction=2)
            self.head = nn.Linear(32, 1)

        def forward(self, x):
            return self.head(self.attention(self.conv(x)).mean((2, 3)))

    net = Gated().eval()
    protected = protected_layers(net, "edge32")
    assert protected["attention.spatial.conv"].startswith("spatial gate: reads two channels")
    config = msgspec.structs.replace(RECIPE, max_layer_share=0.5)
    remove(net, torch.zeros(1, 3, 8, 8), config, protected, lambda: net.conv.out_channels <= 24)
    assert net.attention.spatial.conv.weight.shape == (1, 2, 7, 7)
    assert net.attention.channel.expand.out_channels == net.conv.out_channels <= 24
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 1)


def test_style_recalibration_loses_rows_not_its_two_statistics():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), StyleRecalibration(32), nn.Conv2d(32, 16, 3), nn.Flatten())
    net.head = nn.Linear(16 * 4 * 4, 1)
    config = msgspec.structs.replace(RECIPE, max_layer_share=0.5)
    remove(net.eval(), torch.zeros(1, 3, 8, 8), config, protected_layers(net, "edge32"), lambda: net[0].out_channels <= 24)
    assert net[1].weight.shape == (net[0].out_channels, 2)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 1)


def test_macs_are_those_of_one_image(teacher):
    model = models.build(teacher)
    assert (model.preprocess.height, model.preprocess.width) == (SIDE, SIDE)
    first = model.net.features[0][0]
    # The stem alone: 8 x 8 positions at stride 2, each output channel 3 x 3 x 3 products.
    stem = prune.macs(PixelModel(nn.Sequential(first), model.preprocess))
    assert stem == 8 * 8 * 16 * 27
