"""Depth: which blocks are residual, how much they change, and that a shorter network is rebuilt from its structure."""

import msgspec
import pytest
import torch
from tiny_networks import lively
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress import depth, prune
from edgedet.compress.prune import PruneRecipe
from edgedet.errors import NothingToPrune
from edgedet.models import structure
from edgedet.training.config import TrainingConfig

VIT = DetectorSpec(name="timm/vit_tiny_patch16_224", arguments={"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3})
SWIN = DetectorSpec(
    name="timm/swin_tiny_patch4_window7_224",
    arguments={"img_size": 56, "depths": [2, 2], "num_heads": [2, 4], "embed_dim": 32},
)


@pytest.mark.parametrize(
    ("spec", "side", "expected"),
    [
        (VIT, 32, ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]),
        (SWIN, 56, [f"layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]),
        # The first block of a stage halves the resolution.
        (DetectorSpec(name="edge32-teacher", arguments={"width": 16}), 32, ["features.2", "features.4", "features.6"]),
        (DetectorSpec(name="timm/resnet18"), 64, [f"layer{stage}.1" for stage in (2, 3, 4)]),
        (DetectorSpec(name="edge32", arguments={"width": 16}), 32, []),  # plain
    ],
)
def test_blocks_with_a_shortcut_are_found_by_trial(spec, side, expected):
    net = models.create(spec)
    found = depth.blocks(net, torch.randn(1, 3, side, side))
    assert [name for name in found if name not in ("layer1.0", "layer1.1")] == expected


class Row(nn.Module):
    """Three residual blocks that add nothing, a little, and much."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Adds(size) for size in (0.0, 0.1, 3.0)))

    def forward(self, x):
        return self.blocks(x).mean((1, 2, 3))


class Adds(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(size))

    def forward(self, x):
        return x + self.by * x.flip(-1)


def test_the_influence_of_a_block_is_how_far_it_turns_what_goes_through_it():
    torch.manual_seed(0)
    net, images = Row(), torch.randn(10, 3, 4, 4)
    names = depth.blocks(net, images[:1])
    assert names == ["blocks.0", "blocks.1", "blocks.2"]
    found = depth.influence(net, names, images.split(4))
    x = images
    for name, block in net.blocks.named_children():
        with torch.no_grad():
            y = block(x)
        cosines = [float(a.flatten() @ b.flatten() / a.norm() / b.norm()) for a, b in zip(x, y, strict=True)]
        assert found[f"blocks.{name}"] == pytest.approx(1 - sum(cosines) / 10, abs=1e-5)
        x = y
    assert depth.shorten(net, found, 0.4) == ["blocks.0", "blocks.1"]
    assert [type(block).__name__ for block in net.blocks] == ["Removed", "Removed", "Adds"]
    assert depth.shorten(net, {"blocks.2": 0.5}, 0.1) == []  # the last one stays


def test_a_shorter_transformer_is_rebuilt_from_its_structure():
    torch.manual_seed(0)
    net = lively(models.create(VIT))
    structure.apply(net, {"blocks.1": [], "blocks.3": []})
    made = structure.difference(net, models.create(VIT))
    assert made == {"blocks.1": [], "blocks.3": []}
    again = structure.apply(models.create(VIT), made)
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), net.eval()(x))


def test_the_stage_takes_blocks_out_before_it_narrows_what_is_left(teacher, data, tmp_path):
    training = TrainingConfig(epochs=1, batch_size=16, lr=0.01, amp=False)
    recipe = PruneRecipe(stage="prune", keep=0.9, depth=0.5, steps=1, training=training)
    with pytest.raises(NothingToPrune, match="has no residual block"):
        prune.run(recipe, teacher, data, tmp_path / "plain")
    from tiny_training import RECIPE, train_stage

    spec = DetectorSpec(name="edge32-teacher", arguments={"width": 16})
    residual = train_stage(data, tmp_path / "residual", msgspec.structs.replace(RECIPE, detector=spec))
    made = prune.run(recipe, residual, data, tmp_path / "out")
    gone = [name for name, widths in made.manifest.structure.items() if not widths]
    assert len(gone) == 1
    assert made.manifest.notes[0] == f"taken out whole: {gone[0]}"
    assert structure.count_parameters(models.build(made).net) < structure.count_parameters(models.build(residual).net)
