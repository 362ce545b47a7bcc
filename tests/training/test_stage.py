import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from full_disk import no_file_beyond
from safetensors.torch import load_file
from tiny_training import EXACT, RECIPE, SIDE, run, train_stage, write_images

from edgedet import artifact as artifacts
from edgedet import models
from edgedet.artifact import WEIGHTS, Artifact, DetectorSpec, Gate
from edgedet.data.augment import Augment
from edgedet.data.index import REAL, Index
from edgedet.errors import ArtifactError, DataError, GateFailed, RecipeError, TrainingError
from edgedet.evaluate.assess import VALIDATION, require_gates
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.recipe import parse
from edgedet.training import journal, stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import Group

SCRIPT = Path(__file__).parents[1] / "tiny_training.py"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path) -> Index:
    return write_images(tmp_path / "data", train=32, val=24)


def test_a_recipe_and_images_become_a_checkpoint_that_rebuilds_to_the_bit(data, tmp_path):
    made = train_stage(data, tmp_path / "a")
    manifest = made.manifest
    assert (manifest.kind, manifest.stage, manifest.seed, manifest.lineage) == ("checkpoint", "train", 0, ())
    assert (manifest.preprocess.height, manifest.preprocess.width) == (SIDE, SIDE)
    assert manifest.calibration.n == 24
    assert manifest.metrics["balanced_accuracy"]["n"] == 24
    assert manifest.metrics["best_epoch"] in (0, 1)
    assert {VALIDATION, journal.METRICS} <= manifest.files.keys()
    golden = made.golden
    with torch.inference_mode():
        logits = models.build(made)(torch.from_numpy(golden.pixels)).numpy()
    np.testing.assert_array_equal(logits, golden.logits)
    np.testing.assert_array_equal(golden.parent_logits, golden.logits)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_is_trained_on_from_its_weights_and_stays_its_ancestor(data, tmp_path):
    first = train_stage(data, tmp_path / "first")
    still = msgspec.structs.replace(RECIPE, training=TrainingConfig(epochs=1, batch_size=16, lr=1e-9, amp=False))
    more = stage.run(still, first, data, tmp_path / "more")
    assert (more.manifest.stage, more.manifest.parent.digest) == ("train", first.digest)
    before, after = (load_file(each.path / WEIGHTS) for each in (first, more))
    np.testing.assert_allclose(after["head.weight"], before["head.weight"], atol=1e-6)
    np.testing.assert_array_equal(more.golden.parent_logits, first.golden.logits)
    assert more.manifest.metrics["flips_against_parent"]["n"] == 24


def test_only_the_recipes_own_detector_is_trained_on(data, tmp_path):
    first = train_stage(data, tmp_path / "first")
    wider = msgspec.structs.replace(RECIPE, detector=DetectorSpec(name="edge32", arguments={"width": 16}))
    with pytest.raises(TrainingError, match=r'is edge32 {"width":8}, the recipe is for edge32 {"width":16}: give a recipe'):
        stage.run(wider, first, data, tmp_path / "wider")
    larger = msgspec.structs.replace(RECIPE, preprocess={"height": 32, "width": 32})
    with pytest.raises(TrainingError, match=r"with height=16, width=16, the recipe is for height=32, width=32: set the"):
        stage.run(larger, first, data, tmp_path / "larger")


TWO_STAGES = """
stage = "train"
detector = { name = "edge32", arguments = { width = 8 } }
preprocess = { height = 16, width = 16 }

[training]
batch_size = 16
amp = false
monitor = "loss"
patience = 4
consistency_weight = 0.1

[training.augment]
rotation = 10.0
jpeg = 0.5

[[training.phases]]
epochs = 2
lr = 1e-3
train = ["head"]

[[training.phases]]
epochs = 1
lr = 1e-5
freeze_norms = true
"""


def test_a_recipe_trains_the_head_first_and_then_the_rest_with_frozen_norms(data, tmp_path):
    recipe = parse(TWO_STAGES, stage.TrainRecipe, source="two-stages")
    made = train_stage(data, tmp_path / "a", recipe)
    assert [phase["train"] for phase in made.manifest.config["training"]["phases"]] == [["head"], []]
    lines = [json.loads(line) for line in (made.path / journal.METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "validation"] == [0, 1, 2]
    torch.manual_seed(0)
    fresh = models.create(recipe.detector).state_dict()
    norms = [name for name in fresh if "running" in name]
    assert norms
    weights = load_file(made.file(WEIGHTS))
    assert all(torch.equal(weights[name], fresh[name]) for name in norms), "no phase has touched them"
    assert not torch.equal(weights["head.weight"], fresh["head.weight"])


def test_a_part_that_the_detector_does_not_have_is_refused_before_anything_is_trained(data, tmp_path):
    recipe = parse(TWO_STAGES, stage.TrainRecipe, source="x", overrides=['training.freeze=["haed"]'])
    with pytest.raises(TrainingError, match=r"training.freeze names 'haed'.*did you mean 'head'"):
        train_stage(data, tmp_path / "a", recipe)


def test_a_stage_refuses_to_write_over_something(data, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        train_stage(data, tmp_path / "a")


def test_an_unfinished_run_is_not_thrown_away(data, tmp_path):
    work = stage.work_folder(tmp_path / "a")
    run(work, EXACT)
    before = (work / "state.pt").read_bytes()
    for again in (lambda: train_stage(data, tmp_path / "a"), lambda: stage.begin(tmp_path / "a", Group(), resume=False)):
        with pytest.raises(TrainingError, match=r"\.a\.work: holds an unfinished run: add --resume .*, or remove that folder"):
            again()
    assert (work / "state.pt").read_bytes() == before
    assert stage.begin(tmp_path / "a", Group(), resume=True) == work


SAME_TENSORS = DetectorSpec(
    name="edgenet", arguments={"stem": 8, "widths": [8, 16, 24], "depths": [1, 2, 2], "strides": [1, 2, 2]}
)


def test_a_run_of_another_network_with_the_same_tensors_or_of_other_pixels_is_not_resumed(data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            train_stage(data, tmp_path / "a")
    for change in ({"detector": SAME_TENSORS}, {"preprocess": {**RECIPE.preprocess, "interpolation": "bicubic"}}):
        with pytest.raises(TrainingError, match=r"other settings, another network.*remove the folder"):
            train_stage(data, tmp_path / "a", msgspec.structs.replace(RECIPE, **change), resume=True)
    assert train_stage(data, tmp_path / "a", resume=True).manifest.detector == RECIPE.detector


def test_what_a_run_left_that_never_saved_its_state_is_cleared(tmp_path):
    work = stage.work_folder(tmp_path / "a")
    work.mkdir()
    (work / journal.METRICS).write_text('{"step": 3}\n')
    assert stage.begin(tmp_path / "a", Group(), resume=True) == work
    assert (work / journal.METRICS).exists()
    stage.begin(tmp_path / "a", Group(), resume=False)
    assert not work.exists()


def test_weights_that_do_not_fit_on_the_disk_are_an_error_and_leave_nothing(tmp_path):
    model = PixelModel(models.create(RECIPE.detector), Preprocess(height=SIDE, width=SIDE))
    refused = pytest.raises(ArtifactError, match="a: cannot be written: File too large")
    with refused, artifacts.writing(tmp_path / "a") as draft, no_file_beyond(1000):
        stage.write_weights(draft.path, model)
    assert list(tmp_path.iterdir()) == []
    stage.write_weights(tmp_path, model)
    assert load_file(tmp_path / WEIGHTS).keys() == model.net.state_dict().keys()


def test_a_data_set_without_validation_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images in split 'val'"):
        train_stage(write_images(tmp_path / "data", train=32), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_the_end_would_refuse_is_refused_before_anything_is_trained(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "train", lambda *_, **__: pytest.fail("it was trained"))
    unknown = Gate(metric="auc", against="absolute", min_value=0.5, condition="jpg-60")
    with pytest.raises(DataError, match="jpg-60"):
        train_stage(data, tmp_path / "a", msgspec.structs.replace(RECIPE, gates=(unknown,)))
    real = data.where(lambda row: row.split != "val" or row.label == REAL)
    with pytest.raises(DataError, match="real and fake images in the validation split, it has no fake one"):
        train_stage(real, tmp_path / "b")


def test_a_failed_gate_is_recorded_and_then_raised(data, tmp_path):
    gate = Gate(metric="balanced_accuracy", against="absolute", min_value=1.01)
    made = train_stage(data, tmp_path / "a", msgspec.structs.replace(RECIPE, gates=(gate,)))
    assert [line["outcome"] for line in made.manifest.metrics["gates"]] == ["failed"]
    with pytest.raises(GateFailed, match=r"1 of its gates failed.*balanced_accuracy") as raised:
        require_gates(Artifact.load(tmp_path / "a"))
    assert raised.value.exit_code == 3


def test_preprocessing_is_changed_key_by_key_and_checked():
    changed = stage.adjusted(Preprocess(height=32, width=32), {"interpolation": "bicubic"})
    assert (changed.height, changed.interpolation) == (32, "bicubic")
    with pytest.raises(RecipeError, match="unknown key 'hieght'; did you mean 'height'"):
        stage.adjusted(Preprocess(), {"hieght": 8})


def test_another_geometry_does_not_keep_the_length_that_the_first_resized_to():
    published = Preprocess(geometry="resize_shorter_crop", resize=256)
    assert stage.adjusted(published, {"geometry": "crop_only"}).resize is None
    assert stage.adjusted(published, {"height": 128}).resize == 256


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(height=30, width=40),
        Preprocess(geometry="crop_only", height=30, width=40, multiple=2),
        Preprocess(geometry="resize_shorter_crop", resize=44, height=30, width=40),
    ],
)
def test_training_images_carry_the_margin_that_is_cropped(preprocess):
    wider = stage.with_margin(preprocess, 5)
    image = np.zeros((100, 90, 3), np.uint8)
    assert wider(image).shape == (35, 45, 3)
    assert stage.with_margin(preprocess, 0) is preprocess


def test_random_crops_of_larger_images_are_trained_on(data, tmp_path):
    training = msgspec.structs.replace(RECIPE.training, epochs=1, augment=Augment(margin=4))
    made = train_stage(data, tmp_path / "a", msgspec.structs.replace(RECIPE, training=training))
    assert made.golden.pixels.shape[1:] == (SIDE, SIDE, 3)


@pytest.mark.slow
def test_two_processes_write_one_artifact(data, tmp_path):
    data.save(tmp_path / "index.csv")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(SCRIPT),
               "stage", str(tmp_path / "a"), "--data", str(tmp_path / "index.csv")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stderr
    made = Artifact.load(tmp_path / "a")
    # The two processes share one stdout, so their lines may run into one another.
    assert done.stdout.count(made.digest) == 2
    lines = [json.loads(line) for line in made.file(journal.METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "validation"] == [0, 1]
