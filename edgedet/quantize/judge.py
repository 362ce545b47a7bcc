"""How far a quantized graph's logits are from the float graph's, on images that nothing was found on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edgedet.artifact import Figures
from edgedet.errors import QuantizeError
from edgedet.quantize.session import Batches, Values, opened

Verdict = Callable[[Values], npt.NDArray[np.bool_]]
"""Logits (N,) -> whether each image is called fake."""

Finish = Callable[[Values], Values]
"""A graph's first output for one batch -> logits."""


def above_zero(logits: Values) -> npt.NDArray[np.bool_]:
    """The verdict of a detector without calibration."""
    return np.asarray(logits > 0)


@dataclass(frozen=True)
class LogitError:
    """Differences over `n` images: |dz| in logits, its mean and largest; `flips` verdicts that differ."""

    mean: float
    largest: float
    flips: int
    n: int

    @property
    def order(self) -> tuple[float, int]:
        """Less is better: the mean error, then flips."""
        return self.mean, self.flips

    @property
    def flip_rate(self) -> float:
        """The share of verdicts that differ."""
        return self.flips / self.n

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        return {"mean_error": self.mean, "max_error": self.largest, "flips": self.flips, "n": self.n}


class Judge:
    """The float graph's answers on `batches`, and the :class:`LogitError` of any other graph against them.

    finish: makes logits of the first output, where that is not the logit.

    Raises:
        QuantizeError: no images, or the float graph's logits are not finite.
    """

    def __init__(
        self, model: onnx.ModelProto, batches: Batches, verdict: Verdict = above_zero, finish: Finish | None = None
    ) -> None:
        self._batches, self._verdict, self._finish = batches, verdict, finish
        self._expected = self._logits(model)
        if not np.isfinite(self._expected).all():
            raise QuantizeError("the full-precision graph gives logits that are not finite on the held-out images")

    def __call__(self, model: onnx.ModelProto) -> LogitError:
        """Compare `model`; a logit that is not finite is infinitely far."""
        logits = self._logits(model)
        differences = np.nan_to_num(np.abs(logits.astype(np.float64) - self._expected), nan=np.inf, posinf=np.inf)
        flips = int((self._verdict(logits) != self._verdict(self._expected)).sum())
        return LogitError(float(differences.mean()), float(differences.max()), flips, len(logits))

    def _logits(self, model: onnx.ModelProto) -> Values:
        run = opened(model, [model.graph.output[0].name])
        first = (run(pixels)[0] for pixels in self._batches())
        parts = [self._finish(value) if self._finish else value for value in first]
        if not parts:
            raise QuantizeError("there are no held-out images to judge a quantized graph by: its ranges split is too small")
        return np.concatenate(parts)
