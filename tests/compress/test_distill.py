import hashlib

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import SIDE, write_images

from edgedet import models
from edgedet.artifact import DetectorSpec, Gate
from edgedet.compress import distill
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.distillation import Distillation
from edgedet.data.augment import Augment
from edgedet.data.index import UNLABELLED, Index
from edgedet.data.store import cache_root
from edgedet.errors import DataError, GateFailed, TrainingError
from edgedet.evaluate.assess import VALIDATION, inherited, require_gates
from edgedet.training.config import TrainingConfig

RECIPE = DistillRecipe(
    stage="distill",
    detector=DetectorSpec(name="edge32", arguments={"width": 8}),
    preprocess={"height": SIDE, "width": SIDE},
    training=TrainingConfig(epochs=1, batch_size=16, lr=0.01, amp=False),
    distillation=Distillation(feature_weight=0.5),
)


@pytest.fixture(scope="module")
def student(teacher, data, tmp_path_factory):
    gate = Gate(metric="flip_rate", against="absolute", max_value=0.0)  # its upper bound never is
    recipe = msgspec.structs.replace(RECIPE, gates=(gate,))
    return distill.run(recipe, teacher, data, tmp_path_factory.mktemp("student") / "student")


def test_the_student_rebuilds_to_the_bit_and_keeps_what_its_teacher_said(student, teacher):
    golden = student.golden
    with torch.inference_mode():
        logits = models.build(student)(torch.from_numpy(golden.pixels)).numpy()
    np.testing.assert_array_equal(logits, golden.logits)
    np.testing.assert_array_equal(golden.parent_logits, teacher.golden.logits)
    assert golden.images == teacher.golden.images


def test_a_student_of_degraded_views_hears_what_was_said_of_the_images_themselves(student, teacher, data, tmp_path):
    """The answers are those of the student that saw clean images; jpeg and blur moved no pixel."""
    kept = set((cache_root() / "answers").iterdir())
    augment = Augment(jpeg=0.5, jpeg_quality=(30, 60), blur=0.3, cutout=4)
    training = msgspec.structs.replace(RECIPE.training, augment=augment, consistency_weight=0.5)
    made = distill.run(msgspec.structs.replace(RECIPE, training=training), teacher, data, tmp_path / "student")
    assert set((cache_root() / "answers").iterdir()) == kept
    assert made.manifest.config["training"]["consistency_weight"] == 0.5
    moved = msgspec.structs.replace(training, augment=Augment(jpeg=0.5, zoom=0.1))
    with pytest.raises(TrainingError, match="leave zoom out of"):
        distill.run(msgspec.structs.replace(RECIPE, training=moved), teacher, data, tmp_path / "moved")


def test_images_without_labels_are_learned_from_and_not_judged_by(teacher, data, tmp_path):
    train = [row for row in data.rows if row.split == "train"]
    bare = {row.path for row in train[::2]}
    rows = [msgspec.structs.replace(row, label=UNLABELLED) if row.path in bare else row for row in data.rows]
    made = distill.run(RECIPE, teacher, Index(data.root, tuple(rows)), tmp_path / "student")
    assert made.manifest.metrics["balanced_accuracy"]["n"] == 24
    fewer = Index(data.root, tuple(row for row in data.rows if row.path not in bare))
    other = distill.run(RECIPE, teacher, fewer, tmp_path / "fewer")
    assert made.manifest.files["weights.safetensors"] != other.manifest.files["weights.safetensors"]
    deaf = msgspec.structs.replace(RECIPE, distillation=Distillation(logit_weight=0.0))
    with pytest.raises(DataError, match="16 of 32 images have no label"):
        distill.run(deaf, teacher, Index(data.root, tuple(rows)), tmp_path / "deaf")


def test_a_student_is_the_same_whether_its_teacher_was_asked_or_not(teacher, data, tmp_path, monkeypatch):
    """The first asks, the second finds the answers."""
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    features = msgspec.structs.replace(RECIPE, distillation=Distillation(feature_weight=0.5))
    asked, kept = (distill.run(features, teacher, data, tmp_path / name) for name in ("asked", "kept"))
    assert asked.manifest.files["weights.safetensors"] == kept.manifest.files["weights.safetensors"]


def test_the_lineage_and_the_comparison_name_the_teacher(student, teacher):
    manifest = student.manifest
    assert (manifest.stage, manifest.parent.digest, manifest.parent.stage) == ("distill", teacher.digest, "train")
    assert manifest.metrics["flips_against_parent"] == manifest.metrics["flips_against_ancestor"]
    assert manifest.metrics["threshold_drift"]
    assert student.model_bytes < teacher.model_bytes


def test_gates_are_inherited_before_its_own_and_a_failed_one_is_raised(student, teacher):
    assert student.manifest.gates == (*teacher.manifest.gates, student.manifest.gates[-1])
    assert [gate["outcome"] for gate in student.manifest.metrics["gates"]] == ["passed", "failed"]
    with pytest.raises(GateFailed, match=r"flip_rate.*FAILS") as raised:
        require_gates(student)
    assert raised.value.exit_code == 3


def test_a_gate_that_both_have_is_tested_once(teacher):
    assert inherited(teacher, teacher.manifest.gates) == teacher.manifest.gates
    assert inherited(None, teacher.manifest.gates) == teacher.manifest.gates


def test_the_ancestors_logits_travel_with_every_descendant(student, teacher):
    with np.load(student.file(VALIDATION)) as own, np.load(teacher.file(VALIDATION)) as theirs:
        np.testing.assert_array_equal(own["ancestor/clean"], theirs["own/clean"])


def test_a_gate_under_a_condition_that_the_ancestor_lacks(student, data, tmp_path):
    """The teacher is the ancestor and at hand: it is measured now. For the student's child it is not, and this is said."""
    gate = Gate(metric="balanced_accuracy", against="ancestor", max_drop=1.0, condition="jpeg-80")
    recipe = msgspec.structs.replace(RECIPE, gates=(gate,))
    grandchild = distill.run(recipe, student, data, tmp_path / "grandchild")
    outcomes = {line["gate"]: line for line in grandchild.manifest.metrics["gates"]}
    jpeg = next(line for name, line in outcomes.items() if "jpeg-80" in name)
    assert jpeg["outcome"] == "not measured"
    assert "give this gate to the recipe of the first of the line" in jpeg["text"]


def test_other_validation_images_are_refused(teacher, data, tmp_path):
    other = write_images(tmp_path / "other", train=0, val=20)
    rows = [row for row in data.rows if row.split == "train"]
    for row in rows:
        (other.root / row.path).write_bytes((data.root / row.path).read_bytes())
    mixed = type(data)(other.root, (*rows, *other.rows))
    assert hashlib.sha256((other.root / rows[0].path).read_bytes()).hexdigest() == rows[0].sha256
    with pytest.raises(DataError, match="validated on other images"):
        distill.run(RECIPE, teacher, mixed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
