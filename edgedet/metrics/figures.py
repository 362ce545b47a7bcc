"""The figures, each as a function of resamples: what it computes and which classes it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgedet.metrics.samples import Floats, Ints, Sample

BINS = 15
MIN_FALSE_POSITIVES = 10
"""TPR at an FPR rests on this many reals above the threshold at least: 1,000 reals for 1 %, 200 for 5 %."""


def _auc(s: Sample) -> Floats:
    below = s.n_real[:, None] - s.fp + s.real / 2
    return np.asarray((s.fake * below).sum(axis=1) / (s.n_real * s.n_fake))


def _ap(s: Sample) -> Floats:
    precision = s.tp / np.maximum(s.tp + s.fp, 1)
    return np.asarray((s.fake * precision).sum(axis=1) / s.n_fake)


def tpr_at(s: Sample, fpr: float) -> Floats:
    """Linear interpolation between the ROC points around `fpr`; on a vertical step, its top."""
    allowed = fpr * s.n_real
    after = np.count_nonzero(s.fp <= allowed[:, None] + 1e-9, axis=1)
    (x0, y0), (x1, y1) = _roc_point(s, after), _roc_point(s, after + 1)
    share = np.where(x1 > x0, (allowed - x0) / np.where(x1 > x0, x1 - x0, 1), 0.0)
    return np.asarray((y0 + share.clip(0, 1) * (y1 - y0)) / s.n_fake)


def _eer(s: Sample) -> Floats:
    """Where the interpolated ROC crosses FPR = 1 - TPR."""
    gap = s.fp / s.n_real[:, None] + s.tp / s.n_fake[:, None] - 1
    after = np.count_nonzero(gap < 0, axis=1)
    (x0, y0), (x1, y1) = _roc_point(s, after), _roc_point(s, after + 1)
    x0, x1, y0, y1 = x0 / s.n_real, x1 / s.n_real, y0 / s.n_fake, y1 / s.n_fake
    share = (1 - x0 - y0) / np.maximum(x1 - x0 + y1 - y0, 1e-300)
    return np.asarray(x0 + share * (x1 - x0))


def _roc_point(s: Sample, index: Ints) -> tuple[Floats, Floats]:
    """(B,) false and true positives at ROC point `index`: 0 is the origin, U the last."""
    rows, column = np.arange(len(index)), np.clip(index - 1, 0, s.fp.shape[1] - 1)
    started = index > 0
    return np.where(started, s.fp[rows, column], 0.0), np.where(started, s.tp[rows, column], 0.0)


def _tpr(s: Sample) -> Floats:
    return s.true_fakes / s.n_fake


def _tnr(s: Sample) -> Floats:
    return 1 - s.false_fakes / s.n_real


def _balanced_accuracy(s: Sample) -> Floats:
    return (_tpr(s) + _tnr(s)) / 2


def _accuracy(s: Sample) -> Floats:
    return (s.true_fakes + s.n_real - s.false_fakes) / (s.n_real + s.n_fake)


def _precision(s: Sample) -> Floats:
    return np.asarray(s.true_fakes / np.maximum(s.true_fakes + s.false_fakes, 1))


def _f1(s: Sample) -> Floats:
    return 2 * s.true_fakes / (s.true_fakes + s.false_fakes + s.n_fake)


def bins_of(score: Floats) -> Ints:
    """The bin of each score, of :data:`BINS` of equal width; the last one has both its ends."""
    return np.minimum((score * BINS).astype(np.int64), BINS - 1)


def _ece(s: Sample) -> Floats:
    """Sum over bins of |share of fakes - sum of scores|, where each class has half of the weight."""
    in_bin = bins_of(s.score)[:, None] == np.arange(BINS)
    member, weighted = in_bin.astype(np.float64), in_bin * s.score[:, None]
    fakes = s.fake @ (member - weighted) / s.n_fake[:, None]
    return np.asarray(np.abs(fakes - s.real @ weighted / s.n_real[:, None]).sum(axis=1) / 2)


def _brier(s: Sample) -> Floats:
    return s.balanced(s.score**2, (1 - s.score) ** 2)


def _nll(s: Sample) -> Floats:
    return s.balanced(np.logaddexp(0, s.z), np.logaddexp(0, -s.z))


BOTH, _REAL, _FAKE = (True, True), (True, False), (False, True)
FIGURES: Mapping[str, tuple[Callable[[Sample], Floats], tuple[bool, bool]]] = {
    "balanced_accuracy": (_balanced_accuracy, BOTH),
    "accuracy": (_accuracy, (False, False)),
    "auc": (_auc, BOTH),
    "ap": (_ap, BOTH),
    "f1": (_f1, _FAKE),
    "precision": (_precision, BOTH),
    "tpr": (_tpr, _FAKE),
    "tnr": (_tnr, _REAL),
    "tpr_at_fpr1": (partial(tpr_at, fpr=0.01), BOTH),
    "tpr_at_fpr5": (partial(tpr_at, fpr=0.05), BOTH),
    "eer": (_eer, BOTH),
    "ece": (_ece, BOTH),
    "brier": (_brier, BOTH),
    "nll": (_nll, BOTH),
}
_FPR = {"tpr_at_fpr1": 0.01, "tpr_at_fpr5": 0.05}
OF_VERDICTS = ("accuracy", "balanced_accuracy", "tpr", "tnr", "precision", "f1")
OF_SCORES = ("ece", "brier")

NAMES: tuple[str, ...] = tuple(FIGURES)
"""The figures of a :func:`summary`, in the order they are shown."""


def measurable(fpr: float, n_real: int) -> bool:
    """Whether `n_real` reals are enough to speak of this FPR."""
    return round(fpr * n_real, 6) >= MIN_FALSE_POSITIVES


def reason_against(name: str, n_real: int, n_fake: int) -> str:
    """Why figure `name` cannot be measured on this many images; empty when it can."""
    needs_real, needs_fake = FIGURES[name][1]
    if needs_real and not n_real:
        return "no real images"
    if needs_fake and not n_fake:
        return "no fake images"
    if name in _FPR and not measurable(_FPR[name], n_real):
        needed = round(MIN_FALSE_POSITIVES / _FPR[name])
        return f"not measurable: {n_real:,} real images, {needed:,} needed for an FPR of {_FPR[name]:.0%}"
    return ""
