"""What a candidate costs on the target: measured where the target is this machine, estimated where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from edgedet.artifact import Artifact
from edgedet.bench import entry, estimate, scenarios
from edgedet.bench.entry import Threads
from edgedet.bench.power import Meter, Power
from edgedet.bench.scenarios import Comparison, Rules
from edgedet.errors import BenchError
from edgedet.models.work import of_artifact
from edgedet.target import Precision, Target
from edgedet.work import Work

_RUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Cost:
    """The latency of one image in milliseconds, how it is known, and the speed-up over the teacher's FP32 graph there.

    p90_error: the estimate's, relative; 0 when it was measured. speedup: None when the teacher has no estimate.
    speedup_high: the upper end of the 95 % interval of a measured one.
    energy_mj: millijoules of one image above rest; None where nothing measures it.
    """

    latency_ms: float
    kind: Literal["measured", "estimated"]
    p90_error: float
    speedup: float | None
    speedup_high: float | None = None
    energy_mj: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Timing:
    """How latencies are measured: for how long, and at how many threads; ``best`` tries 1, 2, 4 ... and all cores.

    power_seconds: for how long power is sampled, at rest and of each graph, where the machine has sensors.
    """

    rules: Rules = field(default_factory=lambda: Rules.lasting(2.0))
    threads: Threads = "best"
    power_seconds: float = 2.0


def is_here(target: Target) -> bool:
    """Whether this machine is the target and runs its graphs as they are exported; TensorRT would have to build them first."""
    return target.is_this_machine and target.runtime == _RUNTIME


def require(target: Target, students: Sequence[Work], teacher: Artifact, *, speedup: bool) -> None:
    """Refuse a target that is not here and that nothing can be estimated on, before hours of training.

    speedup: whether the teacher's own latency is needed.

    Raises:
        BenchError: says why there is no estimate.
    """
    if is_here(target):
        return
    for each in students:
        estimate.latency(each, target, "fp32")
    if speedup:
        estimate.latency(of_artifact(teacher), target, "fp32")


def of(artifacts: Sequence[Artifact], teacher: Artifact, target: Target, timing: Timing) -> list[Cost]:
    """The cost of each graph of `artifacts` beside the teacher's FP32 graph; measured, all take turns in one run.

    Raises:
        BenchError: it can neither be measured nor estimated; says why.
    """
    if is_here(target):
        return _measured(artifacts, teacher, timing)
    return [_estimated(each, teacher, target) for each in artifacts]


def _measured(artifacts: Sequence[Artifact], teacher: Artifact, timing: Timing) -> list[Cost]:
    meter = Meter.at_rest(timing.power_seconds)
    entries = entry.collect((teacher, *artifacts), (), (_RUNTIME,))
    try:
        images = entry.sample_images(None, entries)
        for each in entries:
            each.prepare(images, threads=timing.threads)
            if each.error:
                raise BenchError(f"{each.artifact.path}: cannot be timed: {each.error}")
        runners = {each.name: each.model_only() for each in entries}
        found = scenarios.compare(runners, baseline=entries[0].name, rules=timing.rules)
        energy = {name: _energy(meter.of({1: run}, timing.power_seconds)) for name, run in runners.items()}
    finally:
        for each in entries:
            each.close()
    return [_paid(found, each.name, energy[each.name]) for each in entries[1:]]


def _paid(found: Comparison, name: str, energy_mj: float | None) -> Cost:
    ratio = found.ratio(name)
    return Cost(found.latency(name).p50_ms, "measured", 0.0, ratio.value, speedup_high=ratio.high, energy_mj=energy_mj)


def _energy(drawn: Power | str) -> float | None:
    """Of one image; None where it is not known, or less was drawn than at rest."""
    if isinstance(drawn, str):
        return None
    (load,) = drawn.loads
    return load.millijoules_per_image if load.millijoules_per_image > 0 else None


def _estimated(artifact: Artifact, teacher: Artifact, target: Target) -> Cost:
    precision = cast(Precision, artifact.manifest.graphs[0].precision)
    found = estimate.latency(of_artifact(artifact), target, precision)
    try:
        before = estimate.latency(of_artifact(teacher), target, "fp32").value / found.value
    except BenchError:
        before = None
    return Cost(found.value, "estimated", found.p90_error, before, notes=found.notes)
