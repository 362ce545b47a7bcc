"""Targets: what a device runs, as data; one TOML file each in ``export/``.

:func:`resolve` turns what ``--target`` says into a :class:`Target`; ``host`` is the machine that it runs on.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgedet import recipe
from edgedet.errors import ExportError, RecipeError, RecipeNotFound
from edgedet.recipe import Config

Precision = Literal["fp32", "fp16", "int8"]
Op = Literal["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "Concat"]


class Scheme(Config, frozen=True, kw_only=True):
    """How INT8 is written into a graph for a device; `edgedet.quantize.placement` has the rules.

    activations: the type that the fast kernels take; weights are always int8 with zero point 0.
    symmetric: activations have zero point 0 as well (TensorRT refuses others).
    per_channel: one weight scale for each output channel, else one for each tensor.
    bias: ``int32`` (in units of input scale x weight scale), or ``float`` where the device refuses quantized ones.
    residual: which inputs of a residual Add are quantized: ``both``, or the ``shortcut`` only, so that the convolution before
        it fuses with the Add.
    outputs: a convolution's output is quantized too, whoever reads it (ONNX Runtime has no kernel otherwise).
    ops: the operators with INT8 kernels; all others stay in float.
    min_channels: a convolution with fewer inputs or outputs stays in float, the first one excepted.
    """

    activations: Literal["uint8", "int8"]
    symmetric: bool
    per_channel: bool = True
    bias: Literal["int32", "float"]
    residual: Literal["both", "shortcut"]
    outputs: bool
    ops: tuple[Op, ...]
    min_channels: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.symmetric and self.activations == "uint8":
            raise ValueError("`symmetric` activations have zero point 0 and a sign: they must be `int8`, not `uint8`")


class Target(Config, frozen=True, kw_only=True):
    """A device: its runtime, and the precision and form of the graphs that it takes.

    machines: the names by which Python's `platform.machine` knows it, for ``host``; empty when it is never the host.
    opset: the version of the ONNX operators that the exported graph uses.
    compute_capability: of an NVIDIA GPU, as its maker writes it.
    compiles_for: the compute capability, without the dot, that TensorRT-RTX compiles the graph for as evidence; see
        `edgedet.export.compile`.
    tensorrt: JetPack release -> the TensorRT version that it brings.
    power_modes: the names that the device's nvpmodel gives them; the numbers differ from module to module.
    refused: why nothing can be exported for it; listed all the same, so that the reason is found.
    """

    name: str
    device: str
    runtime: Literal["onnxruntime", "tensorrt"]
    machines: tuple[str, ...] = ()
    opset: Annotated[int, msgspec.Meta(ge=18)]
    precisions: tuple[Precision, ...]
    compute_capability: str = ""
    compiles_for: Literal["", "75", "80", "86", "89", "120"] = ""
    memory_gb: int | None = None
    power_modes: tuple[str, ...] = ()
    tensorrt: dict[str, str] = {}
    refused: str = ""
    int8: Scheme | None = None

    def __post_init__(self) -> None:
        if ("int8" in self.precisions) != (self.int8 is not None):
            raise ValueError("`precisions` has int8 exactly when there is an [int8] table")
        if bool(self.refused) == bool(self.precisions):
            raise ValueError("a target has `precisions`, or a reason in `refused`")

    @property
    def is_this_machine(self) -> bool:
        """Whether figures taken here are the device's."""
        return platform.machine() in self.machines


def load(name: str) -> Target:
    """The target called `name`, or the one in the file of that path.

    Raises:
        RecipeNotFound: there is none; the message has the nearest name.
        RecipeError: its file is not valid.
    """
    target = recipe.load("export", name, Target)
    path = recipe.find("export", name)
    if target.name != path.stem:
        raise RecipeError(f"{path}: name = {target.name!r} must be the file's own, {path.stem!r}")
    return target


def resolve(name: str = "host") -> Target:
    """The target called `name`; ``host`` is the one whose `machines` has this machine.

    Raises:
        RecipeNotFound: no such target, or none that describes this machine.
        ExportError: the target is one that is refused; the message has the reason.
    """
    if name != "host":
        target = load(name)
        if target.refused:
            raise ExportError(f"{target.name} ({target.device}) is no target: {target.refused}")
        return target
    for candidate in recipe.names("export"):
        target = load(candidate)
        if target.is_this_machine:
            return target
    raise RecipeNotFound(
        f"no target describes this machine ({platform.machine() or 'unknown'}): "
        f"give one with --target; there are: {', '.join(recipe.names('export'))}"
    )


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies uint8 by int8 without saturating on the way (AVX-512 VNNI, AVX-VNNI).

    Older x86 kernels add two products in 16 bits, which overflows with 8-bit weights: 7 bits are safe there. Where the flags
    cannot be read, the answer is no.
    """
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return re.search(r"\b(avx512_vnni|avx_vnni|avx512vnni|avxvnni)\b", text) is not None
