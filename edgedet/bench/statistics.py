"""From raw samples to the figures that are reported: percentiles, means, and ratios with their confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.errors import BenchError
from edgedet.recipe import Config

P99_RUNS = 1_000
"""A p99 from fewer runs rests on fewer than ten values, so it is not given."""

UNSTEADY_COV = 0.025
"""Above this coefficient of variation a latency is called unsteady (the threshold is trtexec's)."""

RESAMPLES = 2_000


@dataclass(frozen=True)
class Samples:
    """Every run of one runner. nanoseconds: int64 (n,), in order; rounds: int64 (n,), the round that each belongs to."""

    nanoseconds: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]

    def round_medians(self) -> npt.NDArray[np.float64]:
        """The median of each round, float64 (rounds,), nanoseconds."""
        edges = np.flatnonzero(np.diff(self.rounds)) + 1
        return np.array([np.median(part) for part in np.split(self.nanoseconds, edges)], dtype=np.float64)


class Latency(Config, frozen=True, kw_only=True):
    """How long one call takes, in milliseconds; `p99_ms` is None when there were too few runs, and `p99_reason` says so.

    cov: the coefficient of variation, standard deviation / mean.
    """

    n: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float | None
    p99_reason: str | None = None
    mean_ms: float
    cov: float


class Ratio(Config, frozen=True, kw_only=True):
    """How many times faster than `baseline`, in the same run, with a 95 % confidence interval over the rounds."""

    baseline: str
    value: float
    low: float
    high: float
    rounds: int


def latency(samples: Samples) -> Latency:
    """The figures of one runner; no sample is left out.

    Raises:
        BenchError: there are no samples.
    """
    if not samples.nanoseconds.size:
        raise BenchError("no runs were timed, so there is no latency: give the benchmark more seconds")
    ms = samples.nanoseconds / 1e6
    p50, p90, p95, p99 = (float(value) for value in np.percentile(ms, (50, 90, 95, 99)))
    mean = float(ms.mean())
    enough = ms.size >= P99_RUNS
    return Latency(
        n=int(ms.size),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99 if enough else None,
        p99_reason=None if enough else f"p99 needs {P99_RUNS:,} runs, there were {ms.size:,}",
        mean_ms=mean,
        cov=float(ms.std() / mean) if mean else 0.0,
    )


def ratio(baseline: Samples, other: Samples, *, name: str, seed: int = 0) -> Ratio:
    """How many times faster `other` is than `baseline` (named `name`); both come from one interleaved run.

    Each round gives one ratio of medians, of two blocks that ran side by side, so that a disturbance which lasts longer
    than a round cancels. The value is the median over the rounds; the interval is the percentile bootstrap's over the
    rounds (Efron 1979), because runs within one round are not independent.

    Raises:
        BenchError: the two do not have the same rounds.
    """
    slow, fast = baseline.round_medians(), other.round_medians()
    if slow.shape != fast.shape or not slow.size:
        raise BenchError(f"a ratio needs the same rounds of both, got {slow.size} and {fast.size}: measure them in one run")
    per_round = slow / fast
    picks = np.random.default_rng(seed).integers(0, per_round.size, size=(RESAMPLES, per_round.size))
    low, high = np.percentile(np.median(per_round[picks], axis=1), (2.5, 97.5))
    return Ratio(
        baseline=name, value=float(np.median(per_round)), low=float(low), high=float(high), rounds=int(per_round.size)
    )
