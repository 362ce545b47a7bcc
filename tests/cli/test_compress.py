"""``edgedet compress``: the folder that it leaves, its exit codes, and what it refuses before it begins."""

import json

import pytest
from command import assert_one_line
from tiny_search import QUICK, write_recipes
from tiny_training import train_stage, write_images

from edgedet.artifact import Artifact

SMALL = ("keep=[1.0]", "precisions=['fp32']", "rungs=1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A data set, a teacher and the recipe of a search, in one folder."""
    root = tmp_path_factory.mktemp("tiny")
    data = write_images(root / "data", train=32, val=24, ranges=24)
    data.save(root / "index.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDET_CACHE", str(root / "cache"))
        train_stage(data, root / "teacher")
    write_recipes(root)
    return root


@pytest.fixture
def compress(edgedet, tiny, monkeypatch):
    monkeypatch.setattr("edgedet.search.run.Timing", lambda: QUICK)
    given = ("--data", tiny / "index.csv", "--recipe", tiny / "compress.toml")
    return lambda *more: edgedet("compress", tiny / "teacher", *SMALL, *given, *more)


def test_it_leaves_the_front_as_table_json_and_plot_and_the_best_artifact(compress, tmp_path):
    out = tmp_path / "out"
    done = compress("--out", out, "--max-latency-ms", "1e6", "--json", "-")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["chosen"] == "student-keep1-fp32"
    assert said == json.loads((out / "front.json").read_text())
    assert (out / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert Artifact.load(out / "best").digest == said["candidates"][0]["digest"]
    again = compress("--out", out, "--max-size-kb", "0.001", "--resume")
    assert again.code == 3
    last = again.err.splitlines()[-1] + "\n"
    assert_one_line(last, "nothing fits the limits; nearest is student-keep1-fp32", "kB, 0.001 allowed")
    assert "student-keep1-fp32" in again.out  # the table is there all the same


def test_without_limits_nothing_is_begun(compress, tmp_path):
    done = compress("--out", tmp_path / "out")
    assert done.code == 2
    assert_one_line(done.err, "--max-latency-ms", "--max-drop")
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_another_stage_is_refused(edgedet, tiny, tmp_path):
    given = ("--data", tiny / "index.csv", "--recipe", "cifake-prune", "--out", tmp_path / "out", "--max-drop", "0.1")
    done = edgedet("compress", tiny / "teacher", *given)
    assert done.code == 2
    assert_one_line(done.err, "cifake-prune is no recipe for `edgedet compress`")


def test_the_default_search_goes_by_the_size_of_the_images(edgedet, tiny, tmp_path):
    done = edgedet("compress", tiny / "teacher", "--data", tiny / "index.csv", "--out", tmp_path / "out", "--max-drop", "0.1")
    assert done.code == 2
    assert_one_line(done.err, "no search is kept for images of 16x16", "cifake-compress for 32x32", "--recipe")


def test_a_device_of_which_nothing_is_published_has_no_search(compress, tmp_path):
    done = compress("--target", "jetson-agx-thor", "--out", tmp_path / "out", "--max-latency-ms", "5")
    assert done.code == 1
    assert_one_line(done.err, "no estimate for a dense network on Jetson AGX Thor")
    assert not (tmp_path / "out").exists()
