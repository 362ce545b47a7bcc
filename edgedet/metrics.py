"""Every figure that edgedet prints, defined once (numpy only).

Fake = 1 is the positive class. Ranking figures take logits or scores; verdict figures take verdicts; ``ece``, ``brier`` and
``nll`` are class-balanced (the mean of the two classes' means), so that they do not move with the share of fakes in a set.
Intervals are 95 % bootstrap percentile intervals, stratified by label: each resample keeps the number of reals and fakes.

A resample is held as how often every distinct logit was drawn, so that all resamples are computed at once on logits that
are sorted once. The estimate itself is the resample in which every image was drawn once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Calibration, Figures
from edgedet.errors import DataError, nearest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 15
CONFIDENCE = 0.95
MIN_FALSE_POSITIVES = 10
"""TPR at an FPR rests on this many reals above the threshold at least: 1,000 reals for 1 %, 200 for 5 %."""
_CHUNK = 1 << 18  # elements a block of resamples has: what stays in the cache


class Figure(TypedDict):
    """One figure with its 95 % interval; None when `reason` says why it cannot be measured. `n`: images behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str


@dataclass(frozen=True)
class _Sample:
    """Resamples of one set of images: distinct logits from the highest, and how often each was drawn.

    z: (U,) calibrated logits; score: (U,) probabilities; flagged: (U,) verdict is fake;
    real, fake: (B, U) how often each resample drew an image of that logit.
    """

    z: Floats
    score: Floats
    flagged: npt.NDArray[np.bool_]
    real: Floats
    fake: Floats

    @cached_property
    def fp(self) -> Floats:
        """(B, U) reals at or above each logit."""
        return np.cumsum(self.real, axis=1)

    @cached_property
    def tp(self) -> Floats:
        """(B, U) fakes at or above each logit."""
        return np.cumsum(self.fake, axis=1)

    @cached_property
    def n_real(self) -> Floats:
        return np.asarray(self.real.sum(axis=1))

    @cached_property
    def n_fake(self) -> Floats:
        return np.asarray(self.fake.sum(axis=1))

    @cached_property
    def true_fakes(self) -> Floats:
        """(B,) fakes that the verdict calls fake."""
        return np.asarray(self.fake @ self.flagged.astype(np.float64))

    @cached_property
    def false_fakes(self) -> Floats:
        """(B,) reals that the verdict calls fake."""
        return np.asarray(self.real @ self.flagged.astype(np.float64))

    def balanced(self, of_real: Floats, of_fake: Floats) -> Floats:
        """(B,) the mean of the reals' mean of `of_real` (U,) and the fakes' mean of `of_fake` (U,)."""
        return np.asarray((self.real @ of_real / self.n_real + self.fake @ of_fake / self.n_fake) / 2)


def _auc(s: _Sample) -> Floats:
    below = s.n_real[:, None] - s.fp + s.real / 2
    return np.asarray((s.fake * below).sum(axis=1) / (s.n_real * s.n_fake))


def _ap(s: _Sample) -> Floats:
    precision = s.tp / np.maximum(s.tp + s.fp, 1)
    return np.asarray((s.fake * precision).sum(axis=1) / s.n_fake)


def _tpr_at(s: _Sample, fpr: float) -> Floats:
    """Linear interpolation between the ROC points around `fpr`; on a vertical step, its top."""
    allowed = fpr * s.n_real
    after = np.count_nonzero(s.fp <= allowed[:, None] + 1e-9, axis=1)
    (x0, y0), (x1, y1) = _roc_point(s, after), _roc_point(s, after + 1)
    share = np.where(x1 > x0, (allowed - x0) / np.where(x1 > x0, x1 - x0, 1), 0.0)
    return np.asarray((y0 + share.clip(0, 1) * (y1 - y0)) / s.n_fake)


def _eer(s: _Sample) -> Floats:
    """Where the interpolated ROC crosses FPR = 1 - TPR."""
    gap = s.fp / s.n_real[:, None] + s.tp / s.n_fake[:, None] - 1
    after = np.count_nonzero(gap < 0, axis=1)
    (x0, y0), (x1, y1) = _roc_point(s, after), _roc_point(s, after + 1)
    x0, x1, y0, y1 = x0 / s.n_real, x1 / s.n_real, y0 / s.n_fake, y1 / s.n_fake
    share = (1 - x0 - y0) / np.maximum(x1 - x0 + y1 - y0, 1e-300)
    return np.asarray(x0 + share * (x1 - x0))


def _roc_point(s: _Sample, index: Ints) -> tuple[Floats, Floats]:
    """(B,) false and true positives at ROC point `index`: 0 is the origin, U the last."""
    rows, column = np.arange(len(index)), np.clip(index - 1, 0, s.fp.shape[1] - 1)
    started = index > 0
    return np.where(started, s.fp[rows, column], 0.0), np.where(started, s.tp[rows, column], 0.0)


def _tpr(s: _Sample) -> Floats:
    return s.true_fakes / s.n_fake


def _tnr(s: _Sample) -> Floats:
    return 1 - s.false_fakes / s.n_real


def _balanced_accuracy(s: _Sample) -> Floats:
    return (_tpr(s) + _tnr(s)) / 2


def _accuracy(s: _Sample) -> Floats:
    return (s.true_fakes + s.n_real - s.false_fakes) / (s.n_real + s.n_fake)


def _precision(s: _Sample) -> Floats:
    return np.asarray(s.true_fakes / np.maximum(s.true_fakes + s.false_fakes, 1))


def _f1(s: _Sample) -> Floats:
    return 2 * s.true_fakes / (s.true_fakes + s.false_fakes + s.n_fake)


def _ece(s: _Sample) -> Floats:
    """Sum over bins of |share of fakes - sum of scores|, where each class has half of the weight."""
    in_bin = np.minimum((s.score * BINS).astype(np.int64), BINS - 1)[:, None] == np.arange(BINS)
    member, weighted = in_bin.astype(np.float64), in_bin * s.score[:, None]
    fakes = s.fake @ (member - weighted) / s.n_fake[:, None]
    return np.asarray(np.abs(fakes - s.real @ weighted / s.n_real[:, None]).sum(axis=1) / 2)


def _brier(s: _Sample) -> Floats:
    return s.balanced(s.score**2, (1 - s.score) ** 2)


def _nll(s: _Sample) -> Floats:
    return s.balanced(np.logaddexp(0, s.z), np.logaddexp(0, -s.z))


_BOTH, _REAL, _FAKE = (True, True), (True, False), (False, True)
_FIGURES: Mapping[str, tuple[Callable[[_Sample], Floats], tuple[bool, bool]]] = {
    "balanced_accuracy": (_balanced_accuracy, _BOTH),
    "accuracy": (_accuracy, (False, False)),
    "auc": (_auc, _BOTH),
    "ap": (_ap, _BOTH),
    "f1": (_f1, _FAKE),
    "precision": (_precision, _BOTH),
    "tpr": (_tpr, _FAKE),
    "tnr": (_tnr, _REAL),
    "tpr_at_fpr1": (partial(_tpr_at, fpr=0.01), _BOTH),
    "tpr_at_fpr5": (partial(_tpr_at, fpr=0.05), _BOTH),
    "eer": (_eer, _BOTH),
    "ece": (_ece, _BOTH),
    "brier": (_brier, _BOTH),
    "nll": (_nll, _BOTH),
}
_FPR = {"tpr_at_fpr1": 0.01, "tpr_at_fpr5": 0.05}
_OF_VERDICTS = ("accuracy", "balanced_accuracy", "tpr", "tnr", "precision", "f1")
_OF_SCORES = ("ece", "brier")

NAMES: tuple[str, ...] = tuple(_FIGURES)
"""The figures of a :func:`summary`, in the order they are shown."""


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The area under the ROC curve; ties count half. `scores`: (N,) logits or scores, `labels`: (N,) of 0 and 1."""
    return _single("auc", scores, labels)


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Precision averaged over the recall steps, without interpolation."""
    return _single("ap", scores, labels)


def tpr_at_fpr(scores: npt.ArrayLike, labels: npt.ArrayLike, fpr: float) -> float | None:
    """The TPR where the interpolated ROC has this FPR; None when too few reals measure it."""
    sample = _plain(scores, labels, _BOTH, "tpr_at_fpr")
    return float(_tpr_at(sample, fpr)[0]) if measurable(fpr, int(sample.n_real[0])) else None


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


def flip_rate(before: npt.ArrayLike, after: npt.ArrayLike) -> Figure:
    """The share of images whose verdict changed, with its Wilson interval.

    Wilson's, because a bootstrap of no flip at all has no width: 0 of 50 does not bound the rate at 0, but at 7 %.
    """
    changed = np.asarray(before, dtype=bool) != np.asarray(after, dtype=bool)
    if not changed.size:
        raise DataError("flip_rate: expected at least one verdict, got none")
    n, rate, z = changed.size, float(changed.mean()), 1.959963984540054
    centre, half = rate + z * z / (2 * n), z * float(np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)))
    low, high = max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
    return Figure(value=rate, low=low if rate else 0.0, high=high if rate < 1 else 1.0, n=n, reason="")


def measurable(fpr: float, n_real: int) -> bool:
    """Whether `n_real` reals are enough to speak of this FPR."""
    return round(fpr * n_real, 6) >= MIN_FALSE_POSITIVES


def summary(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    calibration: Calibration,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Figures:
    """Every figure of :data:`NAMES` as a :class:`Figure`, and ``n_real``, ``n_fake``, ``majority_accuracy``.

    `logits` are (N,) as the model gives them, `calibration` makes scores and verdicts of them; `labels` are (N,) of 0 and 1.
    With one class only, what needs the other is None, with the reason. `n_boot` = 0 leaves the intervals out.

    Raises:
        DataError: no images, a logit that is not finite, or another number of labels.
    """
    groups = _Groups.of(logits, labels, calibration)
    reasons = {name: _reason(name, groups.n_real, groups.n_fake) for name in NAMES}
    names = [name for name in NAMES if not reasons[name]]
    values = {name: float(_FIGURES[name][0](sample)[0]) for sample in [groups.once()] for name in names}
    drawn = _bootstrap([groups], names, n_boot, seed)[0]
    n = groups.n_real + groups.n_fake
    figures: Figures = {
        "n_real": groups.n_real,
        "n_fake": groups.n_fake,
        "majority_accuracy": max(groups.n_real, groups.n_fake) / n,
    }
    for name in NAMES:
        figures[name] = _figure(values.get(name), drawn.get(name), n, reasons[name])
    return figures


def paired_difference(
    metric: str,
    labels: npt.ArrayLike,
    before: tuple[npt.ArrayLike, Calibration],
    after: tuple[npt.ArrayLike, Calibration],
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Figure:
    """The drop of `metric` from one model to another on the same images: before - after, with its 95 % interval.

    Both models are measured on the same resamples, so what the images have in common cancels. `metric` is one of
    :data:`NAMES`; `before` and `after` are logits (N,) with their calibration, `labels` (N,) of 0 and 1.

    Raises:
        DataError: an unknown metric, or logits that do not fit the labels.
    """
    if metric not in _FIGURES:
        raise DataError(f"no metric is called {metric!r}{nearest(metric, NAMES)}")
    pair = [_Groups.of(logits, labels, calibration) for logits, calibration in (before, after)]
    n_real, n_fake = pair[0].n_real, pair[0].n_fake
    reason = _reason(metric, n_real, n_fake)
    if reason:
        return _figure(None, None, n_real + n_fake, reason)
    function = _FIGURES[metric][0]
    value = float(function(pair[0].once())[0] - function(pair[1].once())[0])
    first, second = _bootstrap(pair, [metric], n_boot, seed)
    return _figure(value, first[metric] - second[metric], n_real + n_fake, "")


@dataclass(frozen=True)
class _Groups:
    """Images sorted into groups of equal logit, highest first: z, score, flagged (U,); each image's group."""

    z: Floats
    score: Floats
    flagged: npt.NDArray[np.bool_]
    of_real: Ints
    of_fake: Ints

    @classmethod
    def of(cls, logits: npt.ArrayLike, labels: npt.ArrayLike, calibration: Calibration) -> _Groups:
        values, fake = _checked(logits, labels, "logits")
        descending, inverse = np.unique(-values, return_inverse=True)
        distinct = -descending
        z = (distinct + calibration.bias) / calibration.temperature
        verdict = calibration.verdict(distinct)
        return cls(z, calibration.score(distinct), verdict, inverse[~fake], inverse[fake])

    @property
    def n_real(self) -> int:
        return len(self.of_real)

    @property
    def n_fake(self) -> int:
        return len(self.of_fake)

    def once(self) -> _Sample:
        """Every image drawn once."""
        return self.drawn(np.arange(self.n_real)[None], np.arange(self.n_fake)[None])

    def drawn(self, real: Ints, fake: Ints) -> _Sample:
        """The resamples that drew the reals (B, n_real) and fakes (B, n_fake) at these positions."""
        size = len(self.z)
        return _Sample(
            self.z, self.score, self.flagged, _count(self.of_real, real, size), _count(self.of_fake, fake, size)
        )


def _count(group: Ints, drawn: Ints, size: int) -> Floats:
    """(B, size) how often each group was drawn."""
    rows = len(drawn)
    flat = group[drawn] + np.arange(rows)[:, None] * size
    return np.bincount(flat.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _bootstrap(models: list[_Groups], names: list[str], n_boot: int, seed: int) -> list[dict[str, Floats]]:
    """For each model, each figure on `n_boot` resamples: the same ones for all models."""
    collected: list[dict[str, list[Floats]]] = [{name: [] for name in names} for _ in models]
    for real, fake in _draws(models[0].n_real, models[0].n_fake, n_boot, seed):
        for groups, figures in zip(models, collected, strict=True):
            sample = groups.drawn(real, fake)
            for name in names:
                figures[name].append(_FIGURES[name][0](sample))
    return [{name: np.concatenate([*parts, np.empty(0)]) for name, parts in figures.items()} for figures in collected]


def _draws(n_real: int, n_fake: int, n_boot: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // (n_real + n_fake))
    for start in range(0, n_boot, block):
        rows = min(block, n_boot - start)
        real = rng.integers(0, max(n_real, 1), (rows, n_real))
        yield real, rng.integers(0, max(n_fake, 1), (rows, n_fake))


def _reason(name: str, n_real: int, n_fake: int) -> str:
    """Why figure `name` cannot be measured on this many images; empty when it can."""
    needs_real, needs_fake = _FIGURES[name][1]
    if needs_real and not n_real:
        return "no real images"
    if needs_fake and not n_fake:
        return "no fake images"
    if name in _FPR and not measurable(_FPR[name], n_real):
        needed = round(MIN_FALSE_POSITIVES / _FPR[name])
        return f"not measurable: {n_real:,} real images, {needed:,} needed for an FPR of {_FPR[name]:.0%}"
    return ""


def _figure(value: float | None, drawn: Floats | None, n: int, reason: str) -> Figure:
    if value is None or drawn is None or not drawn.size:
        return Figure(value=value, low=None, high=None, n=n, reason=reason)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value=value, low=float(low), high=float(high), n=n, reason=reason)


def _single(name: str, values: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    function, needs = _FIGURES[name]
    return float(function(_plain(values, labels, needs, name))[0])


def _plain(values: npt.ArrayLike, labels: npt.ArrayLike, needs: tuple[bool, bool], name: str) -> _Sample:
    """One sample in which `values` stand for logits, scores and verdicts: each figure reads what it needs."""
    numbers, fake = _checked(values, labels, name)
    for needed, there, what in ((needs[0], (~fake).any(), "real"), (needs[1], fake.any(), "fake")):
        if needed and not there:
            raise DataError(f"{name}: expected images of both classes, got no {what} image")
    if name in _OF_VERDICTS and not np.isin(numbers, (0, 1)).all():
        raise DataError(f"{name}: expected verdicts (0 real, 1 fake), got scores: compare them with a threshold first")
    if name in _OF_SCORES and (numbers.min() < 0 or numbers.max() > 1):
        raise DataError(f"{name}: expected scores in [0, 1], got {numbers.min():g} to {numbers.max():g}: not logits")
    descending, inverse = np.unique(-numbers, return_inverse=True)
    groups = _Groups(-descending, -descending, -descending > 0, inverse[~fake], inverse[fake])
    return groups.once()


def _checked(values: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    numbers, classes = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if numbers.ndim != 1 or classes.shape != numbers.shape or not numbers.size:
        raise DataError(f"{name}: expected one value a label, got shapes {numbers.shape} and {classes.shape}")
    if not np.isin(classes, (0, 1)).all():
        raise DataError(f"{name}: expected labels 0 (real) and 1 (fake), got {np.unique(classes)[:5].tolist()}")
    bad = int(np.count_nonzero(~np.isfinite(numbers)))
    if bad:
        raise DataError(f"{name}: {bad:,} of {numbers.size:,} values are not finite: the model is broken on them")
    return numbers, classes == 1
