"""Shortcut baselines: how well fakes are told from reals without looking at the picture.

A logistic regression on what the file gives away (:mod:`edgedet.data.traits`). Where it does better than chance, so can a
detector, and its accuracy says nothing about generators. Needs scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet import metrics
from edgedet.artifact import Calibration
from edgedet.data.traits import Traits
from edgedet.errors import DataError
from edgedet.metrics import Figure

LIMIT = 0.6
"""AUC from which a data set is called biased."""

_FOLDS = 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shortcut:
    """One baseline: what it was given, and the AUC (with its 95 % interval) on images that it was not fitted on."""

    name: str
    auc: Figure

    @property
    def biased(self) -> bool:
        """Whether its AUC is above :data:`LIMIT` and chance is outside of its interval."""
        return self.auc["value"] is not None and self.auc["value"] > LIMIT and (self.auc["low"] or 0.0) > 0.5


def shortcuts(
    traits: Sequence[Traits], labels: npt.NDArray[np.int64], groups: Sequence[str], *, seed: int = 0
) -> list[Shortcut]:
    """Every baseline of :data:`BASELINES` on images with these traits and `labels` (N,), strongest first.

    groups: (N,) names; images of one group (a pair, the same content) are on one side of every fold.

    Raises:
        DataError: fewer than ten images of a class, or scikit-learn is not installed.
    """
    least = int(min((labels == 0).sum(), (labels == 1).sum()))
    if least < 2 * _FOLDS:
        raise DataError(f"shortcut baselines need at least {2 * _FOLDS} images of each class, got {least}")
    found = []
    for name, features in BASELINES.items():
        logits = _cross_validated(features(traits), labels, groups, seed)
        summary = metrics.summary(logits, labels, Calibration(), seed=seed)
        found.append(Shortcut(name, summary["auc"]))
    return sorted(found, key=lambda each: each.auc["value"] or 0.0, reverse=True)


def _cross_validated(features: Floats, labels: npt.NDArray[np.int64], groups: Sequence[str], seed: int) -> Floats:
    """(N,) log odds of fake, each image's from a fit on the folds that do not hold it."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise DataError("shortcut baselines need scikit-learn: pip install 'edgedet[audit]'") from error
    logits = np.zeros(len(labels))
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for fitted, held_out in folds.split(features, labels, groups):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(features[fitted], labels[fitted])
        logits[held_out] = model.decision_function(features[held_out])
    return logits


def _container(traits: Sequence[Traits]) -> Floats:
    return _one_hot([each.format for each in traits])


def _quality(traits: Sequence[Traits]) -> Floats:
    known = np.array([[each.quality or 0.0, each.quality is None] for each in traits], dtype=np.float64)
    return np.hstack([known, _one_hot([each.sampling for each in traits])])


def _size(traits: Sequence[Traits]) -> Floats:
    sides = np.array([[each.width, each.height] for each in traits], dtype=np.float64)
    return np.hstack([np.log(sides), np.log(sides[:, :1] / sides[:, 1:]), sides % 8 == 0])


def _rate(traits: Sequence[Traits]) -> Floats:
    return np.log([[each.bytes_per_pixel] for each in traits])


def _metadata(traits: Sequence[Traits]) -> Floats:
    return np.array([[each.exif, each.icc] for each in traits], dtype=np.float64)


def _grid(traits: Sequence[Traits]) -> Floats:
    return np.array([each.grid for each in traits], dtype=np.float64)


def _everything(traits: Sequence[Traits]) -> Floats:
    return np.hstack([part(traits) for part in (_container, _quality, _size, _rate, _metadata)])


BASELINES: Mapping[str, Callable[[Sequence[Traits]], Floats]] = {
    "container": _container,
    "JPEG quality and chroma": _quality,
    "size in pixels": _size,
    "bytes per pixel": _rate,
    "metadata": _metadata,
    "all of the file": _everything,
    "8-pixel grid": _grid,
}
"""What each baseline sees: (N, F) of N traits. All but the last read the file, the last the steps at the codec's grid alone."""


def _one_hot(words: Sequence[str]) -> Floats:
    known = sorted(set(words))
    return np.array([[word == each for each in known] for word in words], dtype=np.float64)
