"""Images as a figure sees them: distinct logits, sorted once, and how often each was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Calibration
from edgedet.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
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
        """(B,) reals in each resample."""
        return np.asarray(self.real.sum(axis=1))

    @cached_property
    def n_fake(self) -> Floats:
        """(B,) fakes in each resample."""
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


@dataclass(frozen=True)
class Groups:
    """Images sorted into groups of equal logit, highest first: z, score, flagged (U,); each image's group."""

    z: Floats
    score: Floats
    flagged: npt.NDArray[np.bool_]
    of_real: Ints
    of_fake: Ints

    @classmethod
    def of(cls, logits: npt.ArrayLike, labels: npt.ArrayLike, calibration: Calibration) -> Groups:
        """The groups of `logits` (N,), with the scores and verdicts that `calibration` gives them.

        Raises:
            DataError: as :func:`checked`.
        """
        values, fake = checked(logits, labels, "logits")
        descending, inverse = np.unique(-values, return_inverse=True)
        distinct = -descending
        z = (distinct + calibration.bias) / calibration.temperature
        verdict = calibration.verdict(distinct)
        return cls(z, calibration.score(distinct), verdict, inverse[~fake], inverse[fake])

    @property
    def n_real(self) -> int:
        """The number of reals."""
        return len(self.of_real)

    @property
    def n_fake(self) -> int:
        """The number of fakes."""
        return len(self.of_fake)

    def once(self) -> Sample:
        """Every image drawn once."""
        return self.drawn(np.arange(self.n_real)[None], np.arange(self.n_fake)[None])

    def drawn(self, real: Ints, fake: Ints) -> Sample:
        """The resamples that drew the reals (B, n_real) and fakes (B, n_fake) at these positions."""
        size = len(self.z)
        return Sample(self.z, self.score, self.flagged, _count(self.of_real, real, size), _count(self.of_fake, fake, size))


def _count(group: Ints, drawn: Ints, size: int) -> Floats:
    """(B, size) how often each group was drawn."""
    rows = len(drawn)
    flat = group[drawn] + np.arange(rows)[:, None] * size
    return np.bincount(flat.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def checked(values: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """`values` (N,) as numbers, and which of them are fakes, for the figure `name`.

    Raises:
        DataError: no value, another number of labels, a label that is neither 0 nor 1, or a value that is not finite.
    """
    numbers, classes = np.asarray(values, dtype=np.float64), np.asarray(labels)
    if numbers.ndim != 1 or classes.shape != numbers.shape or not numbers.size:
        raise DataError(f"{name}: expected one value a label, got shapes {numbers.shape} and {classes.shape}")
    if not np.isin(classes, (0, 1)).all():
        raise DataError(f"{name}: expected labels 0 (real) and 1 (fake), got {np.unique(classes)[:5].tolist()}")
    bad = int(np.count_nonzero(~np.isfinite(numbers)))
    if bad:
        raise DataError(f"{name}: {bad:,} of {numbers.size:,} values are not finite: the model is broken on them")
    return numbers, classes == 1
