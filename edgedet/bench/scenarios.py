"""The two scenarios that a detector is timed in, and how several are timed side by side.

**Single-stream.** One image per call; the next call starts when the last has returned. *The* number is the **p50 latency
in milliseconds**; p90 (MLPerf's choice), p95, p99 (from 1,000 runs on) and the mean stand beside it.

**Offline.** All images are there from the start and are taken in batches of one size. *The* number is the **throughput in
images per second** at the best batch size of a sweep; every size of the sweep is kept.

Each is run **model-only** (pixels in memory to logits) and single-stream also **end to end** (an encoded file's bytes, in
memory, to a score: decode, preprocess, run, calibrate). These are separate measurements: no latency is ever computed from
a throughput, nor the other way round.

**Interleaved.** Whatever is compared is timed in the same run: the time is cut into rounds, each runner has one block of
consecutive calls in each round, and the order rotates. A neighbour who steals the machine for a second hits all of them, so
ratios hold where absolute figures wander.

The harness knows no model: a runner is any callable. What it costs itself is measured with a runner that does nothing
(:func:`overhead`). Only names ("MLPerf-like") are borrowed: nothing here is verified by MLCommons.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from edgedet.bench import statistics
from edgedet.bench.statistics import Latency, Ratio, Samples
from edgedet.data.parallel import usable_cores
from edgedet.errors import BenchError
from edgedet.recipe import Config
from edgedet.runtime.null import NullRuntime

Runner = Callable[[], object]
Clock = Callable[[], int]
"""Nanoseconds, never going back."""

T = TypeVar("T")

BATCHES = (1, 4, 16, 64)
_WARM_WINDOWS = 5


class Rules(Config, frozen=True, kw_only=True):
    """How long each runner is timed.

    A runner is done after `seconds` of timed calls and `min_runs` of them, or after `max_seconds`, whichever is first. Time and
    runs are shared out over `rounds`. Warm-up lasts at least `warmup_seconds` and until the medians of its last five
    windows vary by no more than `stable_cov`, but no longer than `warmup_max_seconds`. At the start of each block
    `settle_seconds` of calls are not counted, in which caches fill and the other runner's threads come to rest: those of ONNX
    Runtime spin for 12 to 21 ms after their last call (measured, two threads).
    """

    seconds: float = 10.0
    min_runs: int = 1_000
    max_seconds: float = 30.0
    rounds: int = 20
    warmup_seconds: float = 0.2
    warmup_max_seconds: float = 2.0
    stable_cov: float = 0.05
    settle_seconds: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.max_seconds:
            raise ValueError(f"`seconds` must be above 0 and at most `max_seconds`, got {self.seconds}, {self.max_seconds}")
        if self.rounds < 1 or self.min_runs < 1:
            raise ValueError(f"`rounds` and `min_runs` must be at least 1, got {self.rounds} and {self.min_runs}")

    @classmethod
    def lasting(cls, seconds: float) -> Rules:
        """Rules for about `seconds` per runner, three times as long when 1,000 runs need it."""
        return cls(seconds=seconds, max_seconds=3 * seconds)


@dataclass(frozen=True)
class WarmUp:
    """What went before: unrecorded calls, how long they took, and whether they had become steady."""

    calls: int
    milliseconds: float
    stable: bool


@dataclass(frozen=True)
class Comparison:
    """Raw samples and warm-up by runner, all from one interleaved run; `baseline` is one of them."""

    baseline: str
    samples: Mapping[str, Samples]
    warm_ups: Mapping[str, WarmUp]

    def latency(self, name: str) -> Latency:
        """The figures of `name`, milliseconds per call."""
        return statistics.latency(self.samples[name])

    def ratio(self, name: str, baseline: str | None = None) -> Ratio:
        """How many times faster `name` is than `baseline`, with its confidence interval."""
        other = baseline or self.baseline
        return statistics.ratio(self.samples[other], self.samples[name], name=other)


@dataclass(frozen=True)
class Throughput:
    """Images per second at one batch size, from `calls` calls; total images over total time."""

    batch: int
    images_per_second: float
    calls: int


@dataclass(frozen=True)
class ThreadChoice:
    """The thread count with the lowest p50, and the p50 in milliseconds of every candidate."""

    threads: int
    p50_ms: Mapping[int, float]


class Cycle(Generic[T]):
    """A runner that calls `function` with each of `inputs` in turn, so that no run repeats the input before it."""

    def __init__(self, function: Callable[[T], object], inputs: Sequence[T]) -> None:
        if not inputs:
            raise BenchError("nothing to run on: the benchmark needs at least one input")
        self._function, self._inputs = function, itertools.cycle(inputs)

    def __call__(self) -> object:
        """Run on the next input."""
        return self._function(next(self._inputs))


def compare(
    runners: Mapping[str, Runner], *, baseline: str, rules: Rules | None = None, clock: Clock = time.perf_counter_ns
) -> Comparison:
    """Time all `runners` in rotating blocks of one run (a single one too: then it is plain single-stream).

    Raises:
        BenchError: no runners, or `baseline` is not one of them.
    """
    if baseline not in runners:
        raise BenchError(f"the baseline {baseline!r} is none of what is measured: {', '.join(runners) or 'nothing'}")
    rules = rules or Rules()
    times = {name: array("q") for name in runners}
    rounds = {name: array("q") for name in runners}
    with _quiet():
        warm_ups = {name: warm_up(runner, rules, clock) for name, runner in runners.items()}
        for number in range(rules.rounds):
            for name in _order(list(runners), number):
                block = _block(runners[name], rules, clock)
                times[name].extend(block)
                rounds[name].extend(itertools.repeat(number, len(block)))
            gc.collect()
    samples = {name: Samples(np.array(times[name], np.int64), np.array(rounds[name], np.int64)) for name in runners}
    return Comparison(baseline, samples, warm_ups)


def single_stream(runner: Runner, rules: Rules | None = None, clock: Clock = time.perf_counter_ns) -> Latency:
    """The latency of one runner alone; see the module's definition."""
    return compare({"": runner}, baseline="", rules=rules, clock=clock).latency("")


def overhead(rules: Rules | None = None, clock: Clock = time.perf_counter_ns) -> Latency:
    """What the harness itself adds to each call: the null runtime, which does nothing with an image and is timed like any."""
    runner = Cycle(NullRuntime().run, [np.zeros((1, 1, 1, 3), np.uint8)])
    return single_stream(runner, rules or Rules(seconds=0.1, max_seconds=0.1, rounds=5), clock)


def offline(
    makers: Mapping[str, Callable[[int], Runner]],
    *,
    batches: Sequence[int] = BATCHES,
    rules: Rules | None = None,
    longest_call: float = 2.0,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, tuple[Throughput, ...]]:
    """Sweep the batch sizes, all runners interleaved at each; ``makers[name](batch)`` gives the runner of one call.

    A size at which one call would last more than `longest_call` seconds, going by the size before, is left out.
    """
    rules = rules or sweep_rules(1.0)
    sweep: dict[str, list[Throughput]] = {name: [] for name in makers}
    for batch in sorted(set(batches)):
        runners = {name: make(batch) for name, make in makers.items() if _fits(sweep[name], batch, longest_call)}
        if not runners:
            break
        found = compare(runners, baseline=next(iter(runners)), rules=rules, clock=clock)
        for name, samples in found.samples.items():
            calls, seconds = samples.nanoseconds.size, float(samples.nanoseconds.sum()) / 1e9
            sweep[name].append(Throughput(batch, batch * calls / seconds, calls))
    return {name: tuple(points) for name, points in sweep.items()}


def sweep_rules(seconds: float) -> Rules:
    """Rules for one batch size of the offline scenario: about `seconds` per runner, five times as long for three calls."""
    return Rules(seconds=seconds, min_runs=3, max_seconds=5 * seconds, rounds=3, warmup_max_seconds=0.5)


def best_threads(
    load: Callable[[int], Runner],
    candidates: Sequence[int] | None = None,
    *,
    rules: Rules | None = None,
    clock: Clock = time.perf_counter_ns,
) -> ThreadChoice:
    """The thread count of least p50 at batch 1; ``load(threads)`` gives the runner. Candidates run interleaved.

    Raises:
        BenchError: no candidates.
    """
    chosen = thread_candidates() if candidates is None else candidates
    runners = {str(threads): load(threads) for threads in chosen}
    if not runners:
        raise BenchError("no thread counts to choose from: give at least one")
    rules = rules or Rules(seconds=0.5, min_runs=20, max_seconds=2.0, rounds=5, warmup_max_seconds=0.5)
    found = compare(runners, baseline=next(iter(runners)), rules=rules, clock=clock)
    p50 = {int(name): found.latency(name).p50_ms for name in runners}
    return ThreadChoice(min(p50, key=lambda threads: (p50[threads], threads)), p50)


def thread_candidates() -> tuple[int, ...]:
    """1, 2, 4 ... and all cores."""
    cores = usable_cores()
    return (*(1 << power for power in range(cores.bit_length()) if 1 << power < cores), cores)


def warm_up(runner: Runner, rules: Rules, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call `runner` without recording until it is steady, as :class:`Rules` says."""
    medians: list[float] = []
    calls, spent, window = 0, 0, rules.warmup_seconds * 1e9 / _WARM_WINDOWS
    while True:
        took = _timed(runner, clock, least=window, runs=1, most=window)
        calls, spent = calls + len(took), spent + sum(took)
        medians = [*medians, float(np.median(took))][-_WARM_WINDOWS:]
        steady = len(medians) == _WARM_WINDOWS and _cov(medians) <= rules.stable_cov
        enough = len(medians) == _WARM_WINDOWS and spent >= rules.warmup_seconds * 1e9
        if (steady and enough) or spent >= rules.warmup_max_seconds * 1e9:
            return WarmUp(calls, spent / 1e6, steady)


def _block(runner: Runner, rules: Rules, clock: Clock) -> array[int]:
    """One runner's share of one round; int64 nanoseconds per call."""
    settle = rules.settle_seconds * 1e9
    _timed(runner, clock, least=settle, runs=1, most=settle)
    share = 1e9 / rules.rounds
    runs = -(-rules.min_runs // rules.rounds)
    return _timed(runner, clock, least=rules.seconds * share, runs=runs, most=rules.max_seconds * share)


def _timed(runner: Runner, clock: Clock, *, least: float, runs: int, most: float) -> array[int]:
    """Call until `least` nanoseconds and `runs` calls are reached, or `most` nanoseconds; at least once."""
    took = array("q")
    spent = 0
    while True:
        start = clock()
        runner()
        elapsed = clock() - start
        took.append(elapsed)
        spent += elapsed
        if (spent >= least and len(took) >= runs) or spent >= most:
            return took


def _order(names: list[str], number: int) -> list[str]:
    """Each comes first equally often, and no one always follows the same other: A B C, B C A, C A B, then all reversed."""
    shift = number % len(names)
    rotated = names[shift:] + names[:shift]
    return rotated[::-1] if (number // len(names)) % 2 else rotated


def _fits(points: Sequence[Throughput], batch: int, longest_call: float) -> bool:
    return not points or batch / points[-1].images_per_second <= longest_call


def _cov(values: Sequence[float]) -> float:
    mean = float(np.mean(values))
    return float(np.std(values)) / mean if mean else 0.0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection while the clock runs (it is done between rounds): the interpreter's pause is not the model's."""
    was_on = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already need not be looked at between rounds
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
