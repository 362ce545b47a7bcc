"""A tiny trained teacher, made once, and the images that it was trained on."""

import msgspec
import pytest
import torch
from tiny_training import RECIPE, train_stage, write_images

from edgedet.artifact import Artifact, DetectorSpec, Gate
from edgedet.data.index import Index

GATE = Gate(metric="balanced_accuracy", against="ancestor", max_drop=1.0)
"""Holds always: what is tested is that children carry it."""


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Index:
    return write_images(tmp_path_factory.mktemp("data"), train=32, val=24)


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory) -> Artifact:
    detector = DetectorSpec(name="edge32", arguments={"width": 16})
    recipe = msgspec.structs.replace(RECIPE, detector=detector, gates=(GATE,))
    return train_stage(data, tmp_path_factory.mktemp("teacher") / "teacher", recipe)
