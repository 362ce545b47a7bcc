"""What ``--runtime auto`` stands for in a benchmark and in a long run: the fastest of the runtimes that are there, as measured.

The runtime that an artifact's kind has by default keeps its place unless another one's speed-up over it is above 1 with its
whole 95 % interval. All are timed in one interleaved run on the same inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedet.artifact import GOLDEN, Artifact
from edgedet.bench.scenarios import Clock, Comparison, Cycle, Rules, Runner, compare
from edgedet.bench.statistics import Ratio
from edgedet.errors import EdgedetError
from edgedet.preprocess import Pixels
from edgedet.runtime import base
from edgedet.runtime.base import Runtime

QUICK = Rules(seconds=0.5, min_runs=20, max_seconds=2.0, rounds=10, warmup_max_seconds=0.5)


@dataclass(frozen=True)
class Pick:
    """The runtime that is used. ratios: of each measured one over the first; left_out: why others were not measured."""

    runtime: str
    ratios: Mapping[str, Ratio]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        """Which one, and why, on one line."""
        others = [f"{name} is {_words(each)} as fast as {each.baseline}" for name, each in self.ratios.items()]
        others += [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]
        return f"runs on {self.runtime}: {'; '.join(others) or 'there is no other runtime for it here'}"


def fastest(artifact: Artifact, inputs: Sequence[Pixels], *, threads: int, clock: Clock = time.perf_counter_ns) -> Pick:
    """Time the runtimes that may run `artifact` on `inputs`, uint8 (B, H, W, 3) each, one a call.

    With one candidate nothing is timed.

    Raises:
        ArtifactError: the default runtime does not accept the artifact.
        RuntimeUnavailable: it is not installed.
    """
    first, *rivals = base.rivals(artifact)
    if not rivals:
        return Pick(first, {}, {})
    loaded: list[Runtime] = []

    def load(name: str) -> Runner:
        loaded.append(base.load(artifact, runtime=name, threads=threads))
        runner = Cycle(loaded[-1].run, inputs)
        runner()
        return runner

    try:
        return among(load, first, rivals, clock=clock)
    finally:
        for runtime in loaded:
            runtime.close()


def among(
    load: Callable[[str], Runner], first: str, rivals: Sequence[str], *, clock: Clock = time.perf_counter_ns
) -> Pick:
    """Time `first` and those of `rivals` that can be loaded."""
    runners, left_out = {first: load(first)}, {}
    for name in rivals:
        try:
            runners[name] = load(name)
        except EdgedetError as error:
            left_out[name] = str(error)
    if len(runners) == 1:
        return Pick(first, {}, left_out)
    return decided(compare(runners, baseline=first, rules=QUICK, clock=clock), left_out)


def decided(found: Comparison, left_out: Mapping[str, str]) -> Pick:
    """The one of highest speed-up among those whose interval lies above 1; the baseline when there is none."""
    ratios = {name: found.ratio(name) for name in found.samples if name != found.baseline}
    faster = {name: each.value for name, each in ratios.items() if each.low > 1}
    return Pick(max(faster, key=lambda name: faster[name], default=found.baseline), ratios, left_out)


def parity(artifact: Artifact, runtime: Runtime) -> float | None:
    """The largest difference of a golden image's logit to what the artifact's own export gave; None without golden inputs.

    Raises:
        ArtifactError: the runtime does not take them.
    """
    if GOLDEN not in artifact.manifest.files:
        return None
    golden = artifact.golden
    if not len(golden.pixels):
        return None
    logits = np.concatenate([runtime.run(golden.pixels[at : at + 1])[base.LOGIT] for at in range(len(golden.pixels))])
    return float(np.abs(logits - golden.logits).max())


def _words(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times"
