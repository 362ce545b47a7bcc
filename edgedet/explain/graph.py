"""The maps that a graph gives behind its logit, on whatever runtime it has; without torch."""

from __future__ import annotations

import numpy as np

from edgedet.artifact import Artifact
from edgedet.explain.heat import Method, split
from edgedet.preprocess import Pixels
from edgedet.runtime import base
from edgedet.runtime.base import LOGIT, Outputs


class GraphExplainer:
    """An ONNX or engine artifact."""

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
        self._runtime = base.load(artifact, threads=threads)
        preprocess = artifact.manifest.preprocess
        blank = np.zeros((1, preprocess.height, preprocess.width, 3), np.uint8)
        self.methods, self._numbers = split(self._runtime.run(blank))

    def run(self, pixels_u8_nhwc: Pixels, method: Method) -> Outputs:
        """``logit`` (B,), the map (B, h, w) and the numbers (B,)."""
        outputs = self._runtime.run(pixels_u8_nhwc)
        return {name: outputs[name] for name in (LOGIT, method, *self._numbers)}

    def close(self) -> None:
        """Give back the runtime's memory."""
        self._runtime.close()
