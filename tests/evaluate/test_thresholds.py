import logging

import numpy as np
import pytest

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.errors import DataError
from edgedet.evaluate import thresholds


def draw(n_real, n_fake, *, temperature=1.0, bias=0.0, seed=0):
    """Logits whose probabilities are exact, then stretched and shifted as an uncalibrated model's are."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.zeros(n_real, int), np.ones(n_fake, int)]
    # Two unit normals, two apart: the log-likelihood ratio of x is 2x.
    true = 2 * (rng.normal(size=n_real + n_fake) + np.where(labels == 1, 1.0, -1.0))
    return true * temperature - bias, labels


def test_the_fit_finds_temperature_and_bias_whatever_the_share_of_fakes():
    logits, labels = draw(4000, 1000, temperature=3.0, bias=2.0)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on="digest")
    assert fitted.temperature == pytest.approx(3.0, rel=0.1)
    assert fitted.bias == pytest.approx(2.0, abs=0.3)
    assert (fitted.fitted_on, fitted.n, fitted.operating_point) == ("digest", 5000, "balanced")


def test_the_fit_is_the_least_of_a_grid():
    logits, labels = draw(300, 200, temperature=0.2, bias=-1.0, seed=4)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)

    def smoothed_nll(temperature, bias):
        targets = np.where(labels == 1, 201 / 202, 1 / 302)
        z = (logits + bias) / temperature
        losses = np.logaddexp(0, z) - targets * z
        return (losses[labels == 1].mean() + losses[labels == 0].mean()) / 2

    best = smoothed_nll(fitted.temperature, fitted.bias)
    for temperature in fitted.temperature * np.array([0.8, 0.95, 0.99, 1.0, 1.01, 1.05, 1.2]):
        for bias in fitted.bias + np.array([-0.3, -0.02, 0, 0.02, 0.3]):
            assert best <= smoothed_nll(temperature, bias) + 1e-12


def test_calibration_error_falls():
    logits, labels = draw(2000, 2000, temperature=5.0, bias=4.0)
    raw, fitted = Calibration(), thresholds.fit({"clean": logits}, labels, fitted_on=None)
    before, after = metrics.ece(raw.score(logits), labels), metrics.ece(fitted.score(logits), labels)
    assert after < 0.02 < before


def test_separable_logits_give_a_finite_temperature():
    fitted = thresholds.fit({"clean": [-3.0, -2.0, 2.0, 3.0]}, [0, 0, 1, 1], fitted_on=None)
    assert 0 < fitted.temperature < np.inf
    assert fitted.verdict([-2.0, 2.0]).tolist() == [False, True]


@pytest.mark.parametrize("logits", [[3.0, 2.0, -2.0, -3.0], [1.0, 1.0, 1.0, 1.0]])
def test_logits_without_information_give_even_scores_and_a_warning(logits, caplog):
    with caplog.at_level(logging.WARNING):
        fitted = thresholds.fit({"clean": logits}, [0, 0, 1, 1], fitted_on=None)
    assert fitted.score(logits) == pytest.approx([0.5] * 4, abs=0.01)
    assert "do not rise" in caplog.text


def test_huge_logits_are_fitted():
    logits, labels = draw(300, 300, temperature=1e4, bias=1e5)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    assert fitted.temperature == pytest.approx(1e4, rel=0.3)
    assert metrics.balanced_accuracy(fitted.verdict(logits), labels) > 0.8


def test_the_balanced_threshold_has_the_most_balanced_accuracy():
    logits, labels = draw(150, 90, bias=1.0, seed=2)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    best = max(metrics.balanced_accuracy(logits >= edge, labels) for edge in np.sort(logits))
    assert metrics.balanced_accuracy(fitted.verdict(logits), labels) == pytest.approx(best)


def test_false_positive_rates_are_held_and_not_by_more_than_one_image():
    logits, labels = draw(1003, 300, seed=7)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    scores = fitted.score(logits)
    for name, rate in (("fpr1", 0.01), ("fpr5", 0.05)):
        flagged = int((scores[labels == 0] >= fitted.thresholds[name]).sum())
        assert flagged == int(rate * 1003), name


def test_ties_at_the_threshold_stay_on_the_side_of_the_reals():
    logits = np.r_[np.zeros(500), np.full(500, 5.0), np.full(100, 9.0)]
    labels = np.r_[np.zeros(1000, int), np.ones(100, int)]
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    assert (fitted.score(logits[:1000]) >= fitted.thresholds["fpr1"]).sum() == 0
    assert (fitted.score(logits[1000:]) >= fitted.thresholds["fpr1"]).all()


def test_operating_points_that_too_few_reals_measure_are_left_out_with_the_reason():
    logits, labels = draw(400, 50)
    fitted = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    assert set(fitted.thresholds) == {"half", "balanced", "fpr5"}
    with pytest.raises(DataError, match="operating point 'fpr1': not measurable: 400 real"):
        thresholds.fit({"clean": logits}, labels, fitted_on=None, operating_point="fpr1")


def test_the_views_of_an_image_are_fitted_together():
    clean, labels = draw(2000, 2000)
    web = clean - 2.0  # recompression looks real
    alone = thresholds.fit({"clean": clean}, labels, fitted_on=None)
    both = thresholds.fit({"clean": clean, "web": web}, labels, fitted_on=None)
    middles = [thresholds.cut(each, "balanced") for each in (alone, both)]
    assert middles == pytest.approx([0.0, -1.0], abs=0.3)
    assert (both.views, both.n) == (("clean", "web"), 4000)
    pooled = thresholds.fit({"all": np.r_[clean, web]}, np.r_[labels, labels], fitted_on=None)
    assert (both.temperature, both.bias) == pytest.approx((pooled.temperature, pooled.bias))


def test_one_class_cannot_be_fitted():
    with pytest.raises(DataError, match="got no fake image"):
        thresholds.fit({"clean": [1.0, 2.0]}, [0, 0], fitted_on=None)


def test_the_cut_is_the_threshold_as_a_logit():
    calibration = Calibration(temperature=2.0, bias=-0.5, thresholds={"half": 0.5, "balanced": 0.7})
    for name in calibration.thresholds:
        at = thresholds.cut(calibration, name)
        assert calibration.score(at) == pytest.approx(calibration.thresholds[name])
    assert thresholds.cut(Calibration(thresholds={"half": 1.0}), "half") == np.inf


def test_drift_shows_the_rates_with_and_without_refitting():
    logits, labels = draw(1000, 1000)
    parent = thresholds.fit({"clean": logits}, labels, fitted_on=None)
    shifted = logits - 1.5  # a compressed child whose logits sank
    child = thresholds.fit({"clean": shifted}, labels, fitted_on=None)
    moved = {each.operating_point: each for each in thresholds.drift(parent, child, shifted, labels)}
    assert set(moved) == {"half", "balanced", "fpr1", "fpr5"}
    half = moved["half"]
    assert half.child_cut - half.parent_cut == pytest.approx(-1.5, abs=1e-6)
    assert half.kept_tpr < half.refitted_tpr == metrics.tpr(logits >= thresholds.cut(parent, "half"), labels)
    assert half.kept_tnr > half.refitted_tnr
