"""What each compression step bought: every artifact beside the one that it was made from, in the same run.

A graph is compared with the full-precision graph of its own checkpoint (quantization), or, when it is that one itself, with the
full-precision graph of the checkpoint before it (pruning, distillation).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgedet.artifact import Artifact
from edgedet.bench.statistics import Ratio

PAYS_FROM = 1.2
"""A step whose speed-up stays below this did not pay, and the table says so."""


def before(artifact: Artifact, others: Sequence[Artifact]) -> Artifact | None:
    """The one among `others` that the last step of `artifact` is to be compared with; None when it is not there."""
    full = {_checkpoint(other): other for other in others if _precision(other) == "fp32" and other.digest != artifact.digest}
    if _precision(artifact) != "fp32":
        return full.get(_checkpoint(artifact))
    lineage = [line.digest for line in artifact.manifest.lineage if line.kind == "checkpoint"]
    chain = lineage if artifact.manifest.kind == "checkpoint" else lineage[:-1]
    return full.get(chain[-1]) if chain else None


def verdict(name: str, stage: str, bought: Ratio) -> str | None:
    """A line for a step that did not pay, with the measurement; None for one that did."""
    if bought.value >= PAYS_FROM:
        return None
    return (
        f"{stage} did not pay: {name} is {bought.value:.2f} times as fast as {bought.baseline} "
        f"[{bought.low:.2f}, {bought.high:.2f}], expected {PAYS_FROM:g}; it is kept for its size and for what builds on it"
    )


def _precision(artifact: Artifact) -> str:
    return artifact.manifest.graphs[0].precision if artifact.manifest.graphs else "fp32"


def _checkpoint(artifact: Artifact) -> str:
    """The digest of the checkpoint that `artifact` is, or is a graph of."""
    if artifact.manifest.kind == "checkpoint":
        return artifact.digest
    return next((line.digest for line in reversed(artifact.manifest.lineage) if line.kind == "checkpoint"), artifact.digest)
