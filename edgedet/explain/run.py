"""Images through a detector and its map: a verdict, a map and its border figure each, and the figure of the run."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact
from edgedet.errors import ExplainError, ImageError
from edgedet.explain.border import SHARE, Border, border_mass, summary
from edgedet.explain.heat import SIGNED, Explainer, Method, choose
from edgedet.explain.overlay import draw
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Outputs
from edgedet.runtime.detector import Prediction, batches, decoded, predictions, threshold_of

Heat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """Of one image. pixels: what the network was given; border: see `edgedet.explain.border`; numbers: by output name."""

    prediction: Prediction
    pixels: Pixels
    heat: Heat
    border: float | None
    numbers: dict[str, float]


class Run:
    """An explainer at work on an artifact by one method; the maps of all its images are summed up in :attr:`border`."""

    def __init__(
        self, artifact: Artifact, explainer: Explainer, method: str, *, operating_point: str | None = None, batch_size: int = 8
    ) -> None:
        """`method` is a name of `edgedet.explain.heat.METHODS`, or ``auto`` for the first that the explainer has.

        Raises:
            ExplainError: the detector has no such method. ArtifactError: it has no such operating point.
        """
        self.artifact, self.explainer, self.batch_size = artifact, explainer, batch_size
        self.method: Method = choose(explainer, method, artifact)
        self.threshold = threshold_of(artifact, operating_point)
        self._masses: list[float | None] = []
        self._shape = (0, 0)

    @property
    def border(self) -> Border | None:
        """Of the maps so far; None when there are none."""
        return summary(self._masses, self._shape) if self._masses else None

    def each(self, images: Sequence[str | os.PathLike[str]]) -> Iterator[Explanation | ImageError]:
        """One explanation for each image, or why it cannot be read, in order.

        Raises:
            ExplainError: a map is not finite. ArtifactError: a logit is not finite.
        """
        pixels = decoded(self.artifact.manifest.preprocess, iter(images), ahead=self.batch_size)
        for batch in batches(pixels, self.batch_size):
            if isinstance(batch, ImageError):
                yield batch
                continue
            outputs = self.explainer.run(np.stack(batch), self.method)
            if not np.isfinite(outputs[self.method]).all():
                raise ExplainError(f"{self.artifact.path}: its map by {self.method} is not finite: it cannot be used")
            for position, prediction in enumerate(predictions(self.artifact, outputs[LOGIT], self.threshold)):
                yield self._explanation(batch[position], prediction, outputs, position)

    def draw(self, explanation: Explanation) -> bytes:
        """The overlay as a PNG."""
        file = io.BytesIO()
        draw(explanation.pixels, explanation.heat, self.caption(explanation), signed=self.method in SIGNED).save(file, "PNG")
        return file.getvalue()

    def caption(self, explanation: Explanation) -> list[str]:
        """What stands below the picture."""
        given, heat = explanation.prediction, explanation.heat
        colours = "red speaks for fake, blue for real" if self.method in SIGNED else "orange where it is high"
        colour = "red" if self.method in SIGNED else "orange"
        share = f"there is no {colour}" if explanation.border is None else f"{explanation.border:.0%} of the {colour}"
        numbers = "".join(f"  {name} {value:.3f}" for name, value in explanation.numbers.items())
        return [
            f"{given.verdict}  score {given.score:.3f}  threshold {given.threshold:.3f}{numbers}",
            f"{self.method} {heat.shape[0]}x{heat.shape[1]}: {colours}; from {heat.min():.3g} to {heat.max():.3g}",
            f"{share} at the border, which is {SHARE:.0%} of the area",
        ]

    def _explanation(self, pixels: Pixels, prediction: Prediction, outputs: Outputs, position: int) -> Explanation:
        heat = outputs[self.method][position]
        mass = border_mass(heat)
        self._masses.append(mass)
        self._shape = heat.shape
        numbers = {name: float(value[position]) for name, value in outputs.items() if name not in (LOGIT, self.method)}
        return Explanation(prediction, pixels, heat, mass, numbers)
