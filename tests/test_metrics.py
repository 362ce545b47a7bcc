"""Every figure against scikit-learn or against a slow reference written here."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.errors import DataError
from edgedet.metrics.intervals import draws


def draw(n_real: int, n_fake: int, *, seed: int = 0, ties: bool = False):
    """Logits and labels of a detector that is right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.zeros(n_real, int), np.ones(n_fake, int)])
    logits = rng.normal(size=n_real + n_fake) + 1.5 * labels - 0.5
    return (np.round(logits, 1) if ties else logits), labels


def class_weights(labels):
    return np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n_real", "n_fake"), [(300, 200), (40, 400), (1, 1)])
def test_ranking_figures_are_those_of_scikit_learn(n_real, n_fake, ties):
    logits, labels = draw(n_real, n_fake, ties=ties)
    assert metrics.roc_auc(logits, labels) == pytest.approx(reference.roc_auc_score(labels, logits))
    assert metrics.average_precision(logits, labels) == pytest.approx(reference.average_precision_score(labels, logits))


def test_verdict_figures_are_those_of_scikit_learn():
    logits, labels = draw(300, 120)
    verdicts = logits > 0.2
    assert metrics.accuracy(verdicts, labels) == pytest.approx(reference.accuracy_score(labels, verdicts))
    assert metrics.balanced_accuracy(verdicts, labels) == pytest.approx(
        reference.balanced_accuracy_score(labels, verdicts)
    )
    assert metrics.precision(verdicts, labels) == pytest.approx(reference.precision_score(labels, verdicts))
    assert metrics.f1(verdicts, labels) == pytest.approx(reference.f1_score(labels, verdicts))
    assert metrics.tpr(verdicts, labels) == pytest.approx(reference.recall_score(labels, verdicts))
    assert metrics.tnr(verdicts, labels) == pytest.approx(reference.recall_score(labels, verdicts, pos_label=0))


def test_precision_is_zero_when_nothing_is_called_fake():
    assert metrics.precision([0, 0, 0], [0, 1, 1]) == 0
    assert metrics.f1([0, 0, 0], [0, 1, 1]) == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("n_real", [1000, 2900, 3011])
def test_tpr_at_fpr_interpolates_the_roc_curve(fpr, n_real, ties):
    logits, labels = draw(n_real, 500, ties=ties)
    fprs, tprs, _ = reference.roc_curve(labels, logits, drop_intermediate=False)
    assert metrics.tpr_at_fpr(logits, labels, fpr) == pytest.approx(np.interp(fpr, fprs, tprs))


@pytest.mark.parametrize(("fpr", "n_real"), [(0.01, 1000), (0.05, 200)])
def test_tpr_at_fpr_is_not_measured_on_too_few_reals(fpr, n_real):
    assert metrics.tpr_at_fpr(*draw(n_real, 50), fpr) is not None
    assert metrics.tpr_at_fpr(*draw(n_real - 1, 50), fpr) is None


@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_is_where_the_two_errors_meet(ties):
    logits, labels = draw(300, 170, ties=ties)
    fprs, tprs, _ = reference.roc_curve(labels, logits, drop_intermediate=False)
    along = np.linspace(0, len(fprs) - 1, 400_001)  # walk the interpolated curve
    points = np.arange(len(fprs))
    x, y = np.interp(along, points, fprs), np.interp(along, points, tprs)
    assert metrics.eer(logits, labels) == pytest.approx(x[np.argmin(np.abs(x - (1 - y)))], abs=1e-4)


def test_equal_error_rate_of_a_perfect_and_of_an_inverted_detector():
    assert metrics.eer([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]) == pytest.approx(0)
    assert metrics.eer([3.0, 2.0, 1.0, 0.0], [0, 0, 1, 1]) == pytest.approx(1)


def test_probability_figures_weigh_both_classes_alike():
    logits, labels = draw(300, 70)
    scores = 1 / (1 + np.exp(-logits))
    weights = class_weights(labels)
    assert metrics.brier(scores, labels) == pytest.approx(
        reference.brier_score_loss(labels, scores, sample_weight=weights)
    )
    assert metrics.nll(logits, labels) == pytest.approx(reference.log_loss(labels, scores, sample_weight=weights))


def test_ece_is_the_weighted_gap_of_fifteen_bins():
    logits, labels = draw(300, 70)
    scores = 1 / (1 + np.exp(-2 * logits))
    weights, expected = class_weights(labels), 0.0
    for low in np.arange(15) / 15:
        inside = (scores >= low) & (scores < low + 1 / 15)
        if inside.any():
            gap = np.average(labels[inside], weights=weights[inside]) - np.average(
                scores[inside], weights=weights[inside]
            )
            expected += weights[inside].sum() * abs(gap)
    assert metrics.ece(scores, labels) == pytest.approx(expected)


def test_a_saturated_logit_has_a_finite_likelihood():
    assert metrics.nll([-800.0, 800.0], [1, 0]) == pytest.approx(800)


def test_summary_applies_the_calibration():
    logits, labels = draw(400, 300)
    calibration = Calibration(temperature=2.0, bias=-0.3, thresholds={"balanced": 0.6}, operating_point="balanced")
    figures = metrics.summary(logits, labels, calibration, n_boot=0)
    scores = 1 / (1 + np.exp(-(logits - 0.3) / 2))
    assert figures["balanced_accuracy"]["value"] == metrics.balanced_accuracy(scores >= 0.6, labels)
    assert figures["ece"]["value"] == pytest.approx(metrics.ece(scores, labels))
    assert figures["nll"]["value"] == pytest.approx(metrics.nll((logits - 0.3) / 2, labels))
    assert figures["auc"] == {"value": metrics.roc_auc(logits, labels), "low": None, "high": None, "n": 700, "reason": ""}
    assert (figures["n_real"], figures["n_fake"], figures["majority_accuracy"]) == (400, 300, 4 / 7)


def test_bootstrap_intervals_agree_with_a_loop_over_scikit_learn():
    logits, labels = draw(150, 100, ties=True)
    real, fake = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    rng, slow = np.random.default_rng(99), {"auc": [], "ap": [], "balanced_accuracy": [], "f1": []}
    for _ in range(1000):
        chosen = np.r_[rng.choice(real, real.size), rng.choice(fake, fake.size)]
        y, z = labels[chosen], logits[chosen]
        slow["auc"].append(reference.roc_auc_score(y, z))
        slow["ap"].append(reference.average_precision_score(y, z))
        slow["balanced_accuracy"].append(((z[y == 1] >= 0).mean() + (z[y == 0] < 0).mean()) / 2)
        slow["f1"].append(2 * (z[y == 1] >= 0).sum() / ((z >= 0).sum() + (y == 1).sum()))
    figures = metrics.summary(logits, labels, Calibration(), n_boot=3000)
    for name, values in slow.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert figures[name]["low"] == pytest.approx(low, abs=0.015), name
        assert figures[name]["high"] == pytest.approx(high, abs=0.015), name


def test_every_resample_is_scored_like_the_images_it_drew():
    logits, labels = draw(60, 40, ties=True)
    resampled = metrics.summary(logits, labels, Calibration(), n_boot=1, seed=5)
    real, fake = next(draws(60, 40, 1, 5))
    chosen = np.r_[np.flatnonzero(labels == 0)[real[0]], np.flatnonzero(labels == 1)[fake[0]]]
    repeated = metrics.summary(logits[chosen], labels[chosen], Calibration(), n_boot=0)
    measured = [name for name in metrics.NAMES if not repeated[name]["reason"]]
    assert len(measured) == 12
    for name in measured:
        assert resampled[name]["low"] == pytest.approx(repeated[name]["value"]), name


def test_more_images_than_a_block_holds_are_resampled_one_resample_at_a_time():
    real, fake = zip(*draws(10_000, 300_000, 3, 0), strict=True)
    assert [block.shape for block in real] == [(1, 10_000)] * 3
    assert [block.shape for block in fake] == [(1, 300_000)] * 3


def test_the_same_seed_gives_the_same_intervals():
    logits, labels = draw(50, 50)
    first, again, other = (metrics.summary(logits, labels, Calibration(), n_boot=50, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first["auc"]["low"] != other["auc"]["low"]


def test_verdicts_that_are_all_right_do_not_bound_accuracy_at_one():
    """A bootstrap of no error has no width; Wilson's bound of 0 of n is z^2 / (n + z^2)."""
    few = metrics.summary([-2.0] * 3 + [2.0] * 4, [0] * 3 + [1] * 4, Calibration())
    bounds = {n: stats.binomtest(0, n).proportion_ci(method="wilson").high for n in (3, 4, 7)}
    wanted = {"tnr": bounds[3], "tpr": bounds[4], "balanced_accuracy": (bounds[3] + bounds[4]) / 2, "accuracy": bounds[7]}
    for name, bound in wanted.items():
        assert few[name]["value"] == few[name]["high"] == 1
        assert few[name]["low"] == pytest.approx(1 - bound)


def test_figures_that_a_set_cannot_measure_say_why():
    logits, labels = draw(150, 20)
    figures = metrics.summary(logits, labels, Calibration(), n_boot=10)
    assert figures["tpr_at_fpr5"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 170,
        "reason": "not measurable: 150 real images, 200 needed for an FPR of 5%",
    }
    only_fakes = metrics.summary([1.0, -1.0], [1, 1], Calibration(), n_boot=10)
    assert only_fakes["tpr"]["value"] == only_fakes["accuracy"]["value"] == 0.5
    assert only_fakes["auc"]["reason"] == only_fakes["balanced_accuracy"]["reason"] == "no real images"
    assert metrics.summary([1.0], [0], Calibration(), n_boot=10)["tpr"]["reason"] == "no fake images"


def test_paired_difference_is_narrower_than_the_two_intervals():
    logits, labels = draw(500, 500)
    worse = logits + np.random.default_rng(3).normal(size=1000) * 0.3
    drop = metrics.paired_difference("auc", labels, (logits, Calibration()), (worse, Calibration()))
    before, after = (metrics.summary(z, labels, Calibration())["auc"] for z in (logits, worse))
    assert drop["value"] == pytest.approx(before["value"] - after["value"])
    assert drop["low"] < drop["value"] < drop["high"]
    assert drop["high"] - drop["low"] < (before["high"] - before["low"]) * 0.6


def test_a_model_does_not_differ_from_itself():
    logits, labels = draw(200, 100)
    for metric in ("balanced_accuracy", "auc", "tpr_at_fpr5", "nll"):
        same = metrics.paired_difference(metric, labels, (logits, Calibration()), (logits, Calibration()), n_boot=20)
        assert (same["value"], same["low"], same["high"]) == (0, 0, 0)


def test_paired_difference_uses_each_model_with_its_own_calibration():
    logits, labels = draw(300, 300)
    shifted = Calibration(bias=-2.0)
    drop = metrics.paired_difference("tnr", labels, (logits, Calibration()), (logits, shifted), n_boot=10)
    assert drop["value"] == pytest.approx(metrics.tnr(logits >= 0, labels) - metrics.tnr(logits >= 2, labels))


def test_paired_difference_says_what_cannot_be_measured():
    logits, labels = draw(100, 100)
    drop = metrics.paired_difference("tpr_at_fpr1", labels, (logits, Calibration()), (logits, Calibration()))
    assert drop["value"] is None
    assert "1,000 needed" in drop["reason"]
    with pytest.raises(DataError, match="did you mean 'auc'"):
        metrics.paired_difference("aucc", labels, (logits, Calibration()), (logits, Calibration()))


def test_mcnemar_counts_what_only_one_gets_right_and_tosses_a_coin():
    labels = np.array([1] * 60 + [0] * 40)
    before, after = labels.copy(), labels.copy()
    after[:12] = 0  # twelve that only the first gets right
    before[60:63] = 1  # three that only the second does
    found = metrics.mcnemar(labels, before, after)
    assert (found["only_before"], found["only_after"], found["n"]) == (12, 3, 100)
    slow = sum(math.comb(15, k) for k in (*range(4), *range(12, 16))) / 2**15
    assert found["p"] == pytest.approx(slow)


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (6, 0, 2 / 64), (600, 400, 2.7e-10)])
def test_mcnemar_is_exact_and_does_not_overflow(lost, won, p):
    labels = np.ones(2000, int)
    before, after = labels.copy(), labels.copy()
    after[:lost], before[1000 : 1000 + won] = 0, 0
    assert metrics.mcnemar(labels, before, after)["p"] == pytest.approx(p, rel=0.02)


def test_flip_rate_counts_changed_verdicts_and_bounds_them_after_wilson():
    rate = metrics.flip_rate([True] * 50, [True] * 48 + [False] * 2)
    assert rate["value"] == pytest.approx(0.04)
    assert (rate["low"], rate["high"]) == pytest.approx((0.0110, 0.1346), abs=1e-4)  # Wilson 1927, 2 of 50
    none = metrics.flip_rate([True] * 50, [True] * 50)
    assert (none["value"], none["low"]) == (0, 0)
    assert none["high"] == pytest.approx(0.0713, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.roc_auc([1.0, 2.0], [1, 1]), "no real image"),
        (lambda: metrics.roc_auc([], []), "expected one value a label"),
        (lambda: metrics.roc_auc([1.0, 2.0], [1]), "expected one value a label"),
        (lambda: metrics.roc_auc([1.0, 2.0], [1, 2]), r"labels 0 \(real\) and 1 \(fake\)"),
        (lambda: metrics.roc_auc([1.0, np.nan], [1, 0]), "1 of 2 values are not finite"),
        (lambda: metrics.accuracy([0.3, 0.7], [1, 0]), "compare them with a threshold"),
        (lambda: metrics.ece([-3.0, 7.0], [1, 0]), "not logits"),
        (lambda: metrics.flip_rate([], []), "at least one verdict"),
        (lambda: metrics.mcnemar([1, 0], [True, False], [True]), "one verdict a label"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize("ties", [False, True])
def test_the_roc_is_that_of_scikit_learn_and_its_area_is_auc(ties):
    logits, labels = draw(300, 120, ties=ties)
    found = metrics.roc(logits, labels)
    fprs, tprs, _ = reference.roc_curve(labels, logits, drop_intermediate=False)
    along, mine = fprs + tprs, found.fpr + found.tpr  # both rise from 0 to 2
    assert np.interp(along, mine, found.fpr) == pytest.approx(fprs)
    assert np.interp(along, mine, found.tpr) == pytest.approx(tprs)
    assert len(mine) < len(along) or ties
    assert np.trapezoid(found.tpr, found.fpr) == pytest.approx(metrics.roc_auc(logits, labels))


def test_reliability_is_what_ece_is_the_weighted_gap_of():
    logits, labels = draw(300, 120)
    calibration = Calibration(temperature=0.7, bias=0.2)
    found = metrics.reliability(logits, labels, calibration)
    scores, weights = calibration.score(logits), class_weights(labels)
    bins = np.minimum((scores * metrics.BINS).astype(int), metrics.BINS - 1)
    for at, place in enumerate(sorted(set(bins.tolist()))):
        mine = bins == place
        assert found.score[at] == pytest.approx(np.average(scores[mine], weights=weights[mine]))
        assert found.fakes[at] == pytest.approx(np.average(labels[mine], weights=weights[mine]))
    assert found.weight.sum() == pytest.approx(1)
    gap = np.sum(found.weight * np.abs(found.score - found.fakes))
    assert gap == pytest.approx(metrics.ece(scores, labels))


def test_a_curve_of_one_class_is_refused():
    for curve in (lambda: metrics.roc([1, 2], [1, 1]), lambda: metrics.reliability([1, 2], [0, 0], Calibration())):
        with pytest.raises(DataError, match="images of both classes"):
            curve()
