"""Every figure that edgedet prints, defined once (numpy only).

Fake = 1 is the positive class. Ranking figures take logits or scores; verdict figures take verdicts; ``ece``, ``brier`` and
``nll`` are class-balanced (the mean of the two classes' means), so that they do not move with the share of fakes in a set.
Intervals are 95 % bootstrap percentile intervals, stratified by label: each resample keeps the number of reals and fakes.

A resample is held as how often every distinct logit was drawn, so that all resamples are computed at once on logits that
are sorted once. The estimate itself is the resample in which every image was drawn once.
"""

from __future__ import annotations

from edgedet.metrics.curves import Reliability, Roc, reliability, roc
from edgedet.metrics.figures import BINS, MIN_FALSE_POSITIVES, NAMES, measurable
from edgedet.metrics.intervals import CONFIDENCE, Discordant, Figure, flip_rate, mcnemar, paired_difference, summary
from edgedet.metrics.single import (
    accuracy,
    average_precision,
    balanced_accuracy,
    brier,
    ece,
    eer,
    f1,
    nll,
    precision,
    roc_auc,
    tnr,
    tpr,
    tpr_at_fpr,
)

__all__ = [
    "BINS",
    "CONFIDENCE",
    "MIN_FALSE_POSITIVES",
    "NAMES",
    "Discordant",
    "Figure",
    "Reliability",
    "Roc",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "ece",
    "eer",
    "f1",
    "flip_rate",
    "mcnemar",
    "measurable",
    "nll",
    "paired_difference",
    "precision",
    "reliability",
    "roc",
    "roc_auc",
    "summary",
    "tnr",
    "tpr",
    "tpr_at_fpr",
]
