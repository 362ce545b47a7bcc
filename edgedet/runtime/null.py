"""A runtime that does nothing: what is left is what the harness itself costs."""

from __future__ import annotations

import numpy as np

from edgedet.artifact import Artifact
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Options, Outputs


class NullRuntime:
    """Gives a logit of zero for every image, at once."""

    name = "null"

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """Zeros, (B,)."""
        return {LOGIT: np.zeros(len(pixels_u8_nhwc), dtype=np.float32)}

    def describe(self) -> dict[str, str | int | bool]:
        """Only its name: nothing decides its speed."""
        return {"runtime": self.name}

    def close(self) -> None:
        """Nothing is held."""


def load(artifact: Artifact, options: Options) -> NullRuntime:  # noqa: ARG001  (the table's signature)
    """The same for every artifact."""
    return NullRuntime()
