import numpy as np
import numpy.typing as npt
import pytest

from edgedet.quantize.ranges import Histogram, Method, choose, squared_error
from edgedet.quantize.ranges.methods import ENTROPY_LEVELS, ENTROPY_STEP


def histogram_of(values: npt.NDArray[np.float32]) -> Histogram:
    found = Histogram.empty(float(values.min()), float(values.max()))
    found.add(values)
    return found


@pytest.fixture
def outliers() -> npt.NDArray[np.float32]:
    """The published trap: N(0, 1) with one outlier on either side."""
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    return np.concatenate([values, np.array([-28, 30], np.float32)])


def test_min_max_keeps_all_and_percentile_leaves_the_outermost(outliers: npt.NDArray[np.float32]) -> None:
    histogram = histogram_of(outliers)
    assert choose(histogram, "minmax") == (-28.0, 30.0)
    low, high = choose(histogram, "percentile", percentile=99.9)
    expected = np.percentile(outliers, [0.05, 99.95])
    assert (low, high) == pytest.approx(tuple(expected), abs=2 * histogram.width)


def test_behind_a_relu_the_lower_end_stays_zero(outliers: npt.NDArray[np.float32]) -> None:
    histogram = histogram_of(np.maximum(outliers, 0))
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert choose(histogram, method)[0] == 0.0


def test_least_squared_error_beats_every_other_candidate(outliers: npt.NDArray[np.float32]) -> None:
    histogram = histogram_of(np.maximum(outliers, 0))
    _, high = choose(histogram, "mse")

    def slow_error(top: float) -> float:
        values = np.maximum(outliers, 0).astype(np.float64)
        step = top / 255
        return float(((values - np.clip(np.round(values / step), 0, 255) * step) ** 2).sum())

    tops = 30 * np.linspace(0.05, 1, 60)
    assert slow_error(high) <= 1.02 * min(map(slow_error, tops))
    assert squared_error(histogram, 0, high) == pytest.approx(slow_error(high), rel=0.1)


def test_entropy_with_2048_bins_avoids_the_trap_that_128_bins_fall_into(outliers: npt.NDArray[np.float32]) -> None:
    # With 128 bins for 128 levels there is a single candidate: the whole range, outliers and all.
    assert len(range(ENTROPY_LEVELS, 128 + 1, ENTROPY_STEP)) == 1
    low, high = choose(histogram_of(outliers), "entropy")
    assert -8 < low < -3
    assert 3 < high < 8


# The squared error of clipping two outliers is itself a cost, so `mse` gives way least.
@pytest.mark.parametrize(("method", "share"), [("percentile", 0.1), ("mse", 0.7), ("entropy", 0.1)])
def test_an_outlier_does_not_ruin_the_other_values(method: Method, share: float, outliers: npt.NDArray[np.float32]) -> None:
    body = np.clip(outliers, -3, 3).astype(np.float64)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(((body - (low + np.round((np.clip(body, low, high) - low) / step) * step)) ** 2).mean())

    histogram = histogram_of(outliers)
    assert error(*choose(histogram, method)) < share * error(*choose(histogram, "minmax"))


def test_symmetric_ranges_have_one_magnitude(outliers: npt.NDArray[np.float32]) -> None:
    for method in ("minmax", "percentile", "mse", "entropy"):
        low, high = choose(histogram_of(outliers), method, symmetric=True)
        assert low == -high


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9])
def test_least_squared_error_of_a_symmetric_range_counts_a_zero_as_exact(zeros: float) -> None:
    """As int8 does, whose zero point is 0: behind a ReLU most values are zero, and cost nothing whatever the range."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(100_000) < zeros, 0, np.abs(rng.laplace(size=100_000))).astype(np.float32)

    def slow_error(end: float) -> float:
        step = end / 127
        return float(((values - np.clip(np.round(values / step), -128, 127) * step) ** 2).sum())

    _, high = choose(histogram_of(values), "mse", symmetric=True)
    assert slow_error(high) <= 1.02 * min(map(slow_error, values.max() * np.linspace(0.05, 1, 60)))


def test_a_constant_zero_tensor_has_a_range() -> None:
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert choose(histogram_of(np.zeros(10, np.float32)), method) == (0.0, 0.0)
