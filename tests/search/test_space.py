"""The recipe of a search, and the candidates that it stands for."""

import pytest

from edgedet import models, recipe
from edgedet.artifact import DetectorSpec
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.prune import PruneRecipe
from edgedet.compress.qat import QatRecipe
from edgedet.errors import RecipeError
from edgedet.search.space import Candidate, CompressRecipe, Trunk, trunks

SEARCHES = [name for name in recipe.names("train") if recipe.load("train", name, dict)["stage"] == "compress"]
TEXT = 'stage = "compress"\nstudents = [{ recipe = "s", widths = [8, 16] }, { recipe = "t" }]\nkeep = [1.0, 0.5]\nprune = "p"\n'


def parse(text: str = TEXT, *overrides: str) -> CompressRecipe:
    return recipe.parse(text, CompressRecipe, source="here", overrides=overrides)


def test_networks_are_students_at_widths_whole_and_pruned():
    names = [each.name for each in trunks(parse())]
    assert names == ["s-w8-keep1", "s-w8-keep0.5", "s-w16-keep1", "s-w16-keep0.5", "t-keep1", "t-keep0.5"]


def test_a_candidate_is_named_by_all_its_choices():
    assert Candidate(Trunk("a/b/s.toml", 24, 0.25), "qat").name == "s-w24-keep0.25-qat"


@pytest.mark.parametrize(
    "change",
    ['students=[{ recipe = "a/s.toml" }, { recipe = "b/s.toml" }]', "keep=[0.5, 0.5]", 'students=[{recipe="s",widths=[8,8]}]'],
)
def test_two_networks_of_one_name_are_refused(change):
    """The second would be taken for the first, whose artifacts are there."""
    with pytest.raises(RecipeError, match="two networks called s"):
        parse(TEXT, change)


def test_a_width_takes_the_place_of_the_recipes():
    spec = DetectorSpec(name="edge32", arguments={"width": 48, "other": 1})
    assert Trunk("s", 24, 1.0).detector(spec).arguments == {"width": 24, "other": 1}
    assert Trunk("s", 0, 1.0).detector(spec) == spec


@pytest.mark.parametrize(("published", "epochs"), [(8, [1, 3, 8]), (16, [2, 5, 16]), (1, [1, 1, 1])])
def test_each_round_trains_eta_times_as_long_up_to_the_recipes_epochs(published, epochs):
    config = parse(TEXT, "rungs=3", "eta=3.0")
    assert [config.epochs(published, rung) for rung in range(3)] == epochs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (('prune=""',), "needs `prune`"),
        (("precisions=['qat']",), "needs `qat`"),
        (("keep=[0.0]",), "keep"),
        (("keep=[1.5]",), "keep"),
        (("eta=1.0",), "eta"),
        (("students=[]",), "students"),
        (("precisions=['int4']",), "int4"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        parse(TEXT, *changes)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_that_is_kept_has_recipes_and_students_that_there_are(name):
    config = recipe.load("train", name, CompressRecipe)
    for each in trunks(config):
        models.weightless(each.detector(recipe.load("train", each.recipe, DistillRecipe).detector))
    recipe.load("train", config.prune, PruneRecipe)
    if config.qat:
        recipe.load("train", config.qat, QatRecipe)


def test_there_are_searches():
    assert {"cifake-compress", "demo-compress"} <= set(SEARCHES)
