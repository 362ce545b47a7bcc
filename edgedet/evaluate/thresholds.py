"""From logits to probabilities and verdicts: fitted on the validation split after every stage, and how far that moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.errors import DataError
from edgedet.evaluate import degrade, operating

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

VIEWS = (degrade.CLEAN, "web", "hard")
"""What thresholds are fitted on: images as they are, as a platform shows them, and passed on from there."""

_FLATTEST = 1e-3  # the least slope, in units of the logits' spread: below it they carry no information


def fit(
    views: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    *,
    fitted_on: str | None,
    operating_point: str = operating.BALANCED,
) -> Calibration:
    """Temperature and bias by class-balanced Platt scaling, and thresholds by `edgedet.evaluate.operating`.

    All views count alike: a threshold that is fitted on clean images alone is not the one that recompressed ones need.

    Source: Platt, Probabilistic outputs for support vector machines, 1999 (with its smoothed targets, so that separable
    logits give a finite temperature); Newton's method.

    Args:
        views: by condition the logits (N,) of the same images, as the model gives them.
        labels: (N,) of 0 and 1; both classes.
        fitted_on: the digest of the index that they come from.
        operating_point: the one that verdicts use by default.

    Raises:
        DataError: a class is missing, a logit is not finite, or the default operating point cannot be measured.
    """
    for each in views.values():
        metrics.roc_auc(each, labels)  # refuses what cannot be fitted: shapes, labels, classes, values
    logits = {name: np.asarray(each, dtype=np.float64) for name, each in views.items()}
    fake = np.asarray(labels) == 1
    slope, offset = _platt(np.concatenate([*logits.values()]), np.tile(fake, len(logits)))
    scale = Calibration(temperature=1 / slope, bias=offset / slope)
    scores = {name: scale.score(z) for name, z in logits.items()}
    thresholds, reasons = operating.points(scores, fake)
    if operating_point not in thresholds:
        raise DataError(f"operating point {operating_point!r}: {reasons.get(operating_point, 'there is none of that name')}")
    return Calibration(
        temperature=scale.temperature,
        bias=scale.bias,
        thresholds=thresholds,
        operating_point=operating_point,
        unsure=operating.band(scores, fake),
        fitted_on=fitted_on,
        views=tuple(views),
        n=len(fake),
    )


@dataclass(frozen=True)
class Drift:
    """How one operating point moved from a parent's calibration to its child's, on the child's logits.

    parent_cut, child_cut: the threshold as a logit; both models' scores lie on different scales, their logits need not.
    kept_tnr, kept_tpr: had the child kept its parent's calibration; refitted_tnr, refitted_tpr: with its own.
    """

    operating_point: str
    parent_cut: float
    child_cut: float
    kept_tnr: float
    kept_tpr: float
    refitted_tnr: float
    refitted_tpr: float


def drift(before: Calibration, after: Calibration, logits: npt.ArrayLike, labels: npt.ArrayLike) -> list[Drift]:
    """What refitting changed, for each operating point that both have; `logits` (N,) are the child's, on validation."""
    found = []
    for name in before.thresholds:
        if name in after.thresholds:
            cuts = [cut(calibration, name) for calibration in (before, after)]
            kept, refitted = (calibration.score(logits) >= calibration.thresholds[name] for calibration in (before, after))
            rates = [rate(verdicts, labels) for verdicts in (kept, refitted) for rate in (metrics.tnr, metrics.tpr)]
            found.append(Drift(name, *cuts, *rates))
    return found


def cut(calibration: Calibration, operating_point: str) -> float:
    """The threshold of an operating point as a logit of the model."""
    score = calibration.thresholds[operating_point]
    with np.errstate(divide="ignore"):
        logit = float(np.log(score) - np.log1p(-min(score, 1.0)))
    return logit * calibration.temperature - calibration.bias


def _platt(z: Floats, fake: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """(slope, offset) of ``sigmoid(slope * z + offset)``, class-balanced maximum likelihood; the slope is positive."""
    n_real, n_fake = int((~fake).sum()), int(fake.sum())
    targets = np.where(fake, (n_fake + 1) / (n_fake + 2), 1 / (n_real + 2))
    weights = np.where(fake, 0.5 / n_fake, 0.5 / n_real)
    centre, spread = float(z.mean()), float(z.std()) or 1.0
    slope, offset = _newton((z - centre) / spread, targets, weights)
    if slope < _FLATTEST:
        log.warning("the logits do not rise with the share of fakes: every score will be close to 0.5")
        slope, offset = _FLATTEST, 0.0
    return slope / spread, offset - slope * centre / spread


def _newton(x: Floats, targets: Floats, weights: Floats) -> tuple[float, float]:
    """Minimise the weighted cross-entropy of ``sigmoid(a * x + b)``: convex, by Newton steps that are halved if needed."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    theta, loss = np.zeros(2), np.inf
    for _ in range(100):
        p = np.exp(-np.logaddexp(0, -(design @ theta)))
        gradient = design.T @ (weights * (p - targets))
        hessian = design.T @ (design * (weights * p * (1 - p))[:, None]) + 1e-12 * np.eye(2)
        step, share = np.linalg.solve(hessian, gradient), 1.0
        while (found := _loss(design @ (theta - share * step), targets, weights)) > loss and share > 1e-6:
            share /= 2
        theta = theta - share * step
        if loss - found < 1e-12:
            break
        loss = found
    return float(theta[0]), float(theta[1])


def _loss(y: Floats, targets: Floats, weights: Floats) -> float:
    return float(np.sum(weights * (np.logaddexp(0, y) - targets * y)))
