"""The curves behind the figures: ROC, and how often a score comes true. Both fakes and reals are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Calibration
from edgedet.errors import DataError
from edgedet.metrics.figures import BINS, bins_of
from edgedet.metrics.samples import Floats, Groups, Sample


@dataclass(frozen=True)
class Roc:
    """fpr, tpr: (P,) from (0, 0) to (1, 1), corners only: the straight line between two of them is the curve."""

    fpr: Floats
    tpr: Floats


@dataclass(frozen=True)
class Reliability:
    """By bin of equal width that has images: mean score, share of fakes, and weight; classes weigh the same, as in ``ece``."""

    score: Floats
    fakes: Floats
    weight: Floats


def roc(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Roc:
    """The ROC of `logits` (N,) and `labels` (N,) of 0 and 1; ties are one straight piece, so its area is ``auc``.

    Raises:
        DataError: a class is missing, a label is neither 0 nor 1, or a logit is not finite.
    """
    sample = _sample(logits, labels, Calibration(), "roc")
    real, fake = sample.real[0], sample.fake[0]  # steps to the right and up: whole numbers, so that the test below is exact
    # Two steps in the same direction are one piece: their cross product is zero.
    turns = real[:-1] * fake[1:] != fake[:-1] * real[1:]
    corners = np.concatenate([turns, [True]])
    fpr, tpr = sample.fp[0][corners] / sample.n_real[0], sample.tp[0][corners] / sample.n_fake[0]
    return Roc(np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr]))


def reliability(logits: npt.ArrayLike, labels: npt.ArrayLike, calibration: Calibration) -> Reliability:
    """How scores of `logits` (N,) under `calibration` compare with the share of fakes; ``ece`` is the weighted mean gap.

    Raises:
        DataError: a class is missing, a label is neither 0 nor 1, or a logit is not finite.
    """
    sample = _sample(logits, labels, calibration, "reliability")
    real, fake = sample.real[0] / sample.n_real[0] / 2, sample.fake[0] / sample.n_fake[0] / 2
    place = bins_of(sample.score)
    weight = np.asarray(np.bincount(place, real + fake, BINS), dtype=np.float64)
    there = weight > 0
    score = np.bincount(place, (real + fake) * sample.score, BINS)[there] / weight[there]
    return Reliability(score, np.bincount(place, fake, BINS)[there] / weight[there], weight[there])


def _sample(logits: npt.ArrayLike, labels: npt.ArrayLike, calibration: Calibration, name: str) -> Sample:
    groups = Groups.of(logits, labels, calibration)
    if not (groups.n_real and groups.n_fake):
        raise DataError(f"{name}: expected images of both classes, got {groups.n_real:,} reals and {groups.n_fake:,} fakes")
    return groups.once()
