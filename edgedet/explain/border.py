"""How much of a map lies at the border: detectors that learnt an artefact of resizing or of the generator's edge look there.

The border is the outer tenth of the image at each side, 36 % of its area. A map without preference has 36 % of its mass there;
an alarm is raised beyond twice that. Source: the Grad-CAM findings of "AI Generated Image Detection" (Group 10), whose maps sat
in the corners until crops and rotations were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WIDTH = 0.1
"""Of the image, at each side."""

SHARE = 1 - (1 - 2 * WIDTH) ** 2
"""Of the area."""

ALARM = 2.0
"""Times its share of the area."""

Heat = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Border:
    """Of the maps of one run: `mass`, the mean share of their mass at the border, over the `images` that have any.

    most: the largest share that a map of this size can have there: all in a corner.
    """

    mass: float | None
    images: int
    most: float

    @property
    def alarm(self) -> bool | None:
        """Whether the mass is beyond the limit; None when it cannot be told: no map, or so coarse a one that none could be."""
        if self.mass is None or self.most <= ALARM * SHARE:
            return None
        return self.mass > ALARM * SHARE

    def said(self) -> str:
        """In words, with what to do."""
        if self.mass is None:
            return "border: no map has anything that speaks for fake"
        found = f"border: {self.mass:.0%} of the mass in {SHARE:.0%} of the area, mean of {self.images} maps"
        if self.alarm is None:
            return f"{found}; maps of so few cells cannot raise the alarm"
        if self.alarm:
            return f"{found}: it looks at the edge of images, not at what is in them; train on crops and rotations"
        return f"{found}; the alarm is at {ALARM * SHARE:.0%}"


def border_mass(heat: Heat) -> float | None:
    """The share, 0 to 1, of what is above 0 in a map (h, w) that lies at the border; None when nothing is above 0."""
    mass = np.maximum(heat, 0).astype(np.float64)
    total = mass.sum()
    return float((mass * cells(*heat.shape)).sum() / total) if total > 0 else None


def cells(height: int, width: int) -> npt.NDArray[np.float64]:
    """(h, w): the share of each cell of a map's grid that lies at the border, by area."""
    inner = np.outer(_inner(height), _inner(width))
    return np.asarray(1 - inner)


def summary(masses: Sequence[float | None], shape: tuple[int, int]) -> Border:
    """Of the border masses of several maps of one shape (h, w)."""
    found = [mass for mass in masses if mass is not None]
    mean = float(np.mean(found)) if found else None
    return Border(mean, len(found), float(cells(*shape).max()))


def _inner(count: int) -> npt.NDArray[np.float64]:
    """The share of each of `count` cells along an axis that lies between the borders."""
    edges = np.linspace(0, 1, count + 1)
    overlap = np.minimum(edges[1:], 1 - WIDTH) - np.maximum(edges[:-1], WIDTH)
    return np.asarray(np.clip(overlap, 0, None) * count)
