"""Targets: what a device runs, as data; one TOML file each in ``export/``.

:func:`resolve` turns what ``--target`` says into a :class:`Target`; ``host`` is the machine that it runs on, and
``NAME@RELEASE`` is a device under another release of its system: ``jetson-orin-nano@7.2``.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgedet import recipe
from edgedet.errors import ExportError, RecipeError, RecipeNotFound, nearest
from edgedet.recipe import Config

Precision = Literal["fp32", "fp16", "int8"]
Op = Literal["Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "Concat"]
Name = Annotated[str, msgspec.Meta(min_length=1)]


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


class BuildFlags(Config, frozen=True, kw_only=True):
    """How a version of TensorRT is told the precision of a graph, in the names of its Python interface.

    strongly_typed: by the graph alone, so FP16 has to be written into it; else by builder flags on an FP32 graph.
    opset: of the form of the graph that it is given; half-precision scales of Q/DQ need 19 at least.
    network: of ``NetworkDefinitionCreationFlag``; builder: of ``BuilderFlag``, for each precision that has any.
    """

    strongly_typed: bool
    opset: int
    network: tuple[str, ...] = ()
    builder: dict[Precision, tuple[str, ...]] = {}


class System(Config, frozen=True, kw_only=True):
    """What a release of a device's system brings: versions of TensorRT, Python and CUDA; empty when nobody says."""

    tensorrt: str
    python: str = ""
    cuda: str = ""

    def __post_init__(self) -> None:
        build_flags(self.tensorrt)

    @property
    def build(self) -> BuildFlags:
        """How its TensorRT is told the precision."""
        return build_flags(self.tensorrt)


class Ceiling(Config, frozen=True, kw_only=True):
    """A figure that the device cannot exceed, as somebody else states it; never one that was measured here.

    kind: ``published``, or ``derived`` from published figures by `formula`. at: the power mode or clock that it holds for.
    Dense is without the doubling that 2:4 sparsity promises. source: who says so.
    """

    figure: Literal["int8 dense", "int8 sparse", "fp8 dense", "fp16 dense", "fp32", "bandwidth"]
    value: Annotated[float, msgspec.Meta(gt=0)]
    unit: Literal["TOPS", "TFLOPS", "GB/s"]
    kind: Literal["published", "derived"]
    at: str = ""
    formula: str = ""
    note: str = ""
    source: Name

    def __post_init__(self) -> None:
        if (self.kind == "derived") != bool(self.formula):
            raise ValueError("a `derived` ceiling has a `formula`, a `published` one has none")


class Target(Config, frozen=True, kw_only=True):
    """A device: its runtime, and the precision and form of the graphs that it takes.

    machines: the names by which Python's `platform.machine` knows it, for ``host``; empty when it is never the host.
    board: words of its device tree's model, by which a board is the host before its processor is.
    opset: the version of the ONNX operators that the exported graph uses.
    compute_capability: of an NVIDIA GPU, as its maker writes it.
    compiles_for: the compute capability, without the dot, that TensorRT-RTX compiles the graph for as evidence; see
        `edgedet.export.compile`.
    system: the one of `systems` (releases of JetPack, or of TensorRT itself) that graphs are made for.
    power_modes: the names that the device's nvpmodel gives them; the numbers differ from module to module.
    refused: why nothing can be exported for it; listed all the same, so that the reason is found.
    """

    name: str
    device: str
    runtime: Literal["onnxruntime", "tensorrt"]
    machines: tuple[str, ...] = ()
    board: str = ""
    opset: Annotated[int, msgspec.Meta(ge=18)]
    precisions: tuple[Precision, ...]
    compute_capability: str = ""
    compiles_for: Literal["", "75", "80", "86", "89", "120"] = ""
    memory_gb: int | None = None
    power_modes: tuple[Name, ...] = ()
    system: str = ""
    systems: dict[str, System] = {}
    ceilings: tuple[Ceiling, ...] = ()
    refused: str = ""
    int8: Scheme | None = None

    def __post_init__(self) -> None:
        if ("int8" in self.precisions) != (self.int8 is not None):
            raise ValueError("`precisions` has int8 exactly when there is an [int8] table")
        if bool(self.refused) == bool(self.precisions):
            raise ValueError("a target has `precisions`, or a reason in `refused`")
        if self.system not in (self.systems or ("",)):
            raise ValueError(f"`system` must be one of the [systems] ({', '.join(self.systems) or 'there are none'})")
        if self.runtime == "tensorrt" and not self.refused and not self.systems:
            raise ValueError("a target that runs tensorrt says in [systems] which version: it decides the form of the graph")

    @property
    def is_this_machine(self) -> bool:
        """Whether figures taken here are the device's."""
        return platform.machine() in self.machines or self.is_this_board

    @property
    def is_this_board(self) -> bool:
        """Whether the device tree names this board."""
        return bool(self.board) and self.board in board_model()

    @property
    def tensorrt(self) -> dict[str, str]:
        """Release of the system -> the TensorRT version that it brings."""
        return {name: system.tensorrt for name, system in self.systems.items()}

    @property
    def strongly_typed(self) -> bool:
        """Whether precision is read from the graph alone, so that FP16 must be written into it."""
        return bool(self.system) and self.systems[self.system].build.strongly_typed

    def under(self, release: str) -> Target:
        """This device under another release of its system: its name, or its last word (``7.2`` for ``JetPack 7.2``).

        Raises:
            RecipeError: the device has no such release.
        """
        for name, system in self.systems.items():
            if release in (name, name.split()[-1]):
                return msgspec.structs.replace(self, system=name, opset=system.build.opset)
        known = {name.split()[-1] for name in self.systems}
        raise RecipeError(f"{self.name} has no release {release!r} of its system{nearest(release, known)}")


_WEAK = BuildFlags(strongly_typed=False, opset=18, builder={"fp16": ("FP16",), "int8": ("FP16", "INT8")})
_STRONG_BY_FLAG = BuildFlags(strongly_typed=True, opset=20, network=("STRONGLY_TYPED",))
_STRONG = BuildFlags(strongly_typed=True, opset=20)


def build_flags(version: str) -> BuildFlags:
    """What the TensorRT of `version` (``10.3``, ``10.16.1.11``) needs.

    Up to 10.11 the FP16 and INT8 flags on an FP32 graph; 10.12 deprecates them, so a network is asked to be strongly typed;
    11 has neither the flags nor any other kind of network (NVIDIA's release notes of 10.12 and 11.0).

    Raises:
        ValueError: not a version, or one before 10.3, the oldest that is built for.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        raise ValueError(f"expected a TensorRT version like 10.3, got {version!r}")
    found = (int(match[1]), int(match[2]))
    if found < (10, 3):
        raise ValueError(f"TensorRT {version} is too old: edgedet builds with 10.3 (JetPack 6.1) and later")
    if found < (10, 12):
        return _WEAK
    return _STRONG_BY_FLAG if found < (11, 0) else _STRONG


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
    """The target called `name`, under the release of its system behind an ``@`` where there is one.

    ``host`` is the target whose `board` or else whose `machines` has this machine.

    Raises:
        RecipeNotFound: no such target, or none that describes this machine.
        RecipeError: the device has no such release of its system.
        ExportError: the target is one that is refused; the message has the reason.
    """
    base, release = _split(name)
    target = _host() if base == "host" else load(base)
    if target.refused:
        raise ExportError(f"{target.name} ({target.device}) is no target: {target.refused}")
    return target.under(release) if release else target


def _split(name: str) -> tuple[str, str]:
    """A target's name or path, and what stands behind its ``@``; an ``@`` within a path is part of the path."""
    match = re.fullmatch(r"(?P<base>.+)@(?P<release>[^@/\\]+)(?<!\.toml)", name)
    return (match["base"], match["release"]) if match else (name, "")


def _host() -> Target:
    targets = [target for target in map(load, recipe.names("export")) if not target.refused]
    here = [target for target in targets if target.is_this_board] or [target for target in targets if target.is_this_machine]
    if here:
        return here[0]
    raise RecipeNotFound(
        f"no target describes this machine ({platform.machine() or 'unknown'}): "
        f"give one with --target; there are: {', '.join(recipe.names('export'))}"
    )


def board_model(path: Path = Path("/proc/device-tree/model")) -> str:
    """The model that the device tree of an ARM board states; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


NEEDS_VNNI = "needs_vnni"
"""The figure of a quantization whose 8-bit weights would overflow on a CPU without."""


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
