"""A tiny trained teacher, its images, and a recipe of a search; and one search that is whole."""

from pathlib import Path

import msgspec
import pytest
import torch
from tiny_search import search, write_recipes
from tiny_training import RECIPE, train_stage, write_images

from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.index import Index
from edgedet.search.run import Search


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Index:
    return write_images(tmp_path_factory.mktemp("data"), train=32, val=24, ranges=24)


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory) -> Artifact:
    detector = DetectorSpec(name="edge32", arguments={"width": 16})
    return train_stage(data, tmp_path_factory.mktemp("teacher") / "teacher", msgspec.structs.replace(RECIPE, detector=detector))


@pytest.fixture(scope="session")
def recipe_path(tmp_path_factory) -> Path:
    return write_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("search") / "out"


@pytest.fixture(scope="session")
def found(recipe_path, teacher, data, folder) -> Search:
    return search(recipe_path, teacher, data, folder)
