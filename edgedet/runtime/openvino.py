"""OpenVINO on an ONNX graph: the same file that ONNX Runtime takes, Q/DQ and all, on Intel's kernels.

It reads the exported graph as it is. What is not in INT8 runs in float32, as it does elsewhere: left to itself OpenVINO takes
bfloat16 where the CPU has it, and gives other logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgedet.artifact import Artifact
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Options, Outputs

DEVICE = "CPU"


class OpenVino:
    """One compiled graph: uint8 (B, H, W, 3) in, ``logit`` (B,) first out."""

    name = "openvino"

    def __init__(self, graph: Path, options: Options) -> None:
        self._graph, self._options = graph, options
        compiled = _compiled(graph, options)
        self._outputs = [output.get_any_name() for output in compiled.outputs]
        if self._outputs[:1] != [LOGIT] or len(compiled.inputs) != 1:
            raise ArtifactError(
                f"{graph}: expected one input and `{LOGIT}` as first output, got {len(compiled.inputs)} inputs and "
                f"{', '.join(self._outputs) or 'no outputs'}"
            )
        self._request: Any = compiled.create_infer_request()

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """All outputs, float32.

        Raises:
            ArtifactError: the graph does not take pixels of this shape.
        """
        try:
            values = self._request.infer([pixels_u8_nhwc], share_inputs=True)
        except RuntimeError as error:
            raise ArtifactError(
                f"{self._graph}: refuses {pixels_u8_nhwc.dtype} pixels of shape {pixels_u8_nhwc.shape}: {_line(error)}"
            ) from error
        return {name: np.array(values[place], dtype=np.float32) for place, name in enumerate(self._outputs)}

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the device and the threads; it always spins a little, and cannot be told not to."""
        import openvino

        return {
            "runtime": self.name,
            "version": openvino.__version__.partition("-")[0],
            "device": DEVICE,
            "threads": self._options.threads,
        }

    def close(self) -> None:
        """Release the graph."""
        self._request = None


def load(artifact: Artifact, options: Options) -> OpenVino:
    """The artifact's one graph, compiled for the CPU.

    Raises:
        ArtifactError: OpenVINO does not accept the graph, or its interface is not ours.
        RuntimeUnavailable: the artifact has several graphs.
    """
    count = len(artifact.manifest.graphs)
    if count > 1:
        raise RuntimeUnavailable(f"{artifact.path}: has {count} graphs, this runtime runs one")
    return OpenVino(artifact.graph, options)


def _compiled(graph: Path, options: Options) -> Any:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(graph), DEVICE, settings)
    except RuntimeError as error:
        raise ArtifactError(f"{graph}: OpenVINO {openvino.__version__} does not accept it: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
