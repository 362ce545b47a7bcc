"""ONNX Runtime on the CPU: threads set, all graph optimisations, the provider named and checked."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.ort import open_session
from edgedet.patches import AT_ONCE, FEATURES, cut
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Options, Outputs
from edgedet.target import NEEDS_VNNI, has_vnni

log = logging.getLogger(__name__)

_FLOAT, _UINT8 = "tensor(float)", "tensor(uint8)"


@dataclass(frozen=True)
class Form:
    """What a graph of ours takes, one tensor, and gives first; the axes in words."""

    takes: str
    kind: str
    axes: str
    gives: str
    gives_axes: str

    def require(self, session: Any, graph: Path) -> None:
        """Refuse a graph of another form.

        Raises:
            ArtifactError: says what was expected and what came.
        """
        inputs, output = session.get_inputs(), session.get_outputs()[0]
        given = [(node.type, len(node.shape)) for node in inputs]
        if given != [(self.kind, _count(self.axes))]:
            came = ", ".join(f"{node.name}: {node.type} {node.shape}" for node in inputs)
            raise ArtifactError(f"{graph}: expected one {self.takes} ({self.axes}), got {came or 'none'}")
        if (output.name, output.type, len(output.shape)) != (self.gives, _FLOAT, _count(self.gives_axes)):
            came = f"{output.name}: {output.type} {output.shape}"
            raise ArtifactError(f"{graph}: expected `{self.gives}`, float ({self.gives_axes}), as first output, got {came}")


def _count(axes: str) -> int:
    return len([axis for axis in axes.split(",") if axis])


WHOLE = Form("uint8 input", _UINT8, "batch, height, width, 3", LOGIT, "batch,")
ENCODER = Form("uint8 input", _UINT8, "patches, height, width, 3", FEATURES, "patches, features")
AGGREGATOR = Form("float input", _FLOAT, "1, patches, features", LOGIT, "1,")


class Session:
    """One loaded graph of a form."""

    def __init__(self, graph: Path, options: Options, form: Form) -> None:
        self._graph, self._options = graph, options
        self._session: Any = _session(graph, options)
        form.require(self._session, graph)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [node.name for node in self._session.get_outputs() if node.type == _FLOAT]

    def run(self, value: npt.NDArray[Any]) -> Outputs:
        """All outputs, float32.

        Raises:
            ArtifactError: the graph does not take a tensor of this shape.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            values = self._session.run(self._outputs, {self._input: value})
        except (state.InvalidArgument, state.RuntimeException, state.Fail) as error:
            raise ArtifactError(
                f"{self._graph}: refuses {value.dtype} {self._input} of shape {value.shape}: {_line(error)}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the provider, the threads and whether they spin."""
        import onnxruntime

        return {
            "runtime": OnnxRuntime.name,
            "version": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "threads": self._options.threads,
            "spin": self._options.spin,
        }

    def close(self) -> None:
        """Release it."""
        self._session = None


class OnnxRuntime:
    """One session on one graph: uint8 (B, H, W, 3) in, ``logit`` (B,) first out."""

    name = "onnxruntime"

    def __init__(self, graph: Path, options: Options) -> None:
        self._session = Session(graph, options, WHOLE)

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """All outputs, float32.

        Raises:
            ArtifactError: the graph does not take pixels of this shape.
        """
        return self._session.run(pixels_u8_nhwc)

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the provider, the threads and whether they spin."""
        return self._session.describe()

    def close(self) -> None:
        """Release the session."""
        self._session.close()


class PatchRuntime:
    """An encoder of patches and an aggregator: uint8 (B, H, W, 3) of any size from `side` on in, ``logit`` (B,) out.

    Where an image is read is what the network does in training, :func:`edgedet.patches.windows`.
    """

    name = OnnxRuntime.name

    def __init__(self, encoder: Path, aggregator: Path, side: int, options: Options) -> None:
        self._encoder, self._aggregator = Session(encoder, options, ENCODER), Session(aggregator, options, AGGREGATOR)
        self._side = side

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """The logits, float32 (B,).

        Raises:
            ArtifactError: a graph does not take patches of this size, or features of this number.
            ImageError: the images are smaller than a patch.
        """
        patches = np.concatenate([cut(image, self._side) for image in pixels_u8_nhwc])
        features = self.encode(patches)
        by_image = features.reshape(len(pixels_u8_nhwc), -1, features.shape[1])
        return {LOGIT: np.concatenate([self.aggregate(one) for one in by_image])}

    def encode(self, patches: Pixels) -> npt.NDArray[np.float32]:
        """uint8 (P, side, side, 3) -> features (P, F), a few patches at a time."""
        starts = range(0, len(patches), AT_ONCE)
        return np.concatenate([self._encoder.run(patches[start : start + AT_ONCE])[FEATURES] for start in starts])

    def aggregate(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The features of all patches of one image (P, F) -> its logit (1,)."""
        return self._aggregator.run(features[None])[LOGIT]

    def describe(self) -> dict[str, str | int | bool]:
        """As of one graph, with the side of a patch in pixels and how many are encoded at once."""
        return {**self._encoder.describe(), "patch": self._side, "patches_at_once": AT_ONCE}

    def close(self) -> None:
        """Release both sessions."""
        self._encoder.close()
        self._aggregator.close()


def load(artifact: Artifact, options: Options) -> OnnxRuntime | PatchRuntime:
    """A session on the artifact's one graph, or one each on its encoder and its aggregator.

    Raises:
        ArtifactError: ONNX Runtime does not accept a graph, or its interface is not ours.
        RuntimeUnavailable: the artifact has other graphs, or an operator has no kernel in this ONNX Runtime.
    """
    _warn_of_overflow(artifact)
    side = artifact.manifest.preprocess.patch
    if artifact.is_patchwise and side is not None:
        return PatchRuntime(artifact.graph_of("encoder"), artifact.graph_of("aggregator"), side, options)
    count = len(artifact.manifest.graphs)
    if count > 1:
        raise RuntimeUnavailable(f"{artifact.path}: has {count} graphs, this runtime runs one, or an encoder and an aggregator")
    return OnnxRuntime(artifact.graph, options)


def _warn_of_overflow(artifact: Artifact) -> None:
    if artifact.manifest.metrics.get("quantization", {}).get(NEEDS_VNNI) and not has_vnni():
        log.warning(
            "%s: was quantized on a CPU with VNNI, which this one is without: sums of its 8-bit weights may overflow, and its "
            "logits be others; export it on a CPU like this one, which gives it 7 bits",
            artifact.path,
        )


def _session(graph: Path, options: Options) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return open_session(graph, threads=options.threads, spin=options.spin)
    except state.NotImplemented as error:
        raise RuntimeUnavailable(
            f"{graph}: ONNX Runtime {onnxruntime.__version__} has no kernel for it: {_line(error)}"
        ) from error
    except Exception as error:  # ONNX Runtime's own errors have no common base below Exception.
        raise ArtifactError(
            f"{graph}: ONNX Runtime {onnxruntime.__version__} does not accept it: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
