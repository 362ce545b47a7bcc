"""From logits to probabilities and verdicts: fitted on the validation split after every stage, and how far that moved."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.errors import DataError

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

HALF, BALANCED, FPR1, FPR5 = "half", "balanced", "fpr1", "fpr5"
_RATES = {FPR1: 0.01, FPR5: 0.05}
_FLATTEST = 1e-3  # the least slope, in units of the logits' spread: below it they carry no information


def fit(
    logits: npt.ArrayLike, labels: npt.ArrayLike, *, fitted_on: str | None, operating_point: str = BALANCED
) -> Calibration:
    """Temperature and bias by class-balanced Platt scaling, and a threshold for each operating point.

    ``half``: 0.5. ``balanced``: most balanced accuracy. ``fpr1``, ``fpr5``: the lowest with at most 1 % or 5 % of the reals
    called fake; left out when too few reals measure it, see :func:`unmeasured`.

    Source: Platt, Probabilistic outputs for support vector machines, 1999 (with its smoothed targets, so that separable
    logits give a finite temperature); Newton's method.

    Args:
        logits: (N,) as the model gives them.
        labels: (N,) of 0 and 1; both classes.
        fitted_on: the digest of the index that they come from.
        operating_point: the one that verdicts use by default.

    Raises:
        DataError: a class is missing, a logit is not finite, or the default operating point cannot be measured.
    """
    z, fake = np.asarray(logits, dtype=np.float64), np.asarray(labels) == 1
    metrics.roc_auc(z, labels)  # refuses what cannot be fitted: shapes, labels, classes, values
    slope, offset = _platt(z, fake)
    scale = Calibration(temperature=1 / slope, bias=offset / slope)
    scores = scale.score(z)
    thresholds = {HALF: 0.5, BALANCED: _most_balanced(scores, fake)}
    reasons = unmeasured(labels)
    for name, rate in _RATES.items():
        if name not in reasons:
            thresholds[name] = _at_most(scores[~fake], rate)
    if operating_point not in thresholds:
        raise DataError(f"operating point {operating_point!r}: {reasons.get(operating_point, 'there is none of that name')}")
    return Calibration(
        temperature=scale.temperature,
        bias=scale.bias,
        thresholds=thresholds,
        operating_point=operating_point,
        fitted_on=fitted_on,
        n=len(z),
    )


def unmeasured(labels: npt.ArrayLike) -> dict[str, str]:
    """The operating points that this many reals cannot measure, each with the reason."""
    n_real = int(np.count_nonzero(np.asarray(labels) == 0))
    return {
        name: f"not measurable: {n_real:,} real images, {round(metrics.MIN_FALSE_POSITIVES / rate):,} needed"
        for name, rate in _RATES.items()
        if not metrics.measurable(rate, n_real)
    }


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


def _most_balanced(scores: Floats, fake: npt.NDArray[np.bool_]) -> float:
    """The score of most balanced accuracy, in the middle between two images; of equals, the one nearest to 0.5."""
    distinct, inverse = np.unique(scores, return_inverse=True)
    reals = np.bincount(inverse[~fake], minlength=len(distinct))
    fakes = np.bincount(inverse[fake], minlength=len(distinct))
    middles = (distinct[1:] + distinct[:-1]) / 2
    edges = np.concatenate([[distinct[0] / 2], middles, [(1 + distinct[-1]) / 2]])
    below = np.concatenate([[0], np.cumsum(reals)]) / reals.sum()
    above = 1 - np.concatenate([[0], np.cumsum(fakes)]) / fakes.sum()
    quality = below + above
    best = edges[quality >= quality.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _at_most(reals: Floats, rate: float) -> float:
    """The lowest threshold at which no more than `rate` of the reals' scores are called fake."""
    ordered = np.sort(reals)[::-1]
    allowed = int(rate * len(ordered) + 1e-9)
    first_kept = ordered[allowed]  # this real must stay real
    higher = ordered[ordered > first_kept]
    middle = (first_kept + (higher[-1] if higher.size else 1.0)) / 2
    return float(max(middle, np.nextafter(first_kept, np.inf)))
