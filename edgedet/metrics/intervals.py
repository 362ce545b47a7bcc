"""Figures with their 95 % intervals: all of one model, the drop between two, the rate of changed verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Calibration, Figures
from edgedet.errors import DataError, nearest
from edgedet.metrics.figures import FIGURES, NAMES, reason_against
from edgedet.metrics.samples import Floats, Groups, Ints

CONFIDENCE = 0.95
_CHUNK = 1 << 18  # elements a block of resamples has: what stays in the cache


class Figure(TypedDict):
    """One figure with its 95 % interval; None when `reason` says why it cannot be measured. `n`: images behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str


class Discordant(TypedDict):
    """Images that only one of two models gets right, of `n`, and McNemar's exact two-sided `p` that this is chance."""

    only_before: int
    only_after: int
    n: int
    p: float


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
    With one class only, what needs the other is None, with the reason. `n_boot` = 0 leaves the intervals out. Verdicts that
    are all right, or all wrong, have Wilson's width, as in :func:`flip_rate`.

    Raises:
        DataError: no images, a logit that is not finite, or another number of labels.
    """
    groups = Groups.of(logits, labels, calibration)
    reasons = {name: reason_against(name, groups.n_real, groups.n_fake) for name in NAMES}
    names = [name for name in NAMES if not reasons[name]]
    everything = groups.once()
    values = {name: float(FIGURES[name][0](everything)[0]) for name in names}
    drawn = _bootstrap([groups], names, n_boot, seed)[0]
    n = groups.n_real + groups.n_fake
    figures: Figures = {
        "n_real": groups.n_real,
        "n_fake": groups.n_fake,
        "majority_accuracy": max(groups.n_real, groups.n_fake) / n,
    }
    for name in NAMES:
        figure = _figure(values.get(name), drawn.get(name), n, reasons[name])
        figures[name] = _widened(figure, name, groups) if n_boot > 1 else figure
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

    Both models are measured on the same resamples, so what the images have in common cancels; two that say the same of every
    image differ by nothing, without a width: how little that proves on few images, :func:`flip_rate` says. `metric` is one of
    :data:`NAMES`; `before` and `after` are logits (N,) with their calibration, `labels` (N,) of 0 and 1.

    Raises:
        DataError: an unknown metric, or logits that do not fit the labels.
    """
    if metric not in FIGURES:
        raise DataError(f"no metric is called {metric!r}{nearest(metric, NAMES)}")
    pair = [Groups.of(logits, labels, calibration) for logits, calibration in (before, after)]
    n_real, n_fake = pair[0].n_real, pair[0].n_fake
    reason = reason_against(metric, n_real, n_fake)
    if reason:
        return _figure(None, None, n_real + n_fake, reason)
    function = FIGURES[metric][0]
    value = float(function(pair[0].once())[0] - function(pair[1].once())[0])
    first, second = _bootstrap(pair, [metric], n_boot, seed)
    return _figure(value, first[metric] - second[metric], n_real + n_fake, "")


def flip_rate(before: npt.ArrayLike, after: npt.ArrayLike) -> Figure:
    """The share of images whose verdict changed, with its Wilson interval.

    Wilson's, because a bootstrap of no flip at all has no width: 0 of 50 does not bound the rate at 0, but at 7 %.
    """
    changed = np.asarray(before, dtype=bool) != np.asarray(after, dtype=bool)
    if not changed.size:
        raise DataError("flip_rate: expected at least one verdict, got none")
    n, rate = changed.size, float(changed.mean())
    low, high = _wilson(rate, n)
    return Figure(value=rate, low=low, high=high, n=n, reason="")


def _wilson(rate: float, n: int) -> tuple[float, float]:
    """The interval of a rate among `n`; an end that is 0 or 1 is exactly that."""
    z = 1.959963984540054
    centre, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))
    return low if rate else 0.0, high if rate < 1 else 1.0


def mcnemar(labels: npt.ArrayLike, before: npt.ArrayLike, after: npt.ArrayLike) -> Discordant:
    """Whether two models that saw the same images err alike: verdicts (N,) of both against `labels` (N,) of 0 and 1.

    Were they equally good, each would be the right one on half of the images that only one gets right: the tail of that
    binomial, both sides. Source: McNemar, Psychometrika 12, 1947, in its exact form.

    Raises:
        DataError: no images, or another number of verdicts.
    """
    truth, first, second = (np.asarray(each, dtype=bool) for each in (labels, before, after))
    if not truth.size or not truth.shape == first.shape == second.shape:
        raise DataError(f"mcnemar: expected one verdict a label, got shapes {truth.shape}, {first.shape} and {second.shape}")
    right, still_right = first == truth, second == truth
    lost, won = int((right & ~still_right).sum()), int((~right & still_right).sum())
    return Discordant(only_before=lost, only_after=won, n=truth.size, p=_even_chance(lost, won))


def _even_chance(one: int, other: int) -> float:
    """The two-sided probability of a split at least as uneven, of so many tosses of a fair coin."""
    tosses = one + other
    ways = (math.lgamma(tosses + 1) - math.lgamma(k + 1) - math.lgamma(tosses - k + 1) for k in range(min(one, other) + 1))
    return min(1.0, 2 * math.fsum(math.exp(each - tosses * math.log(2)) for each in ways))


def _bootstrap(models: list[Groups], names: list[str], n_boot: int, seed: int) -> list[dict[str, Floats]]:
    """For each model, each figure on `n_boot` resamples: the same ones for all models."""
    collected: list[dict[str, list[Floats]]] = [{name: [] for name in names} for _ in models]
    for real, fake in draws(models[0].n_real, models[0].n_fake, n_boot, seed):
        for groups, figures in zip(models, collected, strict=True):
            sample = groups.drawn(real, fake)
            for name in names:
                figures[name].append(FIGURES[name][0](sample))
    return [{name: np.concatenate([*parts, np.empty(0)]) for name, parts in figures.items()} for figures in collected]


def draws(n_real: int, n_fake: int, n_boot: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Which reals (B, n_real) and fakes (B, n_fake) each resample draws, with replacement, a block of resamples at a time."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK // (n_real + n_fake))
    for start in range(0, n_boot, block):
        rows = min(block, n_boot - start)
        real = rng.integers(0, max(n_real, 1), (rows, n_real))
        yield real, rng.integers(0, max(n_fake, 1), (rows, n_fake))


def _widened(figure: Figure, name: str, groups: Groups) -> Figure:
    """A figure of verdicts whose resamples are all the same, with the width of none in n, of each class."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    counts = {
        "tpr": (groups.n_fake,),
        "tnr": (groups.n_real,),
        "balanced_accuracy": (groups.n_real, groups.n_fake),
        "accuracy": (groups.n_real + groups.n_fake,),
    }.get(name)
    if counts is None or value is None or low is None or high is None or not low == value == high:
        return figure
    width = math.fsum(_wilson(0.0, n)[1] for n in counts) / len(counts)
    return Figure(value=value, low=max(0.0, low - width), high=min(1.0, high + width), n=figure["n"], reason="")


def _figure(value: float | None, drawn: Floats | None, n: int, reason: str) -> Figure:
    if value is None or drawn is None or not drawn.size:
        return Figure(value=value, low=None, high=None, n=n, reason=reason)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Figure(value=value, low=float(low), high=float(high), n=n, reason=reason)
