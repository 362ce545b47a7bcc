"""ONNX Runtime on the CPU: threads set, all graph optimisations, the provider named and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedet.artifact import Artifact
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.ort import open_session
from edgedet.preprocess import Pixels
from edgedet.runtime.base import LOGIT, Options, Outputs

_FLOAT = "tensor(float)"


class OnnxRuntime:
    """One session on one graph: uint8 (B, H, W, 3) in, ``logit`` (B,) first out."""

    name = "onnxruntime"

    def __init__(self, graph: Path, options: Options) -> None:
        self._graph, self._options = graph, options
        self._session: Any = _session(graph, options)
        self._input, self._outputs = _interface(self._session, graph)

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """All outputs, float32.

        Raises:
            ArtifactError: the graph does not take pixels of this shape.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        try:
            values = self._session.run(self._outputs, {self._input: pixels_u8_nhwc})
        except (state.InvalidArgument, state.RuntimeException, state.Fail) as error:
            raise ArtifactError(
                f"{self._graph}: refuses {pixels_u8_nhwc.dtype} pixels of shape {pixels_u8_nhwc.shape}: {_line(error)}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the provider, the threads and whether they spin."""
        import onnxruntime

        return {
            "runtime": self.name,
            "version": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "threads": self._options.threads,
            "spin": self._options.spin,
        }

    def close(self) -> None:
        """Release the session."""
        self._session = None


def load(artifact: Artifact, options: Options) -> OnnxRuntime:
    """A session on the artifact's one graph.

    Raises:
        ArtifactError: ONNX Runtime does not accept the graph, or its interface is not ours.
        RuntimeUnavailable: the artifact has several graphs, or an operator has no kernel in this ONNX Runtime.
    """
    count = len(artifact.manifest.graphs)
    if count > 1:
        raise RuntimeUnavailable(f"{artifact.path}: has {count} graphs, this runtime runs one")
    return OnnxRuntime(artifact.graph, options)


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


def _interface(session: Any, graph: Path) -> tuple[str, list[str]]:
    """The input's and the outputs' names, once they are what an exported graph of ours has."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
        came = ", ".join(f"{node.name}: {node.type} {node.shape}" for node in inputs)
        raise ArtifactError(f"{graph}: expected one uint8 input (batch, height, width, 3), got {came or 'none'}")
    if outputs[0].name != LOGIT or outputs[0].type != _FLOAT or len(outputs[0].shape) != 1:
        came = f"{outputs[0].name}: {outputs[0].type} {outputs[0].shape}"
        raise ArtifactError(f"{graph}: expected `{LOGIT}`, float (batch,), as first output, got {came}")
    return inputs[0].name, [node.name for node in outputs if node.type == _FLOAT]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
