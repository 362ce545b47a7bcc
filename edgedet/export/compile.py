"""Compiling a graph for an NVIDIA GPU that is not there, with TensorRT-RTX.

TensorRT-RTX shares NVIDIA's ONNX parser and compiler with TensorRT and compiles ahead of time on any x86-64 machine. What comes
out is evidence that the graph is legal and compiles for that compute capability, and in which datatypes its kernels run. It is
no measurement, and no build for a Jetson: engines for those are built on the device.

The compiler runs in a child process with a time and a memory limit: a graph can make it abort.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet.artifact import Figures
from edgedet.errors import ExportError, RuntimeUnavailable
from edgedet.export.builder import stated
from edgedet.export.child import ask

BINDINGS = "tensorrt_rtx_bindings"
CAPABILITIES = ("75", "80", "86", "89", "120")
"""Turing, A100, RTX 30 (the RTX 3090), RTX 40, RTX 50."""

_CONVOLUTION, _PRODUCT = "correlation", "gemm"  # the compiler's words
_PRECISIONS = ("Int8", "Half", "Float")
_LIMIT_SECONDS, _LIMIT_BYTES = 600.0, 8 << 30


@dataclass(frozen=True)
class Kernel:
    """A line of the compiler's kernel table: datatypes of its activations in and out, and the ONNX nodes that it stems from."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]

    @property
    def precision(self) -> str:
        """Int8 where it reads that, else the wider of Float and Half that it reads or writes; empty where it does neither."""
        if "Int8" in self.inputs:
            return "Int8"
        return next((name for name in ("Float", "Half") if name in (*self.inputs, *self.outputs)), "")


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a graph; memory in bytes, as it states it for the device."""

    version: str
    capability: str
    seconds: float
    engine_bytes: int
    weights_bytes: int
    activation_bytes: int
    scratch_bytes: int
    kernels: tuple[Kernel, ...]

    @property
    def convolutions(self) -> dict[str, bool]:
        """ONNX node of each convolution kernel -> whether its input is Int8.

        The engine's size says nothing: weights alone in INT8 shrink it as much, and every convolution still runs in float.
        """
        return self._reading_int8(_CONVOLUTION)

    @property
    def products(self) -> dict[str, bool]:
        """The same of each matrix product that has a kernel of its own; others are fused with what surrounds them."""
        return self._reading_int8(_PRODUCT)

    def _reading_int8(self, kind: str) -> dict[str, bool]:
        kernels = [kernel for kernel in self.kernels if kernel.kind == kind]
        return {node: "Int8" in kernel.inputs for kernel in kernels for node in kernel.nodes[:1]}

    @property
    def precisions(self) -> dict[str, int]:
        """How many kernels run in Int8 (they read it), in Float (they read or write it), and in Half, each counted once."""
        found = Counter(kernel.precision for kernel in self.kernels)
        return {name: found[name] for name in _PRECISIONS}

    @property
    def figures(self) -> Figures:
        """As plain data, for a manifest."""
        convolutions, products = self.convolutions, self.products
        types = Counter(name for kernel in self.kernels for name in set(kernel.outputs))
        return {
            "evidence": f"compiled ahead of time for compute capability {self.capability}, not run: no measurement",
            "compiler": f"TensorRT-RTX {self.version}",
            "compute_capability": self.capability,
            "seconds": self.seconds,
            "engine_bytes": self.engine_bytes,
            "weights_bytes": self.weights_bytes,
            "activation_bytes": self.activation_bytes,
            "scratch_bytes": self.scratch_bytes,
            "int8_convolutions": sum(convolutions.values()),
            "convolutions": len(convolutions),
            "int8_products": sum(products.values()),
            "products": len(products),
            "kernels": len(self.kernels),
            "kernels_in": self.precisions,
            "kernels_writing": dict(sorted(types.items())),
        }

    def require_int8(self, nodes: Sequence[str]) -> None:
        """Hold that the convolutions `nodes` of the ONNX graph read Int8.

        Raises:
            ExportError: names those that do not.
        """
        found = self.convolutions
        wrong = [node for node in nodes if not found.get(node, False)]
        if wrong:
            raise ExportError(
                f"{len(wrong)} of {len(nodes)} quantized convolutions do not read Int8 in the compiled kernels: "
                f"{', '.join(wrong[:3])}: their inputs carry no Q/DQ pair that the compiler can use"
            )


def available() -> bool:
    """Whether TensorRT-RTX is installed; imports nothing."""
    return importlib.util.find_spec(BINDINGS) is not None


def compile_ahead(
    path: Path,
    *,
    capability: str = "86",
    batches: tuple[int, int, int] = (1, 1, 16),
    size: tuple[int, int] = (224, 224),
    seconds: float = _LIMIT_SECONDS,
    memory: int = _LIMIT_BYTES,
) -> Compiled:
    """Compile the ONNX file at `path` for a compute capability.

    batches: the least, the usual and the largest batch.
    size: height and width, for graphs that leave them open.
    seconds, memory: limits on the child process, the latter in bytes of its data.

    Raises:
        RuntimeUnavailable: TensorRT-RTX is not installed, or an unknown capability.
        ExportError: the compiler refuses the graph, crashes or passes a limit; names the ONNX node where it says one.
    """
    if not available():
        raise RuntimeUnavailable("compiling ahead of time needs TensorRT-RTX: pip install 'edgedet[compile]'")
    if capability not in CAPABILITIES:
        raise RuntimeUnavailable(f"no compute capability {capability!r}; TensorRT-RTX compiles for {', '.join(CAPABILITIES)}")
    request = {"path": str(path), "capability": capability, "batches": batches, "size": size, "memory": memory}
    found = ask("edgedet.export.compile_child", request, about=path, seconds=seconds)
    if "refusal" in found:
        raise ExportError(f"{path}: TensorRT-RTX {found['version']} refuses the graph: {explain(found['refusal'])}")
    return _compiled(found, capability)


def explain(refusal: dict[str, Any]) -> str:
    """One sentence from a parser error (node, operator, description) or the compiler's log."""
    node, operator = refusal.get("node", ""), refusal.get("operator", "")
    text = re.sub(r"\s+", " ", str(refusal.get("text", ""))).strip() or "it gives no reason"
    return f"node {node} ({operator}): {text}" if node else text


def _compiled(found: dict[str, Any], capability: str) -> Compiled:
    weights, activation, scratch = stated(found["log"])
    return Compiled(
        version=found["version"],
        capability=capability,
        seconds=found["seconds"],
        engine_bytes=found["engine_bytes"],
        weights_bytes=weights,
        activation_bytes=activation,
        scratch_bytes=scratch,
        kernels=kernel_table("\n".join(found["log"])),
    )


_LINE = re.compile(
    r"^(?:Layers:\s*)?Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[.*?\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName:.*?Metadata: (?P<metadata>.*)$",
    re.MULTILINE,
)


def kernel_table(log: str) -> tuple[Kernel, ...]:
    """The kernels that the compiler lists, at verbose level and with detailed profiling, at the end of a build."""
    return tuple(
        Kernel(
            name=line["name"],
            kind=line["kind"],
            inputs=tuple(re.findall(r"Datatype: (\w+)", line["inputs"])),
            outputs=tuple(re.findall(r"Datatype: (\w+)", line["outputs"])),
            nodes=tuple(re.findall(r"\[ONNX Layer: (.*?)\]", line["metadata"])),
        )
        for line in _LINE.finditer(log)
    )
