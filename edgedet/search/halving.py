"""Successive halving: who goes on to longer training, decided from what was measured and nothing else.

Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016; the gate metric
takes the place of the loss. Latency and size do not depend on how long a network learns: what exceeds a limit stops at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from edgedet.errors import UsageError
from edgedet.search.result import Result
from edgedet.search.space import Trunk

T = TypeVar("T", bound=Trunk)

SLACK = 0.1
"""By how much a measured latency may exceed its limit and still go on: a neighbour on the machine can cost that much.

A speed-up may as well, from the upper end of its interval: a restless machine shows there.
"""


@dataclass(frozen=True)
class Limits:
    """What the chosen artifact must hold; None is no limit.

    latency_ms: of one image; an estimate counts with its p90 error on top.
    size_kb: of the graph, in thousands of bytes.
    drop: of balanced accuracy against the teacher, overall and at the worst generator, as upper 95 % bounds (0.01 is a point).
    speedup: over the teacher's FP32 graph on the same device at batch 1.
    """

    latency_ms: float | None = None
    size_kb: float | None = None
    drop: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.latency_ms, self.size_kb, self.drop, self.speedup) if value is not None]
        if not given:
            raise UsageError("say what must fit: --max-latency-ms, --max-size-kb, --min-speedup or --max-drop")
        if any(not 0 < value < math.inf for value in given):
            raise UsageError(f"limits are positive numbers, got {', '.join(f'{value:g}' for value in given)}")

    @property
    def on_cost(self) -> bool:
        """Whether there is any on latency, size or speed."""
        return any(value is not None for value in (self.latency_ms, self.size_kb, self.speedup))

    def cost_excess(self, result: Result) -> dict[str, float]:
        """By how much, relatively, `result` exceeds each limit on cost that it does not hold."""
        found = {}
        if self.latency_ms is not None and result.latency_bound > self.latency_ms:
            found["latency"] = result.latency_bound / self.latency_ms - 1
        if self.size_kb is not None and result.size_bytes > 1000 * self.size_kb:
            found["size"] = result.size_bytes / (1000 * self.size_kb) - 1
        if self.speedup is not None and (result.speedup is None or result.speedup < self.speedup):
            found["speed-up"] = math.inf if result.speedup is None else self.speedup / result.speedup - 1
        return found

    def hopeless(self, result: Result) -> bool:
        """Whether it exceeds a limit on cost, which training does not change, by more than measuring again might gain."""
        noisy = result.latency_kind == "measured"
        if result.speedup_high is not None:
            result = msgspec.structs.replace(result, speedup=result.speedup_high)
        return any(over > (SLACK if noisy and name != "size" else 0) for name, over in self.cost_excess(result).items())

    def may_fit(self, result: Result) -> bool:
        """Whether it holds every limit, or might when its latency is measured again."""
        return not self.hopeless(result) and self.excess(result).keys() <= self.cost_excess(result).keys()

    def preference(self, result: Result) -> tuple[float, float]:
        """Orders what fits, the best least: by accuracy at the worst generator under limits on cost, by latency without."""
        return (-result.worst, result.latency_ms) if self.on_cost else (result.latency_ms, -result.worst)

    def excess(self, result: Result) -> dict[str, float]:
        """The same of all limits, and 1 for each gate of the teacher's that failed; nothing is left out of what fits."""
        found = self.cost_excess(result)
        if self.drop is not None and not result.drop_bound <= self.drop:
            found["drop"] = result.drop_bound / self.drop - 1
        return {**found, **{f"gate: {each}": 1.0 for each in result.failed_gates}}


def promoted(order: Sequence[T], results: Mapping[T, Sequence[Result]], limits: Limits, eta: float) -> list[T]:
    """The trunks that go on, the best first: one in `eta` of those of `order` that have a candidate within the limits on cost.

    A trunk is as good as the worst generator of its best such candidate. One whose candidates are all slower, larger and worse
    than some candidate of another comes after all that are not.
    """
    fitting = {trunk: [each for each in results.get(trunk, ()) if not limits.hopeless(each)] for trunk in order}
    alive = [trunk for trunk in order if fitting[trunk]]
    everything = [each for some in fitting.values() for each in some]

    def rank(trunk: T) -> tuple[bool, float]:
        beaten = all(any(dominates(other, each) for other in everything) for each in fitting[trunk])
        return beaten, -max(each.worst for each in fitting[trunk])

    count = math.ceil(len(order) / eta)
    return sorted(alive, key=rank)[:count]


def dominates(one: Result, other: Result) -> bool:
    """Whether `one` is as good as `other` in everything and better in something: accuracy, latency, size, energy of both."""
    pairs = [(one.worst, other.worst), (-one.latency_ms, -other.latency_ms), (-one.size_bytes, -other.size_bytes)]
    if one.energy_mj is not None and other.energy_mj is not None:
        pairs.append((-one.energy_mj, -other.energy_mj))
    return all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)


def front(results: Sequence[Result]) -> list[Result]:
    """Those that no other dominates, the fastest first."""
    kept = [each for each in results if not any(dominates(other, each) for other in results)]
    return sorted(kept, key=lambda each: (each.latency_ms, -each.worst))


def chosen(results: Sequence[Result], limits: Limits) -> Result | None:
    """The best of what fits, by :meth:`Limits.preference`; None when nothing does."""
    return min((each for each in results if not limits.excess(each)), key=limits.preference, default=None)


def nearest(results: Sequence[Result], limits: Limits) -> Result:
    """What exceeds the limits least, all excesses added."""
    return min(results, key=lambda each: (sum(limits.excess(each).values()), each.name))
