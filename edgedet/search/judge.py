"""A candidate's figures: what it costs, and what it lost against the teacher at the generator where it lost most."""

from __future__ import annotations

import math
from pathlib import Path

from edgedet.artifact import Artifact, Gate
from edgedet.data.index import Index
from edgedet.evaluate import degrade, gates
from edgedet.evaluate.assess import parent_evaluations
from edgedet.evaluate.gates import Evaluations, GateResult
from edgedet.search.cost import Cost
from edgedet.search.result import Result
from edgedet.search.space import Candidate

_LOST = (
    Gate(metric="balanced_accuracy", against="parent", max_drop=0.0),
    Gate(metric="balanced_accuracy", against="parent", max_drop=0.0, scope="worst_generator"),
)
"""Not to be held: their drops and bounds are what is read."""


def most_lost(own: Evaluations, theirs: Evaluations) -> GateResult:
    """The drop of balanced accuracy from the teacher's evaluation to the candidate's: overall, or at the generator where its
    bound is largest.

    A candidate that is as good on average and has lost one generator is judged by that generator.
    """
    return max(gates.check(_LOST, own, parent=theirs), key=lambda each: -math.inf if each.bound is None else each.bound)


def judged(
    candidate: Candidate, made: Artifact, teacher: Artifact, val: Index, cost: Cost, *, rung: int, epochs: int, root: Path
) -> Result:
    """The result of a candidate whose graph is `made`, on the validation images `val`.

    Raises:
        DataError: the teacher was validated on other images.
    """
    metrics = made.manifest.metrics
    worst = metrics["worst_generator"] or ""
    of_worst = metrics["generators"][worst] if worst else metrics
    own, theirs = (parent_evaluations(each, val, [degrade.CLEAN]) for each in (made, teacher))
    lost = most_lost(own, theirs)
    return Result(
        name=candidate.name,
        trunk=candidate.trunk.name,
        precision=candidate.precision,
        path=made.path.relative_to(root).as_posix(),
        digest=made.digest,
        rung=rung,
        epochs=epochs,
        overall=metrics["balanced_accuracy"]["value"],
        worst=of_worst["balanced_accuracy"]["value"],
        worst_generator=worst,
        drop=lost.value if lost.value is not None else math.inf,
        drop_bound=lost.bound if lost.bound is not None else math.inf,
        drop_slice=lost.slice,
        latency_ms=cost.latency_ms,
        latency_kind=cost.kind,
        p90_error=cost.p90_error,
        speedup=cost.speedup,
        speedup_high=cost.speedup_high,
        energy_mj=cost.energy_mj,
        size_bytes=made.model_bytes,
        failed_gates=tuple(each["gate"] for each in metrics.get("gates", ()) if each["outcome"] == "failed"),
        notes=cost.notes,
    )
