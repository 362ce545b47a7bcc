import math

import numpy as np
import pytest

from edgedet.bench import statistics
from edgedet.bench.statistics import Samples
from edgedet.errors import BenchError


def samples(nanoseconds, rounds=None) -> Samples:
    values = np.asarray(nanoseconds, np.int64)
    return Samples(values, np.asarray(rounds if rounds is not None else np.zeros(len(values)), np.int64))


def blocks(rng, rounds: int, per_round: int, level: float, drift) -> Samples:
    """`rounds` blocks of noisy runs around `level`, each block slowed down by its round's `drift`."""
    runs = level * drift[:, None] * rng.lognormal(0, 0.05, (rounds, per_round))
    return samples(runs.ravel(), np.repeat(np.arange(rounds), per_round))


def slow_percentile(values, share: float) -> float:
    """Linear interpolation between the two neighbours, written out."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def test_percentiles_are_those_of_every_sample():
    runs = np.random.default_rng(0).lognormal(13, 1, 1_234).astype(np.int64)
    found = statistics.latency(samples(runs))
    ms = [run / 1e6 for run in runs]
    for value, share in ((found.p50_ms, 0.5), (found.p90_ms, 0.9), (found.p95_ms, 0.95), (found.p99_ms, 0.99)):
        assert value == pytest.approx(slow_percentile(ms, share), rel=1e-12)
    assert found.mean_ms == pytest.approx(sum(ms) / len(ms))
    assert found.cov == pytest.approx(np.std(ms) / np.mean(ms))
    assert (found.n, found.p99_reason) == (1_234, None)


def test_p99_needs_a_thousand_runs():
    found = statistics.latency(samples([1_000_000] * 999))
    assert found.p99_ms is None
    assert found.p99_reason == "p99 needs 1,000 runs, there were 999"
    assert statistics.latency(samples([1_000_000] * 1_000)).p99_ms == 1.0


def test_no_samples_is_an_error():
    with pytest.raises(BenchError, match="no runs were timed"):
        statistics.latency(samples([]))


def test_medians_are_taken_round_by_round():
    given = samples([1, 2, 30, 7, 9, 5], [0, 0, 0, 1, 1, 4])
    np.testing.assert_array_equal(given.round_medians(), [2, 8, 5])


def test_the_ratio_is_the_median_over_rounds_and_its_interval_the_percentile_bootstrap():
    rng = np.random.default_rng(1)
    drift = rng.uniform(1, 3, 11)
    slow, fast = blocks(rng, 11, 9, 40_000, drift), blocks(rng, 11, 9, 10_000, drift)
    found = statistics.ratio(slow, fast, name="teacher", seed=5)

    pairs = []
    for number in range(11):
        mine = sorted(slow.nanoseconds[slow.rounds == number])
        other = sorted(fast.nanoseconds[fast.rounds == number])
        pairs.append(mine[4] / other[4])
    draws = np.random.default_rng(5).integers(0, 11, size=(statistics.RESAMPLES, 11))
    resampled = [sorted(pairs[pick] for pick in draw)[5] for draw in draws]
    assert (found.baseline, found.rounds) == ("teacher", 11)
    assert found.value == pytest.approx(sorted(pairs)[5])
    assert found.low == pytest.approx(slow_percentile(resampled, 0.025))
    assert found.high == pytest.approx(slow_percentile(resampled, 0.975))
    assert found.low <= 4.0 <= found.high


def test_the_interval_of_two_equal_runners_holds_one_about_as_often_as_promised():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(100):
        drift = rng.uniform(1, 4, 20)
        found = statistics.ratio(blocks(rng, 20, 15, 1e6, drift), blocks(rng, 20, 15, 1e6, drift), name="a")
        inside += found.low <= 1 <= found.high
    assert 0.88 <= inside / 100 <= 1


def test_a_disturbance_that_lasts_rounds_cancels():
    rng = np.random.default_rng(3)
    steal = np.where(np.arange(20) < 9, 10.0, 1.0)
    found = statistics.ratio(blocks(rng, 20, 50, 2e6, steal), blocks(rng, 20, 50, 1e6, steal), name="a")
    assert found.value == pytest.approx(2.0, rel=0.02)


def test_runs_that_were_not_interleaved_have_no_ratio():
    with pytest.raises(BenchError, match="measure them in one run"):
        statistics.ratio(samples([1, 1], [0, 1]), samples([1, 1, 1], [0, 1, 2]), name="a")
