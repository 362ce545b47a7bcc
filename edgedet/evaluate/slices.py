"""Evaluate an artifact: overall, per generator, the worst one named.

Each generator's fakes are measured against all reals of the index, whatever their source: a generator that a detector has
lost cannot hide in the mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet import metrics
from edgedet.artifact import Artifact, Calibration, Figures
from edgedet.data.index import FAKE, REAL, Index
from edgedet.errors import DataError
from edgedet.evaluate import degrade
from edgedet.evaluate.logits import logits_of
from edgedet.metrics import Discordant, Figure
from edgedet.runtime.detector import Detector

UNNAMED = "(unnamed)"
PER_GENERATOR = ("balanced_accuracy", "auc", "ap", "tpr", "tpr_at_fpr1", "tpr_at_fpr5")
"""What a manifest keeps of each generator; TNR is the same for all, since all reals are in each slice."""


@dataclass(frozen=True)
class Evaluation:
    """An artifact's logits on an index under one condition, and the figures that they give.

    labels, generators, logits: (N,), in the order of the index; calibration: what made verdicts of the logits.
    overall: :func:`edgedet.metrics.summary` of all images; by_generator: the same of each generator's fakes and all reals.
    """

    condition: str
    splits: tuple[str, ...]
    index_digest: str
    labels: npt.NDArray[np.int64]
    generators: npt.NDArray[np.str_]
    logits: npt.NDArray[np.float32]
    calibration: Calibration
    overall: Figures
    by_generator: dict[str, Figures]

    @property
    def worst_generator(self) -> str | None:
        """The one of least balanced accuracy; None without fakes and reals."""
        measured = {name: each["balanced_accuracy"]["value"] for name, each in self.by_generator.items()}
        known = [name for name, value in measured.items() if value is not None]
        return min(known, key=lambda name: (measured[name], name), default=None)

    @property
    def verdicts(self) -> npt.NDArray[np.bool_]:
        """(N,), true is fake."""
        return self.calibration.verdict(self.logits)

    def slices(self) -> dict[str, npt.NDArray[np.bool_]]:
        """(N,) masks: of each generator, its fakes and all reals."""
        return generator_slices(self.labels, self.generators)

    def recalibrated(self, calibration: Calibration, *, n_boot: int = 1000, seed: int = 0) -> Evaluation:
        """The same logits under another calibration: nothing is run again."""
        return _evaluation(
            self.logits,
            calibration,
            self.labels,
            self.generators,
            condition=self.condition,
            splits=self.splits,
            index_digest=self.index_digest,
            n_boot=n_boot,
            seed=seed,
        )

    def plain(self) -> Figures:
        """Everything but the logits, as plain data for JSON."""
        return {
            "condition": self.condition,
            "splits": list(self.splits),
            "index": self.index_digest,
            "worst_generator": self.worst_generator,
            **self.overall,
            "generators": self.by_generator,
        }


def evaluate(
    subject: Artifact | Detector,
    index: Index,
    *,
    condition: str = degrade.CLEAN,
    seed: int = 0,
    n_boot: int = 1000,
) -> Evaluation:
    """Run `subject` on every image of `index` under `condition` and measure it at its stored calibration.

    `seed` is that of the noise and of the bootstrap.

    Raises:
        DataError: an empty index, an image that cannot be read, no such condition.
    """
    if not len(index):
        raise DataError(f"{index.root}: there is no image to evaluate on: the index is empty")
    with _loaded(subject) as detector:
        logits = logits_of(detector, index, condition=condition, seed=seed)
    return of_logits(logits, detector.calibration, index, condition=condition, n_boot=n_boot, seed=seed)


def evaluate_all(
    subject: Artifact | Detector,
    index: Index,
    conditions: Iterable[str],
    *,
    seed: int = 0,
    n_boot: int = 1000,
) -> dict[str, Evaluation]:
    """One evaluation a condition, with the model loaded once."""
    wanted = list(dict.fromkeys(conditions))
    require_conditions(wanted)
    with _loaded(subject) as detector:
        return {each: evaluate(detector, index, condition=each, seed=seed, n_boot=n_boot) for each in wanted}


def require_conditions(names: Iterable[str]) -> None:
    """Refuse a condition that there is none of, before the first image is read.

    Raises:
        DataError: names it.
    """
    for name in names:
        degrade.parse(name)


@contextlib.contextmanager
def _loaded(subject: Artifact | Detector) -> Iterator[Detector]:
    """An artifact's detector, closed afterwards; a detector that the caller has loaded stays open."""
    if not isinstance(subject, Artifact):
        yield subject
        return
    with Detector.load(subject) as detector:
        yield detector


def of_logits(
    logits: npt.NDArray[np.float32],
    calibration: Calibration,
    index: Index,
    *,
    condition: str = degrade.CLEAN,
    n_boot: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """The evaluation of logits (N,) that are there already, such as a trainer's.

    Raises:
        DataError: another number of logits than images, or one that is not finite.
    """
    return _evaluation(
        logits,
        calibration,
        index.labels,
        index.generators,
        condition=condition,
        splits=tuple(sorted({row.split for row in index.rows})),
        index_digest=index.digest,
        n_boot=n_boot,
        seed=seed,
    )


def flips(child: Evaluation, parent: Evaluation) -> Figure:
    """The share of images whose verdict differs between the two, each at its own calibration.

    Raises:
        DataError: they were not measured on the same images.
    """
    require_same_images(child, parent)
    return metrics.flip_rate(parent.verdicts, child.verdicts)


def beside_first(subjects: Sequence[Artifact], index: Index) -> dict[str, Figures]:
    """By digest, the figures of each on `index`, in the form of a manifest's, and its verdict flips against the first.

    Raises:
        DataError: an empty index, or an image that cannot be read.
    """
    evaluations = {subject.digest: evaluate(subject, index) for subject in subjects}
    first = evaluations[subjects[0].digest]
    figures = {digest: for_manifest({degrade.CLEAN: own}) for digest, own in evaluations.items()}
    for digest, own in evaluations.items():
        if own is not first:
            figures[digest]["flips_against_ancestor"] = flips(own, first)
    return figures


def mcnemar(child: Evaluation, parent: Evaluation) -> Discordant:
    """The images that only one of the two gets right, each at its own calibration, and whether that is chance.

    Raises:
        DataError: they were not measured on the same images.
    """
    require_same_images(child, parent)
    return metrics.mcnemar(child.labels, parent.verdicts, child.verdicts)


def require_same_images(child: Evaluation, other: Evaluation) -> None:
    """Refuse to compare what was measured on different images or under different conditions.

    Raises:
        DataError: says which differs.
    """
    if child.condition != other.condition:
        raise DataError(f"cannot compare: one is measured under {child.condition!r}, the other under {other.condition!r}")
    same_rows = np.array_equal(child.labels, other.labels) and np.array_equal(child.generators, other.generators)
    if child.index_digest != other.index_digest or not same_rows:
        raise DataError(
            f"cannot compare: one is measured on index {child.index_digest[:12]}, the other on {other.index_digest[:12]}: "
            "evaluate both on the same index"
        )


def generator_slices(
    labels: npt.NDArray[np.int64], generators: npt.NDArray[np.str_]
) -> dict[str, npt.NDArray[np.bool_]]:
    """(N,) masks: of each generator, its fakes and all reals."""
    names = sorted(set(generators[labels == FAKE].tolist()))
    return {name or UNNAMED: (labels == REAL) | (generators == name) & (labels == FAKE) for name in names}


def for_manifest(evaluations: Mapping[str, Evaluation]) -> Figures:
    """What a manifest's ``metrics`` keep: the clean figures on top, each generator in short, other conditions below.

    ``{"balanced_accuracy": {...}, ..., "splits": [...], "worst_generator": ..., "generators": {...},
    "conditions": {"web": {"balanced_accuracy": {...}, ..., "worst_generator": ..., "generators": {...}}}}``

    Raises:
        DataError: there is no clean evaluation among them.
    """
    if degrade.CLEAN not in evaluations:
        raise DataError(f"expected a clean evaluation, got: {', '.join(evaluations) or 'none'}")
    clean = evaluations[degrade.CLEAN]
    others = {name: _short(each) for name, each in evaluations.items() if name != degrade.CLEAN}
    origin = {"splits": list(clean.splits), "index": clean.index_digest}
    return {**_short(clean), **origin, **({"conditions": others} if others else {})}


def _short(evaluation: Evaluation) -> Figures:
    generators = {
        name: {"n_fake": each["n_fake"], **{figure: each[figure] for figure in PER_GENERATOR}}
        for name, each in evaluation.by_generator.items()
    }
    return {**evaluation.overall, "worst_generator": evaluation.worst_generator, "generators": generators}


def _evaluation(
    logits: npt.NDArray[np.float32],
    calibration: Calibration,
    labels: npt.NDArray[np.int64],
    generators: npt.NDArray[np.str_],
    *,
    condition: str,
    splits: tuple[str, ...],
    index_digest: str,
    n_boot: int,
    seed: int,
) -> Evaluation:
    overall = metrics.summary(logits, labels, calibration, n_boot=n_boot, seed=seed)
    masks = generator_slices(labels, generators)
    by_generator = {
        # With one generator its slice is everything.
        name: overall if mask.all() else metrics.summary(logits[mask], labels[mask], calibration, n_boot=n_boot, seed=seed)
        for name, mask in masks.items()
    }
    return Evaluation(
        condition=condition,
        splits=splits,
        index_digest=index_digest,
        labels=labels,
        generators=generators,
        logits=logits,
        calibration=calibration,
        overall=overall,
        by_generator=by_generator,
    )
