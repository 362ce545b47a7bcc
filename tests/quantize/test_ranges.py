from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from edgedet.errors import QuantizeError
from edgedet.quantize import ranges
from edgedet.quantize.ranges import Histogram, choose, find_ranges, observe, squared_error


def histogram_of(values: npt.NDArray[np.float32]) -> Histogram:
    found = Histogram.empty(float(values.min()), float(values.max()))
    found.add(values)
    return found


def in_batches(pixels: npt.NDArray[np.uint8], size: int) -> Callable[[], Iterator[npt.NDArray[np.uint8]]]:
    return lambda: (pixels[start : start + size] for start in range(0, len(pixels), size))


@pytest.fixture
def outliers() -> npt.NDArray[np.float32]:
    """The published trap: N(0, 1) with one outlier on either side."""
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    return np.concatenate([values, np.array([-28, 30], np.float32)])


def test_streaming_equals_everything_in_memory(residual_net: onnx.ModelProto, pixels: npt.NDArray[np.uint8], run) -> None:
    found = observe(residual_net, ["stem", "sum"], in_batches(pixels, 3))
    for name in ("stem", "sum"):
        values = run(residual_net, pixels, name)
        histogram = found[name]
        expected, edges = np.histogram(values, bins=ranges.BINS, range=(min(values.min(), 0), values.max()))
        assert histogram.low == pytest.approx(edges[0], rel=1e-5)
        assert histogram.high == pytest.approx(edges[-1], rel=1e-5)
        assert histogram.counts.sum() == values.size
        # float32 positions may put a value that lies on an edge into the neighbouring bin.
        assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 3


def test_the_order_of_batches_does_not_matter(residual_net: onnx.ModelProto, pixels: npt.NDArray[np.uint8]) -> None:
    forward = observe(residual_net, ["block"], in_batches(pixels, 4))["block"]
    backward = observe(residual_net, ["block"], in_batches(pixels[::-1].copy(), 4))["block"]
    assert (forward.low, forward.high) == (backward.low, backward.high)
    assert np.array_equal(forward.counts, backward.counts)


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
    assert len(range(ranges._ENTROPY_LEVELS, 128 + 1, ranges._ENTROPY_STEP)) == 1
    low, high = choose(histogram_of(outliers), "entropy")
    assert -8 < low < -3
    assert 3 < high < 8


# The squared error of clipping two outliers is itself a cost, so `mse` gives way least.
@pytest.mark.parametrize(("method", "share"), [("percentile", 0.1), ("mse", 0.7), ("entropy", 0.1)])
def test_an_outlier_does_not_ruin_the_other_values(
    method: ranges.Method, share: float, outliers: npt.NDArray[np.float32]
) -> None:
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


def test_a_constant_zero_tensor_has_a_range() -> None:
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert choose(histogram_of(np.zeros(10, np.float32)), method) == (0.0, 0.0)


def test_without_images_there_are_no_ranges(residual_net: onnx.ModelProto) -> None:
    with pytest.raises(QuantizeError, match="are there images"):
        find_ranges(residual_net, ["stem"], lambda: [])


def test_only_counts_are_kept_however_many_images_there_are(residual_net: onnx.ModelProto, pixels) -> None:
    few = observe(residual_net, ["stem"], in_batches(pixels[:4], 4))
    many = observe(residual_net, ["stem"], in_batches(np.tile(pixels, (4, 1, 1, 1)), 4))
    assert few["stem"].counts.nbytes == many["stem"].counts.nbytes == ranges.BINS * 8
    assert many["stem"].counts.sum() == 16 * few["stem"].counts.sum()
