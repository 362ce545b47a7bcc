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
        model = core.read_model(graph)
        _quantize_pixels(model)
        return core.compile_model(model, DEVICE, settings)
    except RuntimeError as error:
        raise ArtifactError(f"{graph}: OpenVINO {openvino.__version__} does not accept it: {_line(error)}") from error


def _quantize_pixels(model: Any) -> None:
    """Where `model` reads the uint8 pixels as its quantized input, say so in the one form that OpenVINO runs in INT8.

    A convolution behind DequantizeLinear alone is run in float32; behind a FakeQuantize it is not. One with 256 levels from 0
    to 255 gives for each of the 256 pixel values what DequantizeLinear gives.
    """
    from openvino import opset13

    for pixels in model.get_parameters():
        convert = _only_reader(_only_reader(pixels, "Transpose") or pixels, "Convert")
        subtract = _only_reader(convert, "Subtract")
        multiply = _only_reader(subtract, "Multiply")
        zero, scale = _constant(subtract, "u8"), _constant(multiply, "f32")
        if zero is None or scale is None:  # an FP32 graph normalises by constants of float32
            continue
        ends = [(np.float32(end) - zero) * scale for end in (0, 255)]
        quantized = opset13.fake_quantize(convert.output(0), np.float32(0), np.float32(255), *ends, 256)
        for reader in multiply.output(0).get_target_inputs():
            reader.replace_source_output(quantized.output(0))
    model.validate_nodes_and_infer_types()


def _only_reader(node: Any, kind: str) -> Any:
    """The operator of that kind that alone reads `node`; None when there is no such one."""
    readers = [] if node is None else list(node.output(0).get_target_inputs())
    alone = len(readers) == 1 and readers[0].get_node().get_type_name() == kind
    return readers[0].get_node() if alone else None


def _constant(node: Any, kind: str) -> Any:
    """The second operand of `node` as a float32 array, where it is a constant of that type; else None."""
    if node is None:
        return None
    source = node.input_value(1).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    if source.get_type_name() != "Constant" or source.get_output_element_type(0).get_type_name() != kind:
        return None
    return np.asarray(source.get_data(), dtype=np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
