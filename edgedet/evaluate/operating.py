"""Operating points: the scores from which on a verdict is fake, and between which there is none.

``half``        0.5
``balanced``    most balanced accuracy
``fpr1``        the lowest with at most 1 % of the reals called fake
``fpr5``        the same with 5 %
``worst_tier``  most balanced accuracy where it is least, with at least 95 % of the reals called real in every view

All but the last are of all views together. A point that too few images measure is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgedet import metrics

HALF, BALANCED, FPR1, FPR5, WORST_TIER = "half", "balanced", "fpr1", "fpr5", "worst_tier"
NAMES = (HALF, BALANCED, FPR1, FPR5, WORST_TIER)
_RATES = {FPR1: 0.01, FPR5: 0.05}

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def points(scores: Mapping[str, Floats], fake: Mask) -> tuple[dict[str, float], dict[str, str]]:
    """The threshold of every operating point that can be measured, and why the others cannot.

    scores: by view the probabilities (N,) of the same images; fake: (N,).
    """
    pooled, labels = _pooled(scores, fake)
    found = {HALF: 0.5, BALANCED: _most_balanced(pooled, labels)}
    reasons = {name: reason for name, rate in _RATES.items() if (reason := _too_few(int((~fake).sum()), rate, "real"))}
    found |= {name: _at_most(pooled[~labels], rate) for name, rate in _RATES.items() if name not in reasons}
    if FPR5 in reasons:
        reasons[WORST_TIER] = reasons[FPR5]
    elif len(scores) > 1:
        found[WORST_TIER] = _worst_tier(scores, fake, tnr=1 - _RATES[FPR5])
    else:
        reasons[WORST_TIER] = "not measurable: there is one view only"
    return found, reasons


def band(scores: Mapping[str, Floats], fake: Mask) -> tuple[float, float] | None:
    """(low, high): at most 1 % of the fakes lie below `low`, and of the reals from `high` on; 5 % where images are few.

    Between them a detector had better say nothing. Where the classes lie further apart than that, both are the balanced
    threshold; None when too few images measure even 5 %.
    """
    n_real, n_fake = int((~fake).sum()), int(fake.sum())
    pooled, labels = _pooled(scores, fake)
    for rate in (_RATES[FPR1], _RATES[FPR5]):
        if metrics.measurable(rate, min(n_real, n_fake)):
            low, high = 1 - _at_most(1 - pooled[labels], rate), _at_most(pooled[~labels], rate)
            middle = _most_balanced(pooled, labels)
            return (low, high) if low < high else (middle, middle)
    return None


def _pooled(scores: Mapping[str, Floats], fake: Mask) -> tuple[Floats, Mask]:
    return np.concatenate([*scores.values()]), np.tile(fake, len(scores))


def _too_few(n: int, rate: float, kind: str) -> str:
    if metrics.measurable(rate, n):
        return ""
    return f"not measurable: {n:,} {kind} images, {round(metrics.MIN_FALSE_POSITIVES / rate):,} needed"


def _most_balanced(scores: Floats, fake: Mask) -> float:
    """The score of most balanced accuracy, in the middle between two images; of equals, the one nearest to 0.5."""
    edges = _edges(scores)
    return _nearest_to_half(edges, _balanced(scores, fake, edges))


def _worst_tier(scores: Mapping[str, Floats], fake: Mask, *, tnr: float) -> float:
    """The score at which the view of least balanced accuracy has most, of those at which each view keeps `tnr`."""
    edges = _edges(np.concatenate([*scores.values()]))
    quality = np.min([_balanced(each, fake, edges) for each in scores.values()], axis=0)
    kept = np.min([_below(each[~fake], edges) for each in scores.values()], axis=0)
    return _nearest_to_half(edges, np.where(kept >= tnr - 1e-12, quality, -1.0))


def _nearest_to_half(edges: Floats, quality: Floats) -> float:
    best = edges[quality >= quality.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _edges(scores: Floats) -> Floats:
    """Where verdicts can change: in the middle between two scores, and on both sides of all."""
    distinct = np.unique(scores)
    middles = (distinct[1:] + distinct[:-1]) / 2
    return np.concatenate([[distinct[0] / 2], middles, [(1 + distinct[-1]) / 2]])


def _balanced(scores: Floats, fake: Mask, edges: Floats) -> Floats:
    """The balanced accuracy at each threshold."""
    return (_below(scores[~fake], edges) + 1 - _below(scores[fake], edges)) / 2


def _below(scores: Floats, edges: Floats) -> Floats:
    """The share of `scores` below each threshold."""
    return np.asarray(np.searchsorted(np.sort(scores), edges) / len(scores), dtype=np.float64)


def _at_most(reals: Floats, rate: float) -> float:
    """The lowest threshold at which no more than `rate` of the reals' scores are called fake."""
    ordered = np.sort(reals)[::-1]
    allowed = int(rate * len(ordered) + 1e-9)
    first_kept = ordered[allowed]  # this real must stay real
    higher = ordered[ordered > first_kept]
    middle = (first_kept + (higher[-1] if higher.size else 1.0)) / 2
    return float(max(middle, np.nextafter(first_kept, np.inf)))
