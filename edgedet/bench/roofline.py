"""A roofline: how long a device takes for its work, as a sum of what arithmetic, memory and kernel launches would take alone.

    t = a * 2 MACs / peak + b * bytes / bandwidth + c * kernels,  a, b, c >= 0

Williams, Waterman, Patterson, Roofline, CACM 2009, takes the larger of the first two. Over whole networks some layers are bound
by the one and some by the other: their sum, whose inverse factors read as utilisation. The factors are fitted to the relative
error, so that small networks count as much as large ones.

Its error is found by leaving out one architecture at a time, with all its rows: rows of one network at several sizes know too
much of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgedet.work import Work

Floats = npt.NDArray[np.float64]
Family = Literal["dense", "depthwise", "transformer", "hybrid"]

GROUPED_SHARE = 0.005
"""Of all multiply-accumulates, in convolutions with groups: above it a network is ``depthwise``. They are few and slow."""
CONVOLUTION_SHARE = 0.2
"""Of all multiply-accumulates, in convolutions: above it a network with attention is no transformer but a ``hybrid``."""


@dataclass(frozen=True)
class Ceilings:
    """Of a device in one precision: operations and bytes a millisecond, and bytes a number."""

    operations: float
    bandwidth: float
    bytes_each: int


@dataclass(frozen=True)
class Sample:
    """A time in milliseconds of `architecture`, and its three terms (3,): arithmetic and memory in milliseconds, kernels.

    precision: of the network; a device's factors differ between them. milliseconds: 0 where it is asked for.
    """

    architecture: str
    precision: str
    terms: Floats
    milliseconds: float = 0.0


Model = Callable[[Sample], float]
"""Milliseconds."""
Fitter = Callable[[Sequence[Sample]], Model]


@dataclass(frozen=True)
class Errors:
    """Relative errors of a model on rows that it has not seen: their median and 90th percentile, and how many there were."""

    median: float
    p90: float
    rows: int
    architectures: int


def family(work: Work) -> Family:
    """Which networks `work` is like: rooflines are fitted, and hold, for one family."""
    grouped = work.grouped_macs > GROUPED_SHARE * work.macs
    if work.attention_macs > 0:
        return "hybrid" if grouped or work.convolution_macs > CONVOLUTION_SHARE * work.macs else "transformer"
    return "depthwise" if grouped else "dense"


def terms(work: Work, ceilings: Ceilings, batch: int = 1) -> Floats:
    """What arithmetic and memory alone would take for one image of a batch, in milliseconds, and the number of kernels."""
    moved = ceilings.bytes_each * (work.weights / batch + work.elements)
    return np.array([2 * work.macs / ceilings.operations, moved / ceilings.bandwidth, work.kernels / batch])


def fit(samples: Sequence[Sample]) -> Floats:
    """The factors (3,) of least squared relative error; each at least 0."""
    measured = np.array([sample.milliseconds for sample in samples])
    relative = np.stack([sample.terms for sample in samples]) / measured[:, None]
    return _non_negative(relative, np.ones(len(samples)))


def linear(samples: Sequence[Sample]) -> Model:
    """A model of three factors for each precision among `samples`."""
    factors = {name: fit([each for each in samples if each.precision == name]) for name in {each.precision for each in samples}}
    return lambda sample: float(sample.terms @ factors[sample.precision])


def scaled(base: Model) -> Fitter:
    """Fits one factor to what `base` says of another device, over all precisions: where rows are too few for three."""

    def fitted(samples: Sequence[Sample]) -> Model:
        ratios = [sample.milliseconds / base(sample) for sample in samples]
        factor = float(np.exp(np.median(np.log(ratios))))
        return lambda sample: factor * base(sample)

    return fitted


def leave_one_out(
    samples: Sequence[Sample], fitter: Fitter, judged: Callable[[Sample], bool] = lambda _: True
) -> Errors | None:
    """The errors on the rows that are `judged`, each by a model that has not seen its architecture; None without any."""
    names = sorted({sample.architecture for sample in samples if judged(sample)})
    errors: list[float] = []
    for name in names:
        rest = [sample for sample in samples if sample.architecture != name]
        if not rest:
            continue
        model = fitter(rest)
        left_out = (sample for sample in samples if sample.architecture == name and judged(sample))
        errors += [abs(model(sample) / sample.milliseconds - 1) for sample in left_out]
    if not errors:
        return None
    return Errors(float(np.median(errors)), float(np.quantile(errors, 0.9)), len(errors), len(names))


def _non_negative(design: Floats, wanted: Floats) -> Floats:
    """Least squares with factors of at least 0: the best of those subsets of columns whose factors come out so."""
    best, least = np.zeros(design.shape[1]), np.inf
    for size in range(1, design.shape[1] + 1):
        for columns in itertools.combinations(range(design.shape[1]), size):
            part = design[:, columns]
            factors = np.linalg.lstsq(part, wanted, rcond=None)[0]
            left = float(np.sum((part @ factors - wanted) ** 2))
            if (factors >= 0).all() and left < least:
                least, best = left, np.zeros(design.shape[1])
                best[list(columns)] = factors
    return best
