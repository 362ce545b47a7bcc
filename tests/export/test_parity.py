import numpy as np
import pytest

from edgedet.artifact import Calibration
from edgedet.errors import Collapsed, ParityError
from edgedet.export.parity import BATCH_SIZES, COLLAPSED, GATES, ParityGate, measure

PIXELS = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
LOGITS = np.linspace(-4, 4, 16).astype(np.float32)


def parent(batch):
    """The n-th image has the n-th logit."""
    return LOGITS[batch[:, 0, 0, 0]]


def test_a_child_that_agrees_has_no_difference_at_any_batch_size() -> None:
    seen: list[int] = []

    def run(batch):
        seen.append(len(batch))
        return parent(batch)

    found = measure(run, PIXELS, LOGITS, Calibration())
    assert (found.max_difference, found.mean_difference, found.flips, found.n) == (0, 0, 0, 16)
    assert set(seen) == set(BATCH_SIZES)
    assert np.array_equal(found.logits, LOGITS)
    found.hold(GATES["fp32"], "child")


def test_differences_are_relative_to_the_largest_logit() -> None:
    found = measure(lambda batch: parent(batch) + np.float32(0.4), PIXELS, LOGITS, Calibration())
    assert found.figures["max_relative"] == pytest.approx(0.1, rel=1e-5)
    assert found.figures["mean_relative"] == pytest.approx(0.1, rel=1e-5)
    # -0.267 is the one logit that crosses zero.
    assert found.flips == 1


def test_logits_below_one_are_not_blown_up() -> None:
    found = measure(lambda batch: parent(batch) / 100 + np.float32(1e-5), PIXELS, LOGITS / 100, Calibration())
    found.hold(GATES["fp32"], "child")
    assert found.scale == 1.0


def test_a_fault_at_one_batch_size_only_is_found() -> None:
    def run(batch):
        return parent(batch) * (np.float32(-1) if len(batch) == 7 else np.float32(1))

    found = measure(run, PIXELS, LOGITS, Calibration())
    assert found.max_difference == pytest.approx(8)
    with pytest.raises(ParityError, match=r"max_relative is 2, the parity gate allows 0\.0001"):
        found.hold(GATES["fp32"], "child")


def test_flips_are_counted_at_the_stored_threshold() -> None:
    strict = Calibration(thresholds={"fpr1": 0.95}, operating_point="fpr1")
    found = measure(lambda batch: parent(batch) - np.float32(2), PIXELS, LOGITS, strict)
    expected = int((strict.verdict(LOGITS) != strict.verdict(LOGITS - 2)).sum())
    assert expected == 2
    assert found.flips == expected
    with pytest.raises(ParityError, match=f"{expected} of 16 verdicts flipped"):
        found.hold(ParityGate(flips=0.0), "child")


def test_a_logit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ParityError, match="a batch of 1 images gave a logit that is not finite"):
        measure(lambda batch: parent(batch) * np.float32("nan"), PIXELS, LOGITS, Calibration())


def test_a_fixed_batch_is_refused() -> None:
    with pytest.raises(ParityError, match="a batch of 1 images gave logits of shape"):
        measure(lambda batch: np.zeros(2, np.float32), PIXELS, LOGITS, Calibration())


def test_order_is_kendalls_of_the_pairs_that_the_parent_tells_apart() -> None:
    rng = np.random.default_rng(0)
    child = (LOGITS + 3 * rng.normal(size=16)).astype(np.float32)
    child[3] = child[7]
    agree = []
    for i in range(16):
        for j in range(i):
            if abs(float(LOGITS[i]) - float(LOGITS[j])) > 0.4:  # a tenth of the scale
                agree.append(0 if child[i] == child[j] else 1 if (child[i] > child[j]) == (LOGITS[i] > LOGITS[j]) else -1)
    found = measure(lambda batch: child[batch[:, 0, 0, 0]], PIXELS, LOGITS, Calibration())
    assert found.order == pytest.approx(np.mean(agree))
    assert 0.1 < found.order < 0.9


def test_a_child_of_lower_precision_that_ranks_nothing_has_collapsed() -> None:
    constant = measure(lambda batch: np.full(len(batch), 3, np.float32), PIXELS, LOGITS, Calibration())
    assert constant.order == 0 < COLLAPSED
    with pytest.raises(Collapsed, match=r"COLLAPSED under int8: of the parent.s order .* 0% is left; child: "):
        constant.hold_lowered(GATES["int8"], "child", "int8")
    constant.hold_lowered(ParityGate(), "child", "int8")  # no limit is broken
    moved = measure(lambda batch: parent(batch) + np.float32(3), PIXELS, LOGITS, Calibration())
    for found, precision in ((constant, "fp32"), (moved, "int8")):
        with pytest.raises(ParityError) as raised:
            found.hold_lowered(GATES["int8"], "child", precision)
        assert type(raised.value) is ParityError


def test_a_parent_that_tells_no_image_from_another_has_no_order() -> None:
    even = np.full(16, 0.5, np.float32)
    assert measure(lambda batch: even[: len(batch)] + 2, PIXELS, even, Calibration()).order == 1
