import json
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import RECIPE, train_stage

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.compress import distill
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.distillation import Distillation
from edgedet.compress.listener import Listener
from edgedet.compress.patches import listener, require_same_places
from edgedet.compress.teacher import Answers, ask
from edgedet.data.augment import Augment
from edgedet.data.index import UNLABELLED, Index
from edgedet.errors import DataError, ModelError, RecipeError, TrainingError
from edgedet.models.patches import PatchGrid
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.recipe import convert
from edgedet.training.config import TrainingConfig
from edgedet.training.journal import METRICS
from edgedet.training.losses import Batch, embedding_distance, prediction_distance

NINE = PatchGrid(field=9, stride=8)
TINY = DetectorSpec(name="ladeda-tiny")
SEEN = {"height": 16, "width": 16}


def student(side: int = 26) -> PixelModel:
    torch.manual_seed(0)
    return PixelModel(models.create(TINY), Preprocess(geometry="crop_only", height=side, width=side))


def answers(side: int = 26, grid: PatchGrid = NINE) -> Answers:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(6, 2, grid.count(side), grid.count(side))).astype(np.float16)
    logits, embeddings = rng.normal(size=(6, 2)).astype(np.float32), rng.normal(size=(6, 2, 5)).astype(np.float16)
    return Answers(logits, embeddings, "key", maps, grid)


def batch(side: int = 26) -> Batch:
    return Batch(
        torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8),
        torch.tensor([0.0, 1.0, 1.0]),
        torch.tensor([4, 0, 2]),
        torch.tensor([True, False, True]),
    )


def hearing(heard: Answers | None = None, **distillation: float) -> Listener:
    return listener(student(), "ladeda-tiny", heard or answers(), TrainingConfig(), Distillation(**distillation))


def test_the_loss_is_the_squared_difference_for_every_patch_of_the_teachers_cut_out():
    made, given, theirs = hearing(patch_weight=1.0).eval(), batch(), answers()
    x = made.model.normalise(given.pixels)
    differences = []
    for image, (position, view) in enumerate(((4, 1), (0, 0), (2, 1))):
        for row in range(3):
            for column in range(3):
                patch = x[image : image + 1, :, 8 * row : 8 * row + 9, 8 * column : 8 * column + 9]
                differences.append((made.model.net(patch)[0, 0] - float(theirs.patches[position, view, row, column])) ** 2)
    torch.testing.assert_close(made(given), torch.stack(differences).mean(), atol=1e-5, rtol=1e-4)


def test_what_patches_leave_is_shared_by_labels_logits_and_embeddings():
    torch.manual_seed(1)
    shared = {"temperature": 3.0, "logit_weight": 0.6, "feature_weight": 0.4}
    whole = Listener(student(), "ladeda-tiny", answers(), TrainingConfig(), Distillation(**shared)).eval()
    mixed, patches = hearing(**shared, patch_weight=0.3).eval(), hearing(patch_weight=1.0).eval()
    mixed.project.load_state_dict(whole.project.state_dict())
    given = batch()
    torch.testing.assert_close(mixed(given), 0.3 * patches(given) + 0.7 * whole(given), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", [{"patch_weight": 1.0}, {"patch_weight": 0.5, "feature_weight": 0.5}])
def test_every_parameter_that_is_trained_has_a_gradient(weights):
    made = hearing(**weights)
    made.train()(batch()).backward()
    assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []


@torch.no_grad()
def test_both_views_are_taught_the_patches_of_the_image_itself():
    config = TrainingConfig(consistency_weight=0.5, augment=Augment(jpeg=0.5))
    apart, given = hearing(patch_weight=1.0).eval(), batch()
    both = listener(apart.model, "ladeda-tiny", answers(), config, Distillation(patch_weight=1.0)).eval()
    degraded = given.pixels // 2 + 40
    expected = (apart(given) + apart(replace(given, pixels=degraded))) / 2
    embeddings = [apart.model.net.features(apart.model.normalise(view)).flatten(1) for view in (given.pixels, degraded)]
    logits = [apart.model(view) for view in (given.pixels, degraded)]
    distance = embedding_distance(*embeddings) + prediction_distance(*logits)
    torch.testing.assert_close(both(replace(given, degraded=degraded)), expected + 0.5 * distance)


def test_patches_alone_read_no_label():
    made = hearing(patch_weight=1.0).eval()
    given = batch()
    unlabelled = Batch(given.pixels, torch.full((3,), math.nan), given.positions, given.flipped)
    assert torch.equal(made(unlabelled), made(given))


def test_a_students_own_patches_are_compared_one_by_one():
    grid = PatchGrid(field=5, stride=2)
    made = hearing(answers(grid=grid), patch_weight=1.0).eval()
    given = batch()
    ours = made.model.outputs(given.pixels)["patches"]
    theirs = torch.from_numpy(answers(grid=grid).patches[[4, 0, 2], [1, 0, 1]].astype(np.float32))
    torch.testing.assert_close(made(given), ((ours - theirs) ** 2).mean())


def test_students_and_answers_without_patches_are_refused():
    bare = Answers(answers().logits, answers().embeddings)
    with pytest.raises(TrainingError, match="ask for them with patches=True"):
        hearing(bare, patch_weight=0.5)
    edge = PixelModel(models.create(DetectorSpec(name="edge32")), models.lookup("edge32").preprocess)
    with pytest.raises(ModelError, match="edge32 has no logits of patches"):
        listener(edge, "edge32", answers(), TrainingConfig(), Distillation(patch_weight=0.5))
    with pytest.raises(TrainingError, match=r"set distillation\.patch_weight to 0"):
        Listener(student(), None, answers(), TrainingConfig(), Distillation(patch_weight=0.5))


def test_a_weight_that_can_have_no_effect_is_refused():
    with pytest.raises(RecipeError, match="leaves nothing to `feature_weight`"):
        convert({"patch_weight": 1.0, "feature_weight": 0.5}, Distillation, source="recipe")


@pytest.fixture(scope="module")
def patch_teacher(data, tmp_path_factory) -> Artifact:
    recipe = msgspec.structs.replace(RECIPE, detector=TINY, preprocess=SEEN)
    return train_stage(data, tmp_path_factory.mktemp("patches") / "teacher", recipe)


def test_answers_have_the_patches_of_an_image_and_of_its_mirror_image(patch_teacher, data):
    train = data.split("train")
    found = ask(patch_teacher, train, amp=False, patches=True)
    model = models.build(patch_teacher)
    pixels = np.stack([patch_teacher.manifest.preprocess(train.read(position)) for position in range(len(train))])
    with torch.inference_mode():
        for view, seen in enumerate((pixels, pixels[:, :, ::-1].copy())):
            theirs = model.outputs(torch.from_numpy(seen))["patches"].numpy()
            np.testing.assert_array_equal(found.patches[:, view], theirs.astype(np.float16))
    assert found.grid == PatchGrid(field=5, stride=2)
    plain = ask(patch_teacher, train, amp=False)
    assert plain.patches is None
    np.testing.assert_allclose(found.logits, plain.logits, atol=1e-5)
    np.testing.assert_allclose(found.embeddings, plain.embeddings, atol=2e-3)
    assert plain.key != found.key


def test_patches_are_asked_for_once(patch_teacher, data, tmp_path):
    train = data.split("train")
    first = ask(patch_teacher, train, amp=False, patches=True)
    again = ask(patch_teacher, Index(tmp_path / "nothing here", train.rows), amp=False, patches=True)
    np.testing.assert_array_equal(again.patches, first.patches)
    assert (again.grid, again.key, again.patches.dtype) == (first.grid, first.key, np.float16)


def test_a_teacher_without_patches_is_refused_before_it_is_asked(teacher, data, tmp_path):
    recipe = DistillRecipe(stage="distill", detector=TINY, preprocess=SEEN, distillation=Distillation(patch_weight=1.0))
    with pytest.raises(ModelError, match="edge32 has no logits of patches"):
        distill.run(recipe, teacher, data, tmp_path / "out")


@pytest.mark.parametrize("changes", [{"height": 18}, {"geometry": "resize_squash"}])
def test_a_student_that_sees_other_pixels_is_refused(patch_teacher, changes):
    given = {**SEEN, "geometry": "crop_only", **changes}
    with pytest.raises(TrainingError, match=f"teacher sees crop_only 16x16, the student {given['geometry']}"):
        require_same_places(patch_teacher, PixelModel(models.create(TINY), Preprocess(**given)), "ladeda-tiny")


def test_patches_are_learned_from_images_without_labels_and_from_nothing_else(patch_teacher, data, tmp_path):
    rows = [msgspec.structs.replace(row, label=UNLABELLED) if row.split == "train" else row for row in data.rows]
    bare = Index(data.root, tuple(rows))
    config = TrainingConfig(epochs=1, batch_size=16, amp=False)
    recipe = DistillRecipe(
        stage="distill", detector=TINY, preprocess=SEEN, training=config, distillation=Distillation(patch_weight=1.0)
    )
    made = distill.run(recipe, patch_teacher, bare, tmp_path / "student")
    assert made.manifest.metrics["balanced_accuracy"]["n"] == 24
    deaf = msgspec.structs.replace(recipe, distillation=Distillation(logit_weight=0.0))
    with pytest.raises(DataError, match=r"32 of 32 images have no label.*only distillation learns from them"):
        distill.run(deaf, patch_teacher, bare, tmp_path / "deaf")
    with pytest.raises(DataError, match="32 of 32 images have no label"):
        train_stage(bare, tmp_path / "trained")


def test_a_student_learns_its_teachers_patches(patch_teacher, data, tmp_path):
    config = TrainingConfig(epochs=12, batch_size=16, lr=0.02, amp=False, monitor="loss", seed=1)
    recipe = DistillRecipe(
        stage="distill", detector=TINY, preprocess=SEEN, training=config, distillation=Distillation(patch_weight=1.0)
    )
    made = distill.run(recipe, patch_teacher, data, tmp_path / "student")
    lines = [json.loads(line) for line in made.file(METRICS).read_text().splitlines()]
    losses = [line["train_loss"] for line in lines if line["event"] == "epoch"]
    assert len(losses) == config.epochs
    assert losses[-1] < 0.5 * losses[0]
    assert made.manifest.parent.digest == patch_teacher.digest
