"""A graph of lower precision that no longer tells what its parent told: detected, and called a collapse.

What a network's ranking says of the class is ``2 AUC - 1``: how many more pairs of a fake and a real are in order than are
not; 1 for a perfect ranking, 0 for chance and for logits that are all the same. A child has collapsed when less than
:data:`LEFT` of its parent's is left, beyond doubt: the upper bound of its own below that share of the lower bound of the
parent's. The AUC is read instead of verdicts because thresholds are fitted again after every stage: logits that are merely
shifted or scaled lose nothing. A parent that tells nothing has nothing to lose.
"""

from __future__ import annotations

from edgedet.artifact import Artifact, Figures, Manifest

LEFT = 0.5
COLLAPSE = "collapse"
"""Its key in a manifest's metrics."""


def precision_of(manifest: Manifest) -> str:
    """Of its graphs; ``fp32`` for a checkpoint."""
    return manifest.graphs[0].precision if manifest.graphs else "fp32"


def collapse(child: Manifest, metrics: Figures, parent: Artifact | None) -> Figures:
    """``{"collapse": {...}}`` when a graph with these validation `metrics` has collapsed under its precision, else nothing.

    child: its manifest, for what it is; `metrics`: as measured now; `parent`: measured on the same images, in full precision.
    """
    precision = precision_of(child)
    if parent is None or precision == "fp32" or precision_of(parent.manifest) != "fp32":
        return {}
    own, before = metrics.get("auc", {}), parent.manifest.metrics.get("auc", {})
    if own.get("high") is None or before.get("low") is None:
        return {}
    most, least = 2 * own["high"] - 1, 2 * before["low"] - 1
    if least <= 0 or most >= LEFT * least:
        return {}
    text = (
        f"COLLAPSED under {precision}: on the validation split the parent's AUC is {_shown(before)}, this graph's "
        f"{_shown(own)}: less than {LEFT:.0%} of what it tells is left; find other ranges, leave layers in float (--mixed), "
        "or train the rounding (edgedet qat)"
    )
    return {COLLAPSE: {"precision": precision, "auc": own, "parent_auc": before, "text": text}}


def _shown(figure: Figures) -> str:
    return f"{100 * figure['value']:.1f} % [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
