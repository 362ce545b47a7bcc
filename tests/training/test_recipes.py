"""The recipes of train/, held against the detectors that they train."""

import functools

import pytest
import torch

from edgedet import models, recipe
from edgedet.artifact import DetectorSpec
from edgedet.models.table import HALF, IMAGENET_MEAN
from edgedet.training import freezing
from edgedet.training.config import Phase
from edgedet.training.stage import TrainRecipe, adjusted


def stage_of(name: str) -> str:
    path = recipe.find("train", name)
    return str(recipe.parse(path.read_text(encoding="utf-8"), dict, source=name)["stage"])


RECIPES = [name for name in recipe.names("train") if stage_of(name) == "train"]


@functools.cache
def read(name: str) -> TrainRecipe:
    path = recipe.find("train", name)
    return recipe.parse(path.read_text(encoding="utf-8"), TrainRecipe, source=str(path))


def outline(spec: DetectorSpec) -> torch.nn.Module:
    """The network without weights."""
    arguments = {key: value for key, value in spec.arguments.items() if key != "pretrained"}
    with torch.device("meta"):
        return models.create(DetectorSpec(name=spec.name, arguments=arguments))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_detector_and_trains_a_part_of_it(name):
    config = read(name)
    net = outline(config.detector)
    freezing.check(net, config.training)
    preprocess = adjusted(models.lookup(config.detector.name).preprocess, config.preprocess)
    assert config.training.augment.margin == 0 or preprocess.geometry != "native"


def learned(name: str, phase: Phase) -> set[str]:
    """The names of what is trained."""
    config = read(name)
    net = outline(config.detector)
    kept = freezing.frozen(net, config.training.freeze, phase).parameters
    return {key for key, _ in net.named_parameters() if key not in kept}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vit-b16-mlp", {"head"}),
        ("vit-b16-cnn", {"head", "convolutions", "project", "token_weight", "convolution_weight"}),
        ("swin-tiny-mlp", {"head"}),
        ("cvt13-mlp", {"head"}),
    ],
)
def test_the_transformers_of_tiny_genimage_keep_their_backbones(name, parts):
    assert {key.partition(".")[0] for key in learned(name, Phase())} == parts


def test_attention_is_trained_before_the_last_ten_layers_of_its_backbone():
    first, second = read("effnetv2-b0-attention").training.phases
    before, after = learned("effnetv2-b0-attention", first), learned("effnetv2-b0-attention", second)
    assert {key.partition(".")[0] for key in before} == {"attention", "hidden", "head"}
    assert {key.removeprefix("backbone.") for key in after - before} == {
        *(f"blocks.5.7.se.conv_{layer}.{part}" for layer in ("reduce", "expand") for part in ("weight", "bias")),
        "blocks.5.7.conv_pwl.weight",
        "conv_head.weight",
    }


def test_the_five_experiments_of_group_10():
    names = ("resnet101", "resnet101-plain", "vit-small", "swin-tiny", "resnet101-augmented")
    runs = {name: read(name).training for name in names}
    assert {(run.epochs, run.batch_size, run.lr, run.weight_decay) for run in runs.values()} == {(10, 64, 1e-4, 0.01)}
    assert [name for name, run in runs.items() if run.augment.rotation] == ["resnet101", "resnet101-augmented"]
    assert [name for name, run in runs.items() if run.loss == "focal"] == ["resnet101"]
    # As the source normalises, and as the pretrained weights expect it.
    assert read("vit-small").preprocess["mean"] == list(IMAGENET_MEAN)
    assert models.lookup("vit-small").preprocess.mean == HALF
