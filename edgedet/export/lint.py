"""What TensorRT would refuse or run slowly in an ONNX graph, ours or not, found without TensorRT.

Each rule is a function from a graph and a target to findings; :func:`lint` runs all of :data:`RULES`. An ``error`` is refused
by the importer or changes the result, a ``warning`` builds and costs speed or INT8 coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import NodeProto, TensorProto

from edgedet.errors import ExportError
from edgedet.quantize.graph import GraphView, attributes, name_nodes
from edgedet.target import Target

UNSUPPORTED = frozenset({
    "AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger", "CumProd", "DFT", "DeformConv", "Det",
    "DynamicQuantizeLinear", "ImageDecoder", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
    "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement", "OptionalHasElement", "QLinearConv", "QLinearMatMul",
    "RegexFullMatch", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
    "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer",
    "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique",
})  # fmt: skip
"""Operators without an importer: what TensorRT-RTX 1.7's own parser answers for every operator of ONNX."""

QUANTIZABLE = frozenset({
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "Resize", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Relu",
})  # fmt: skip
"""Operators that can read INT8, alone or fused with the layer before."""

_AXES = 4  # batch, height, width, channels
_COLOURS = 3  # the first layer reads as many channels as an image has
_HALF_SCALES = 19  # the first opset whose Q/DQ operators take half-precision scales


@dataclass(frozen=True)
class Finding:
    """One breach: the node (or tensor), the rule, why it matters, how to mend it."""

    rule: str
    level: Literal["error", "warning"]
    node: str
    why: str
    mend: str


class _Graph(GraphView):
    """A view with the questions that the rules ask."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        self.sources = {value.name: value for value in model.graph.input if value.name in self.inputs}

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        """The nodes of these operators, in order."""
        return (node for node in self.nodes if node.op_type in kinds)

    def dequantized(self, tensor: str) -> bool:
        """Whether `tensor` comes from a DequantizeLinear."""
        node = self.producer(tensor)
        return node is not None and node.op_type == "DequantizeLinear"

    def convolution_behind(self, tensor: str) -> NodeProto | None:
        """The quantized convolution that alone feeds `tensor`, directly."""
        node = self.producer(tensor)
        quantized = node is not None and node.op_type == "Conv" and self.dequantized(node.input[0])
        return node if quantized and self.has_one_reader(tensor) else None


Rule = Callable[[_Graph, Target], Iterator[Finding]]


def lint(model: onnx.ModelProto, target: Target) -> list[Finding]:
    """All findings in `model` for `target`, errors first.

    Raises:
        ExportError: the target does not run TensorRT.
    """
    if target.runtime != "tensorrt":
        raise ExportError(f"{target.name} runs {target.runtime}: the rules are TensorRT's; give a target that runs it")
    named = onnx.ModelProto()
    named.CopyFrom(model)
    name_nodes(named)
    graph = _Graph(named)
    found = [finding for rule in RULES for finding in rule(graph, target)]
    return sorted(found, key=lambda finding: finding.level)


def lint_file(path: Path, target: Target) -> list[Finding]:
    """:func:`lint` on a file.

    Raises:
        ExportError: not an ONNX file, or the target does not run TensorRT.
    """
    try:
        return lint(onnx.load(path), target)
    except (OSError, DecodeError) as error:
        raise ExportError(f"{path}: cannot be read as ONNX: {error}") from error


def quantized_bias(graph: _Graph, _: Target) -> Iterator[Finding]:
    """TensorRT's DequantizeLinear takes no int32."""
    for node in graph.of("DequantizeLinear"):
        value = graph.constant(node.input[0])
        if value is not None and value.dtype == np.int32:
            why = "TensorRT refuses int32 inputs of DequantizeLinear"
            yield Finding("int32-bias", "error", node.name, why, "leave the bias in float: it costs nothing there")


def asymmetric(graph: _Graph, _: Target) -> Iterator[Finding]:
    """Zero points must be zero, which unsigned types cannot be of use with."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        zero = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is not None and (zero.any() or zero.dtype == np.uint8):
            why = f"zero point {zero.ravel()[0]} of {zero.dtype}: TensorRT takes int8 with zero point 0 only"
            yield Finding("asymmetric", "error", node.name, why, "quantize symmetrically")


def weights_only(graph: _Graph, _: Target) -> Iterator[Finding]:
    """Half a pair of inputs: the file shrinks and the convolution runs in float."""
    for node in graph.of("Conv", "ConvTranspose", "Gemm", "MatMul"):
        first, second = graph.dequantized(node.input[0]), graph.dequantized(node.input[1])
        if second and not first:
            why = "its weights are quantized and its input is not: it runs in float"
            yield Finding("missing-activation", "warning", node.name, why, "put a Q/DQ pair before its input")
        elif first and not second and graph.constant(node.input[1]) is not None:
            why = "its input is quantized and its weights are not: it runs in float"
            yield Finding("missing-weight", "warning", node.name, why, "put a DequantizeLinear behind int8 weights")


def residuals(graph: _Graph, _: Target) -> Iterator[Finding]:
    """An addition fuses with the convolution before it when its shortcut alone is quantized."""
    for node in graph.of("Add"):
        inputs = graph.variables(node)
        if len(inputs) != 2:
            continue
        behind = [graph.convolution_behind(name) for name in inputs]
        paired = [graph.dequantized(name) for name in inputs]
        if all(paired):
            why = "both inputs carry Q/DQ: the convolution before it cannot fuse"
            yield Finding("doubled-residual", "warning", node.name, why, "strip the pair on the convolution's side")
        elif any(behind) and not any(paired):
            why = "the shortcut is in float: the fused convolution reads and writes float"
            yield Finding("missing-residual", "warning", node.name, why, "put a Q/DQ pair on the shortcut")


def doubled(graph: _Graph, _: Target) -> Iterator[Finding]:
    """A pair right behind a pair rounds twice."""
    for node in graph.of("QuantizeLinear"):
        if graph.dequantized(node.input[0]):
            why = "quantizes what was dequantized just before"
            yield Finding("doubled-pair", "warning", node.name, why, "remove one of the two pairs")


def unfused(graph: _Graph, _: Target) -> Iterator[Finding]:
    """A pair before an operator without an INT8 form is rounding error and two kernels for nothing."""
    for node in graph.of("DequantizeLinear"):
        readers = graph.consumers(node.output[0])
        if readers and all(reader.op_type not in QUANTIZABLE | {"QuantizeLinear"} for reader in readers):
            kinds = ", ".join(sorted({reader.op_type for reader in readers}))
            yield Finding("unfused", "warning", node.name, f"read by {kinds} only, which has no INT8 form", "remove the pair")


def constants(graph: _Graph, _: Target) -> Iterator[Finding]:
    """TensorRT takes quantized constants as weights only."""
    for node in graph.of("QuantizeLinear"):
        if graph.constant(node.input[0]) is not None and not all(
            reader.op_type == "DequantizeLinear" for reader in graph.consumers(node.output[0])
        ):
            why = "a quantized constant that feeds no DequantizeLinear is refused"
            yield Finding("quantized-constant", "error", node.name, why, "leave the constant in float")


def opset(graph: _Graph, target: Target) -> Iterator[Finding]:
    """The operator set that the target's TensorRT reads."""
    if graph.opset > target.opset:
        versions = ", ".join(f"{jetpack} has TensorRT {version}" for jetpack, version in target.tensorrt.items())
        why = f"opset {graph.opset}, {target.name} takes up to {target.opset}" + (f" ({versions})" if versions else "")
        yield Finding("opset", "error", "graph", why, f"export at opset {target.opset}")
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.constant(node.input[1])
        if scale is not None and scale.dtype == np.float16 and graph.opset < _HALF_SCALES:
            why = f"half-precision scale at opset {graph.opset}"
            yield Finding("half-scale", "error", node.name, why, "export at opset 20, or keep scales in float32")


def float_around(graph: _Graph, target: Target) -> Iterator[Finding]:
    """Where precision is read from the graph alone, what carries no Q/DQ runs in the type that it is written in."""
    scales = [graph.constant(node.input[1]) for node in graph.of("DequantizeLinear")]
    known = {scale.dtype for scale in scales if scale is not None}
    if target.strongly_typed and known == {np.dtype(np.float32)}:
        why = f"FP32 around the INT8: TensorRT {target.tensorrt[target.system]} runs it in FP32, no flag makes FP16 of it"
        yield Finding("float-around", "warning", "graph", why, "write FP16 into the graph, as `edgedet export --int8` does")


def shapes(graph: _Graph, _: Target) -> Iterator[Finding]:
    """Shapes that are known at run time only."""
    for name, value in graph.sources.items():
        kind = value.type.tensor_type
        if kind.elem_type in (TensorProto.INT64, TensorProto.DOUBLE):
            why = f"input of {TensorProto.DataType.Name(kind.elem_type)}"
            yield Finding("input-type", "error", name, why, "take uint8 pixels and cast inside")
        # Images have four axes; as many features as there are patches are no size to fix.
        if len(kind.shape.dim) == _AXES and any(not side.dim_value for side in kind.shape.dim[1:]):
            why = "height or width is open: every size needs its own profile"
            yield Finding("dynamic-size", "warning", name, why, "export with the size that the device runs")
    for node in graph.of("Pad"):
        if len(node.input) > 1 and graph.constant(node.input[1]) is None:
            why = "its padding is computed at run time (TensorFlow's SAME)"
            yield Finding("dynamic-pad", "error", node.name, why, "export with static padding")
    for node in graph.of("NonZero", "Loop", "If", "Scan"):
        why = f"{node.op_type}: shapes or control flow that depend on values"
        yield Finding("dynamic-shape", "warning", node.name, why, "rewrite with fixed shapes")


def operators(graph: _Graph, _: Target) -> Iterator[Finding]:
    """Operators that the importer does not know, and a uint8 transpose, which it refuses."""
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx", "trt.plugins") or node.op_type in UNSUPPORTED:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            yield Finding("operator", "error", node.name, f"TensorRT has no importer for {name}", "rewrite it with others")
        if node.op_type == "Transpose" and graph.input_types.get(node.input[0]) == TensorProto.UINT8:
            yield Finding("uint8-transpose", "error", node.name, "TensorRT refuses to transpose uint8", "cast before it")


def padded(graph: _Graph, _: Target) -> Iterator[Finding]:
    """INT8 kernels work on whole octets of channels; fewer are filled up with zeros."""
    for node in graph.of("Conv"):
        source = graph.producer(node.input[1])
        if not graph.dequantized(node.input[0]) or source is None or source.op_type != "DequantizeLinear":
            continue
        weight = graph.constant(source.input[0])
        if weight is None:
            continue
        outputs, inputs, groups = weight.shape[0], weight.shape[1], attributes(node).get("group", 1)
        mend = "prune to a multiple of 8, or leave it in float"
        if outputs % 8 or (outputs < 16 and groups == 1):
            why = f"{outputs} output channels: INT8 kernels compute multiples of 8, and are not faster below 16"
            yield Finding("padded-channels", "warning", node.name, why, mend)
        elif inputs % 8 and groups == 1 and inputs > _COLOURS:
            why = f"{inputs} input channels: INT8 kernels read multiples of 8"
            yield Finding("padded-channels", "warning", node.name, why, mend)


RULES: tuple[Rule, ...] = (
    quantized_bias, asymmetric, constants, opset, float_around, shapes, operators, weights_only, residuals, doubled, unfused,
    padded,
)  # fmt: skip
