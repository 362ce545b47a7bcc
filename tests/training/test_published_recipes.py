"""Recipes that must agree with each other, or with what their papers say."""

import pytest

from edgedet import models, recipe
from edgedet.artifact import DetectorSpec
from edgedet.training.losses import smooth
from edgedet.training.schedules import learning_rate
from edgedet.training.stage import TrainRecipe

torch = pytest.importorskip("torch")

ABLATIONS = ("ram-net", "ram-net-sequential", "ram-net-channel", "ram-net-spatial", "ram-net-noresidual", "resnet50-faces")
STUDY = (*ABLATIONS, "xception", "gram-net", "cvit-compact", "cvit-conv")


def read(name: str) -> TrainRecipe:
    return recipe.load("train", name, TrainRecipe, [])


@pytest.mark.parametrize("name", STUDY)
def test_the_ram_net_study_trains_all_its_networks_alike(name):
    assert read(name).training == read("ram-net").training
    assert read(name).gates == read("ram-net").gates


@pytest.mark.parametrize("name", STUDY)
def test_recipes_of_the_study_are_of_detectors_that_there_are(name):
    spec = read(name).detector
    assert spec.name in models.DETECTORS
    # Without a download: what is pretrained is only not fetched here.
    arguments = {key: value for key, value in spec.arguments.items() if key != "pretrained"}
    with torch.device("meta"):
        models.create(DetectorSpec(name=spec.name, arguments=arguments))


def test_the_study_warms_up_for_ten_epochs_and_ends_at_zero():
    config, steps = read("ram-net").training, 98_000 // 64
    rates = [learning_rate(config, step, steps) for step in (0, 10 * steps - 1, 100 * steps - 1)]
    assert rates == pytest.approx([1e-6, 5e-4, 0], abs=1e-7)
    assert smooth(torch.tensor([0.0, 1.0]), config.label_smoothing).tolist() == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize("name", STUDY)
def test_the_figures_of_the_study_agree_with_each_other(name):
    """A balanced test split: accuracy and F1 follow from precision and recall, to within rounding."""
    row = read(name).published
    precision, recall = row["precision"] / 100, row["recall"] / 100
    assert row["f1"] == pytest.approx(200 * precision * recall / (precision + recall), abs=0.05)
    false_fakes = recall * (1 - precision) / precision
    assert row["accuracy"] == pytest.approx(50 * (recall + 1 - false_fakes), abs=0.05)
