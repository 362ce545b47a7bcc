import msgspec
import numpy as np
import pytest
import torch
from tiny_networks import lively
from torch import nn

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, Gate
from edgedet.compress import prune
from edgedet.compress.cost import latency
from edgedet.compress.prune import PruneRecipe
from edgedet.data.dataset import open_set
from edgedet.data.index import UNLABELLED, Index
from edgedet.errors import DataError, NothingToPrune, RecipeError, TrainingError
from edgedet.models import structure
from edgedet.models.bayes import BayesianResNet
from edgedet.models.blocks import Gated, SpatialGate
from edgedet.models.macs import macs
from edgedet.models.pixels import PixelModel
from edgedet.models.variational import BayesianLinear
from edgedet.preprocess import Preprocess
from edgedet.training import stage
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import label_loss

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
    before, after = macs(models.build(teacher)), macs(models.build(pruned))
    assert 0 < after <= 0.6 * before
    assert pruned.manifest.metrics["cost"] == {"kind": "macs", "before": before, "after": after}
    widths = [m.out_channels for m in models.build(pruned).net.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert pruned.model_bytes < teacher.model_bytes


def test_what_is_planned_is_what_is_made(teacher, data, tmp_path):
    once = msgspec.structs.replace(RECIPE, steps=1)
    made = prune.run(once, teacher, data, tmp_path / "once")
    assert prune.planned(once, teacher) == made.manifest.structure != {}
    for undecided in ({"steps": 2}, {"importance": "taylor"}, {"importance": "random"}, {"min_gain": 0.1}, {"depth": 0.5}):
        assert prune.planned(msgspec.structs.replace(once, **undecided), teacher) is None


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
    gate = Gate(metric="balanced_accuracy", against="absolute", min_value=0.0)  # may be mended in between
    again = prune.run(msgspec.structs.replace(RECIPE, gates=(gate,)), teacher, data, tmp_path / "out", resume=True)
    assert gate in again.manifest.gates
    assert again.manifest.structure == pruned.manifest.structure
    np.testing.assert_array_equal(again.golden.logits, pruned.golden.logits)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_target_out_of_reach_is_refused_with_the_layers_and_the_reasons(teacher, data, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, keep=0.01, steps=1, max_layer_share=0.1)
    with pytest.raises(NothingToPrune, match=r"protected: head \(the output\); .*of 48 channels 10% may go, 8 at a time"):
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


def test_pruning_ends_before_the_step_that_takes_nothing_off_the_latency(pruned, teacher, data, tmp_path):
    times = iter([10.0, 8.0, 8.0, 7.95])  # before and after each of two steps
    recipe = msgspec.structs.replace(RECIPE, min_gain=0.02)
    made = prune.run(recipe, teacher, data, tmp_path / "out", clock=lambda _: next(times))
    assert made.manifest.notes[-2:] == (
        "step 1: 0.772 of the parent's macs left",
        "step 2: undone, and the last: it took 0.6% off the latency, not 2.0%",
    )
    assert macs(models.build(made)) > macs(models.build(pruned))
    slower = iter([1.0, 1.1])
    with pytest.raises(NothingToPrune, match=r"does not pay here: it took -10\.0% off the latency, not 2\.0%"):
        prune.run(recipe, teacher, data, tmp_path / "none", clock=lambda _: next(slower))


def test_the_latency_before_and_after_a_step_is_measured_here(teacher, data, tmp_path):
    measured = []

    def clock(model) -> float:
        measured.append(latency(model))
        return 1 / len(measured)  # a busy machine may say that less work takes longer

    recipe = msgspec.structs.replace(RECIPE, steps=1, keep=0.3, min_gain=0.01)
    made = prune.run(recipe, teacher, data, tmp_path / "out", clock=clock)
    assert made.manifest.notes[-1].startswith("step 1: 0.")
    assert len(measured) == 2
    assert min(measured) > 0


def test_taylor_reads_the_images_that_have_a_label(teacher, data):
    rows = [msgspec.structs.replace(row, label=UNLABELLED) if n % 3 else row for n, row in enumerate(data.split("train").rows)]
    recipe = msgspec.structs.replace(RECIPE, importance="taylor", images=100)
    model = models.build(teacher)
    images = open_set(Index(data.root, tuple(rows)), model.preprocess)
    (loss,) = prune._losses(images, model.preprocess, recipe)(model.net)
    known = [n for n in range(len(rows)) if n % 3 == 0]
    pixels, labels = torch.from_numpy(images.gather(np.array(known))), torch.tensor([float(rows[n].label) for n in known])
    torch.testing.assert_close(loss, label_loss(model(pixels), labels, recipe.training))
    bare = open_set(Index(data.root, tuple(msgspec.structs.replace(row, label=UNLABELLED) for row in rows)), model.preprocess)
    with pytest.raises(DataError, match="32 of 32 images have no label"):
        prune._losses(bare, model.preprocess, recipe)


def test_taylor_reads_training_images_and_is_the_same_again(teacher, data, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, importance="taylor", images=20, steps=1)
    one, two = (prune.run(recipe, teacher, data, tmp_path / name) for name in ("one", "two"))
    assert one.manifest.structure == two.manifest.structure != {}
    np.testing.assert_array_equal(one.golden.logits, two.golden.logits)
    other = prune.run(msgspec.structs.replace(recipe, importance="magnitude"), teacher, data, tmp_path / "other")
    assert other.manifest.structure != one.manifest.structure or not np.array_equal(other.golden.logits, one.golden.logits)


def small(name: str, size: int, **arguments) -> tuple[DetectorSpec, PixelModel]:
    """A detector with fresh weights at a small input."""
    spec = DetectorSpec(name=name, arguments=arguments)
    torch.manual_seed(0)
    preprocess = msgspec.structs.replace(models.lookup(name).preprocess, height=size, width=size)
    return spec, PixelModel(lively(models.create(spec)), preprocess).eval()


VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
SWIN = {"img_size": 56, "depths": [2, 2], "num_heads": [2, 4], "embed_dim": 32}
FAMILIES = [
    ("edge32-teacher", 16, {}),
    ("npr", 32, {}),
    ("npr-final", 32, {}),
    ("npr-student", 32, {}),
    ("ram-net", 32, {}),
    ("gram-net", 32, {}),
    ("cvit-compact", 32, {"side": 32}),
    ("ladeda", 32, {}),
    ("efficientnet-lite0", 32, {}),
    ("timm/mobilenetv4_conv_small", 32, {}),
    ("timm/test_efficientnet", 32, {}),
    ("timm/vit_tiny_patch16_224", 32, VIT),
    ("timm/swin_tiny_patch4_window7_224", 56, SWIN),
]


@pytest.mark.parametrize(("name", "side", "arguments"), FAMILIES)
def test_each_family_costs_less_and_comes_back_from_its_structure_to_the_bit(name, side, arguments):
    spec, model = small(name, side, **arguments)
    whole = macs(model)
    reasons = prune.narrow(
        model, name, msgspec.structs.replace(RECIPE, importance="random"), lambda candidate: macs(candidate) <= 0.7 * whole
    )
    assert 0.4 * whole < macs(model) <= 0.7 * whole
    assert reasons[models.lookup(name).classifier] == "the output"
    found = structure.difference(model.net, models.create(spec))
    again = PixelModel(models.rebuild(spec, found), model.preprocess).eval()
    again.net.load_state_dict(model.net.state_dict())
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again(pixels), model(pixels))


def test_a_bayesian_layer_loses_inputs_with_their_deviations_and_samples():
    torch.manual_seed(0)
    trunk = nn.Conv2d(3, 32, 3)
    net = BayesianResNet(trunk, Gated(SpatialGate(3)), BayesianLinear(32, samples=5))
    before = net.head.weight_draws
    model = PixelModel(net, Preprocess(height=8, width=8)).eval()
    prune.narrow(model, "resnet50-sa-bnn", RECIPE, lambda candidate: candidate.net.trunk.out_channels <= 24)
    left = model.net.trunk.out_channels
    assert left <= 24
    head = model.net.head
    assert (head.in_features, head.weight.shape, head.weight_rho.shape) == (left, (2, left), (2, left))
    # Whole columns of samples are left, in their order.
    columns = [column for column in range(32) if (before[:, :, column, None] == head.weight_draws).all(0).all(0).any()]
    assert torch.equal(before[:, :, columns], head.weight_draws)
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(model.deployed()(pixels), model(pixels))


def test_heads_and_hidden_widths_go_by_default_and_the_embedding_when_it_is_asked_for():
    for dims in (RECIPE.dims, ("embedding",)):
        _, model = small("timm/vit_tiny_patch16_224", 32, **VIT)
        whole = macs(model)
        config = msgspec.structs.replace(RECIPE, dims=dims)
        prune.narrow(model, "timm/vit_tiny_patch16_224", config, lambda candidate, whole=whole: macs(candidate) <= 0.7 * whole)
        block = model.net.blocks[0]
        assert (block.norm1.normalized_shape == (48,)) is ("embedding" not in dims)
        assert (block.mlp.fc1.out_features == 192) is ("embedding" in dims)
        assert block.attn.head_dim == 16


def test_what_has_one_multiple_alone_is_left_alone_for_that_reason():
    _, model = small("cifake-cnn-srm", 32)
    config = msgspec.structs.replace(RECIPE, max_layer_share=0.5)
    whole = macs(model)
    reasons = prune.narrow(model, "cifake-cnn-srm", config, lambda candidate: macs(candidate) < whole)
    assert reasons == {"head": "the output", "conv1": "of 6 channels 50% may go, 8 at a time"}


def test_an_importance_that_says_nothing_is_a_reason():
    _, model = small("timm/vit_tiny_patch16_224", 32, **VIT)
    config = msgspec.structs.replace(RECIPE, importance="bn-scale")
    with pytest.raises(NothingToPrune, match=r"blocks\.0\.attn \(bn-scale says nothing of it\)"):
        prune.narrow(model, "timm/vit_tiny_patch16_224", config, lambda _: False)
