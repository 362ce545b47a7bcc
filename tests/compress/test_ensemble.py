"""Two teachers of the same images: another width, another input, one mean."""

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import RECIPE, train_stage

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.cli.use import show_artifact
from edgedet.compress import distill, prune
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.distillation import Distillation
from edgedet.compress.ensemble import consult, require_ensemble, require_fit
from edgedet.compress.prune import PruneRecipe
from edgedet.compress.teacher import ask
from edgedet.data.index import Index
from edgedet.data.store import cache_root
from edgedet.errors import ArtifactError, ModelError, TrainingError
from edgedet.models.patches import PatchGrid
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.training.config import TrainingConfig

PLAIN = Distillation()
PATCHES = Distillation(patch_weight=0.5)
ONCE = TrainingConfig(epochs=1, batch_size=16, lr=0.01, amp=False)


def trained(data: Index, folder, detector: DetectorSpec, side: int, seed: int) -> Artifact:
    training = msgspec.structs.replace(RECIPE.training, epochs=1, seed=seed)
    seen = {"height": side, "width": side}
    recipe = msgspec.structs.replace(RECIPE, detector=detector, preprocess=seen, training=training)
    return train_stage(data, folder / "teacher", recipe)


@pytest.fixture(scope="module")
def wide(data, tmp_path_factory) -> Artifact:
    """Sees more pixels than the session's teacher."""
    return trained(data, tmp_path_factory.mktemp("wide"), DetectorSpec(name="edge32", arguments={"width": 24}), 20, 1)


@pytest.fixture(scope="module")
def patchy(data, tmp_path_factory) -> tuple[Artifact, Artifact]:
    folders = (tmp_path_factory.mktemp(f"patchy{seed}") for seed in range(2))
    first, second = (trained(data, folder, DetectorSpec(name="ladeda-tiny"), 16, n) for n, folder in enumerate(folders))
    return first, second


def test_an_ensemble_says_the_mean_of_what_each_says_of_its_own_pixels(teacher, wide, data):
    train = data.split("train")
    found = consult((teacher, wide), train, Distillation(teacher_weights=(3, 1)), amp=False)
    means = np.zeros((len(train), 2))
    for each, share in ((teacher, 0.75), (wide, 0.25)):
        model = models.build(each)
        pixels = np.stack([each.manifest.preprocess(train.read(position)) for position in range(len(train))])
        assert pixels.shape[1] == (16 if each is teacher else 20)
        with torch.inference_mode():
            for view, seen in enumerate((pixels, pixels[:, :, ::-1].copy())):
                means[:, view] += share * model(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(found.logits, means, atol=1e-5)
    assert found.logits.dtype == np.float32
    np.testing.assert_array_equal(found.embeddings, ask(teacher, train, amp=False).embeddings)


def test_each_teacher_is_asked_once_whatever_ensemble_it_is_in(teacher, wide, data):
    train = data.split("train")
    alone = [ask(each, train, amp=False) for each in (teacher, wide)]
    kept = set((cache_root() / "answers").iterdir())
    assert consult((teacher,), train, PLAIN, amp=False).key == alone[0].key
    keys = {consult(some, train, PLAIN, amp=False).key for some in ((teacher, wide), (wide, teacher))}
    keys.add(consult((teacher, wide), train, Distillation(teacher_weights=(2, 1)), amp=False).key)
    assert len(keys | {each.key for each in alone}) == 5
    assert set((cache_root() / "answers").iterdir()) == kept


def test_the_mean_of_patches(patchy, data):
    train = data.split("train")
    require_ensemble(patchy, PATCHES)
    found = consult(patchy, train, PATCHES, amp=False)
    each = [ask(one, train, amp=False, patches=True) for one in patchy]
    mean = (each[0].patches.astype(np.float32) + each[1].patches.astype(np.float32)) / 2
    np.testing.assert_array_equal(found.patches, mean.astype(np.float16))
    assert found.grid == each[0].grid


def test_what_cannot_be_averaged_is_refused(teacher, wide, patchy):
    with pytest.raises(TrainingError, match="is given twice as a teacher"):
        require_ensemble((teacher, wide, teacher), PLAIN)
    with pytest.raises(TrainingError, match="1 weights for 2 teachers"):
        require_ensemble((teacher, wide), Distillation(teacher_weights=(1,)))
    with pytest.raises(ModelError, match="edge32 has no logits of patches"):
        require_ensemble((patchy[0], teacher), PATCHES)


def test_teachers_of_other_patches_are_refused(patchy, monkeypatch):
    grids = iter((PatchGrid(5, 2), PatchGrid(9, 8)))
    monkeypatch.setattr("edgedet.compress.ensemble.grid_of", lambda *_: next(grids))
    with pytest.raises(ModelError, match=r"are 9 pixels every 8, those of ladeda-tiny 5 every 2: .*the same"):
        require_ensemble(patchy, PATCHES)


def test_attention_is_learned_of_the_same_part_of_an_image_and_of_the_first_teacher(teacher, wide, data):
    looks = Distillation(attention_weight=1.0)
    student = models.build(teacher)
    require_fit((wide, teacher), student, "edge32", looks)  # squashed to another size, but whole
    with pytest.raises(ModelError, match="vit-small has no feature map"):
        require_fit((teacher,), student, "vit-small", looks)
    cropped = PixelModel(student.net, Preprocess(geometry="crop_only", height=16, width=16))
    with pytest.raises(TrainingError, match="teacher sees resize_squash 16x16, the student crop_only 16x16: set `preprocess`"):
        require_fit((teacher,), cropped, "edge32", looks)
    train = data.split("train")
    found = consult((teacher, wide), train, looks, amp=False)
    np.testing.assert_array_equal(found.attention, ask(teacher, train, amp=False, attention=True).attention)


@pytest.fixture(scope="module")
def student(teacher, wide, data, tmp_path_factory) -> Artifact:
    recipe = DistillRecipe(
        stage="distill",
        detector=DetectorSpec(name="edge32", arguments={"width": 8}),
        preprocess={"height": 16, "width": 16},
        training=ONCE,
        distillation=Distillation(feature_weight=0.5, attention_weight=1.0, relation_weight=0.5),
    )
    return distill.run(recipe, teacher, data, tmp_path_factory.mktemp("student") / "student", others=(wide,))


def test_the_first_teacher_is_the_ancestor_and_the_others_are_named(student, teacher, wide):
    manifest = student.manifest
    assert [each.digest for each in manifest.lineage] == [teacher.digest]
    assert [(each.digest, each.name) for each in manifest.teachers] == [(wide.digest, wide.path.name)]
    assert manifest.gates == teacher.manifest.gates
    assert teacher.manifest.teachers == ()
    assert Artifact.load(student.path).manifest == manifest


def test_the_others_are_shown(student, wide, capsys):
    show_artifact(student.path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"other teacher │ {wide.path.name} (train, {wide.digest[:16]})" in said


def test_a_pruned_networks_teachers_are_named_but_for_its_parent(student, teacher, data, tmp_path):
    recipe = PruneRecipe(stage="prune", keep=0.8, steps=1, round_to=1, training=ONCE)
    made = prune.run(recipe, student, data, tmp_path / "pruned", teachers=(teacher, student))
    assert [each.digest for each in made.manifest.teachers] == [teacher.digest]
    assert made.manifest.parent.digest == student.digest


def test_a_teacher_that_is_no_checkpoint_is_refused(student, teacher):
    graph = msgspec.structs.replace(teacher.manifest, kind="onnx")
    with pytest.raises(ArtifactError, match="expected a checkpoint"):
        require_ensemble((student, Artifact(teacher.path, graph, "other")), PLAIN)
