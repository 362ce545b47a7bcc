import numpy as np
import pytest

from edgedet import metrics
from edgedet.evaluate import operating


def draw(n_real, n_fake, *, apart=2.0, seed=0):
    """Scores in (0, 1) of two views of the same images, the second of which looks more real; (N,) true is fake."""
    rng = np.random.default_rng(seed)
    fake = np.arange(n_real + n_fake) >= n_real
    logits = rng.normal(size=len(fake)) + np.where(fake, apart / 2, -apart / 2)
    return {"clean": 1 / (1 + np.exp(-logits)), "web": 1 / (1 + np.exp(1 - logits / 2))}, fake


def test_points_of_all_views_are_those_of_one_list_of_scores():
    scores, fake = draw(1000, 300)
    together, labels = np.concatenate([*scores.values()]), np.tile(fake, 2)
    found, reasons = operating.points(scores, fake)
    assert not reasons
    assert set(found) == set(operating.NAMES)
    best = max(metrics.balanced_accuracy(together >= edge, labels) for edge in together)
    assert metrics.balanced_accuracy(together >= found["balanced"], labels) == pytest.approx(best)
    for name, allowed in (("fpr1", 20), ("fpr5", 100)):
        assert (together[~labels] >= found[name]).sum() == allowed


def test_the_worst_tier_is_as_good_as_it_can_be_while_reals_stay_real_in_every_view():
    scores, fake = draw(400, 300, seed=1)
    found, _ = operating.points(scores, fake)

    def of_worst(edge):
        kept = min(metrics.tnr(each >= edge, fake.astype(int)) for each in scores.values())
        worst = min(metrics.balanced_accuracy(each >= edge, fake.astype(int)) for each in scores.values())
        return worst if kept >= 0.95 else 0.0

    best = max(of_worst(edge) for edge in np.unique(np.concatenate([*scores.values()])))
    assert of_worst(found["worst_tier"]) == pytest.approx(best)
    assert best > of_worst(found["half"])  # a third of the recompressed fakes only


def test_a_point_that_cannot_be_measured_is_left_out_with_the_reason():
    scores, fake = draw(400, 50)
    found, reasons = operating.points({"clean": scores["clean"]}, fake)
    assert set(found) == {"half", "balanced", "fpr5"}
    assert reasons == {
        "fpr1": "not measurable: 400 real images, 1,000 needed",
        "worst_tier": "not measurable: there is one view only",
    }
    _, reasons = operating.points(*draw(100, 100))
    assert reasons["worst_tier"] == reasons["fpr5"] == "not measurable: 100 real images, 200 needed"


@pytest.mark.parametrize(("count", "rate"), [(1000, 0.01), (300, 0.05)])
def test_beyond_the_band_verdicts_are_right_but_for_the_rate(count, rate):
    scores, fake = draw(count, count, seed=3)
    low, high = operating.band(scores, fake)
    together, labels = np.concatenate([*scores.values()]), np.tile(fake, 2)
    assert 0 < low < high < 1
    assert (together[labels] < low).mean() <= rate
    assert (together[~labels] >= high).mean() <= rate
    assert (together[labels] <= low + 1e-3).mean() > rate - 0.01  # and it is no wider than that takes


def test_classes_that_lie_apart_need_no_band():
    scores, fake = draw(300, 300, apart=8.0)
    clean = {"clean": scores["clean"]}
    low, high = operating.band(clean, fake)
    assert low == high == operating.points(clean, fake)[0]["balanced"]


def test_a_band_that_too_few_images_measure_is_none():
    assert operating.band(*draw(300, 10)) is None
