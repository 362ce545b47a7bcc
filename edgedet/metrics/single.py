"""One figure of one set of images, without an interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgedet.errors import DataError
from edgedet.metrics.figures import BOTH, FIGURES, OF_SCORES, OF_VERDICTS, measurable, tpr_at
from edgedet.metrics.samples import Groups, Sample, checked


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The area under the ROC curve; ties count half. `scores`: (N,) logits or scores, `labels`: (N,) of 0 and 1."""
    return _single("auc", scores, labels)


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Precision averaged over the recall steps, without interpolation."""
    return _single("ap", scores, labels)


def tpr_at_fpr(scores: npt.ArrayLike, labels: npt.ArrayLike, fpr: float) -> float | None:
    """The TPR where the interpolated ROC has this FPR; None when too few reals measure it."""
    sample = _plain(scores, labels, BOTH, "tpr_at_fpr")
    return float(tpr_at(sample, fpr)[0]) if measurable(fpr, int(sample.n_real[0])) else None


def eer(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The equal error rate: FPR where it equals 1 - TPR, on the interpolated ROC."""
    return _single("eer", scores, labels)


def accuracy(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of right verdicts. `verdicts`: (N,), true or 1 is fake."""
    return _single("accuracy", verdicts, labels)


def balanced_accuracy(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The mean of TPR and TNR."""
    return _single("balanced_accuracy", verdicts, labels)


def tpr(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of fakes called fake (recall)."""
    return _single("tpr", verdicts, labels)


def tnr(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of reals called real (specificity)."""
    return _single("tnr", verdicts, labels)


def precision(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of fakes among what is called fake; 0 when nothing is."""
    return _single("precision", verdicts, labels)


def f1(verdicts: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The harmonic mean of precision and TPR, for class fake."""
    return _single("f1", verdicts, labels)


def ece(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Expected calibration error of P(fake), 15 bins of equal width, class-balanced. `scores`: (N,) in [0, 1]."""
    return _single("ece", scores, labels)


def brier(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The class-balanced mean of (score - label)^2."""
    return _single("brier", scores, labels)


def nll(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The class-balanced negative log-likelihood in nats; `logits`: (N,), calibrated, so that no score saturates."""
    return _single("nll", logits, labels)


def _single(name: str, values: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    function, needs = FIGURES[name]
    return float(function(_plain(values, labels, needs, name))[0])


def _plain(values: npt.ArrayLike, labels: npt.ArrayLike, needs: tuple[bool, bool], name: str) -> Sample:
    """One sample in which `values` stand for logits, scores and verdicts: each figure reads what it needs."""
    numbers, fake = checked(values, labels, name)
    for needed, there, what in ((needs[0], (~fake).any(), "real"), (needs[1], fake.any(), "fake")):
        if needed and not there:
            raise DataError(f"{name}: expected images of both classes, got no {what} image")
    if name in OF_VERDICTS and not np.isin(numbers, (0, 1)).all():
        raise DataError(f"{name}: expected verdicts (0 real, 1 fake), got scores: compare them with a threshold first")
    if name in OF_SCORES and (numbers.min() < 0 or numbers.max() > 1):
        raise DataError(f"{name}: expected scores in [0, 1], got {numbers.min():g} to {numbers.max():g}: not logits")
    descending, inverse = np.unique(-numbers, return_inverse=True)
    groups = Groups(-descending, -descending, -descending > 0, inverse[~fake], inverse[fake])
    return groups.once()
