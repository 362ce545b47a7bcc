import numpy as np
import pytest

from edgedet import Detector, metrics
from edgedet.artifact import Calibration
from edgedet.errors import DataError
from edgedet.evaluate import slices, thresholds
from edgedet.evaluate.slices import evaluate, evaluate_all


@pytest.fixture
def artifact(make_onnx_artifact):
    return make_onnx_artifact(bias=-2.0)


def test_each_generator_is_measured_against_all_reals_and_the_worst_is_named(artifact, make_index):
    index = make_index(20)
    found = evaluate(artifact, index, n_boot=50)
    assert set(found.by_generator) == {"gan", "diffusion"}
    for name, figures in found.by_generator.items():
        mask = (index.labels == 0) | (index.generators == name)
        assert (figures["n_real"], figures["n_fake"]) == (20, 20)
        assert figures["auc"]["value"] == metrics.roc_auc(found.logits[mask], index.labels[mask])
        assert figures["balanced_accuracy"]["value"] == metrics.balanced_accuracy(
            found.verdicts[mask], index.labels[mask]
        )
    assert found.worst_generator == "diffusion"  # the less red of the two
    assert found.overall["n_fake"] == 40
    assert found.overall["majority_accuracy"] == pytest.approx(2 / 3)


def test_several_sources_of_reals_are_all_in_every_slice():
    labels = np.array([0, 0, 0, 1, 1])
    generators = np.array(["phone", "scan", "", "gan", ""])
    masks = slices.generator_slices(labels, generators)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "gan": [True, True, True, True, False],
        "(unnamed)": [True, True, True, False, True],
    }


def test_a_set_of_one_class_is_measured_as_far_as_it_goes(artifact, make_index):
    index = make_index(10)
    reals = evaluate(artifact, index.where(lambda row: row.label == 0), n_boot=10)
    assert reals.overall["tnr"]["value"] is not None
    assert (reals.by_generator, reals.worst_generator) == ({}, None)
    fakes = evaluate(artifact, index.where(lambda row: row.label == 1), n_boot=10)
    assert fakes.by_generator["gan"]["auc"]["reason"] == "no real images"
    assert fakes.worst_generator is None


def test_an_empty_index_is_refused(artifact, make_index):
    with pytest.raises(DataError, match="the index is empty"):
        evaluate(artifact, make_index(1).take([]))


def test_a_wrong_condition_is_refused_before_the_first_image(make_index):
    with pytest.raises(DataError, match="did you mean 'jpeg'"):
        evaluate_all(None, make_index(1), ["clean", "jpg-60"])


def test_conditions_are_evaluated_with_a_model_loaded_once(artifact, make_index):
    index = make_index(10)
    with Detector.load(artifact, threads=1) as detector:
        found = evaluate_all(detector, index, ["clean", "hard", "clean"], n_boot=10)
        assert list(found) == ["clean", "hard"]
        assert np.array_equal(found["hard"].logits, evaluate(detector, index, condition="hard", n_boot=10).logits)
    assert not np.array_equal(found["clean"].logits, found["hard"].logits)


def test_another_calibration_needs_no_second_run(artifact, make_index):
    index = make_index(20)
    found = evaluate(artifact, index, n_boot=10)
    fitted = thresholds.fit({"clean": found.logits}, index.labels, fitted_on=index.digest)
    again = found.recalibrated(fitted, n_boot=10)
    assert np.array_equal(again.logits, found.logits)
    assert again.overall["balanced_accuracy"]["value"] >= found.overall["balanced_accuracy"]["value"]
    assert again.overall["auc"] == found.overall["auc"]


def test_flips_count_the_verdicts_that_changed(artifact, make_index):
    index = make_index(20)
    parent = evaluate(artifact, index, n_boot=0)
    child = slices.of_logits(parent.logits + np.float32(0.5), parent.calibration, index, n_boot=0)
    changed = np.mean((parent.logits >= 0) != (parent.logits + 0.5 >= 0))
    assert slices.flips(child, parent)["value"] == pytest.approx(changed)
    assert changed > 0


def test_evaluations_of_different_images_or_conditions_are_not_compared(artifact, make_index):
    index = make_index(10)
    clean, hard = evaluate_all(artifact, index, ["clean", "hard"], n_boot=0).values()
    part = evaluate(artifact, index.take(range(5, 30)), n_boot=0)
    with pytest.raises(DataError, match="measured under 'hard', the other under 'clean'"):
        slices.flips(hard, clean)
    with pytest.raises(DataError, match="evaluate both on the same index"):
        slices.flips(part, clean)


def test_a_manifest_keeps_the_clean_figures_on_top(artifact, make_index):
    found = evaluate_all(artifact, make_index(10), ["clean", "web"], n_boot=10)
    kept = slices.for_manifest(found)
    assert kept["balanced_accuracy"] == found["clean"].overall["balanced_accuracy"]
    assert kept["generators"]["gan"]["auc"] == found["clean"].by_generator["gan"]["auc"]
    assert kept["worst_generator"] == found["clean"].worst_generator
    assert kept["conditions"]["web"]["auc"] == found["web"].overall["auc"]
    assert kept["splits"] == ["val"]
    with pytest.raises(DataError, match="expected a clean evaluation, got: web"):
        slices.for_manifest({"web": found["web"]})


def test_stored_calibration_decides_the_verdicts(make_onnx_artifact, make_index):
    index = make_index(10)
    always_fake = make_onnx_artifact("always", calibration=Calibration(bias=1000.0))
    found = evaluate(always_fake, index, n_boot=10)
    assert (found.overall["tpr"]["value"], found.overall["tnr"]["value"]) == (1, 0)
