"""What a runtime is, and the one table of them.

A runtime takes pixels as `edgedet.preprocess` leaves them and gives the graph's outputs. Adding one: a file with a function
``load(artifact, options) -> Runtime``, and a line in :data:`RUNTIMES`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact, Kind
from edgedet.data.parallel import usable_cores
from edgedet.errors import RuntimeUnavailable, nearest
from edgedet.preprocess import Pixels

Outputs = dict[str, npt.NDArray[np.float32]]
"""By output name; ``logit`` (B,) is the first."""

LOGIT = "logit"


class Runtime(Protocol):
    """A loaded model. For use by several threads at once only where its line in :data:`RUNTIMES` says `shared`."""

    @property
    def name(self) -> str:
        """Its name in :data:`RUNTIMES`."""

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """The outputs for a batch of uint8 (B, H, W, 3)."""

    def describe(self) -> dict[str, str | int | bool]:
        """What decides its speed and results (library, version, device, threads), for the line of a result."""

    def close(self) -> None:
        """Give back its memory; it cannot be used any more."""


@dataclass(frozen=True)
class Options:
    """How to run: `threads` inside one call, and whether they spin while they wait.

    Spinning is quicker from one call to the next and keeps the cores busy meanwhile; runtimes that cannot choose ignore it.
    """

    threads: int
    spin: bool = True


@dataclass(frozen=True)
class Entry:
    """A line of the table: the module that loads it, the package it needs, the kinds of artifact that it runs.

    automatic: the first such one of a kind is what ``auto`` loads. rival: a benchmark may find it faster and take it instead.
    shared: several threads may call `run` at once. gpu: it runs on a GPU where there is one.
    """

    module: str
    needs: str | None
    kinds: tuple[Kind, ...]
    automatic: bool = True
    rival: bool = False
    shared: bool = False
    gpu: bool = False


class _Module(Protocol):
    def load(self, artifact: Artifact, options: Options) -> Runtime: ...


RUNTIMES: Mapping[str, Entry] = {
    "onnxruntime": Entry("edgedet.runtime.onnxruntime", "onnxruntime", ("onnx",), shared=True),
    "openvino": Entry("edgedet.runtime.openvino", "openvino", ("onnx",), automatic=False, rival=True),
    "tensorrt": Entry("edgedet.runtime.tensorrt", "tensorrt", ("engine",), gpu=True),
    "torch": Entry("edgedet.runtime.torch", "torch", ("checkpoint",), gpu=True),
    "torch-compile": Entry("edgedet.runtime.compiled", "torch", ("checkpoint",), automatic=False, gpu=True),
    "null": Entry("edgedet.runtime.null", None, ("checkpoint", "onnx", "engine"), automatic=False),
}

_SOURCES = {
    "torch": "pip install 'edgedet[train]'",
    "openvino": "pip install 'edgedet[openvino]'",
    "ray": "pip install 'edgedet[ray]'",
    "pyarrow": "pip install 'edgedet[ray]'",
    "tensorrt": "on a Jetson JetPack brings it (apt-get install python3-libnvinfer; a virtual environment sees it with "
    "--system-site-packages), elsewhere pip install 'edgedet[tensorrt]'",
}
"""Where a package comes from, when that is not its own name."""


def available() -> dict[str, str]:
    """Each runtime of the table: an empty string when it can be used here, else why not. Imports nothing."""
    return {name: missing(entry.needs) for name, entry in RUNTIMES.items()}


def load(artifact: Artifact, *, runtime: str = "auto", threads: int | None = None, spin: bool = True) -> Runtime:
    """Load `artifact` into the runtime of that name; ``auto`` is the one for its kind. `threads` None: all usable cores.

    Raises:
        RuntimeUnavailable: no such runtime, not installed, or not one for this kind of artifact.
        ArtifactError: the runtime does not accept the graph or the weights.
    """
    require(runtime)
    name = choose(artifact) if runtime == "auto" else runtime
    entry, kind = RUNTIMES[name], artifact.manifest.kind
    if kind not in entry.kinds:
        raise RuntimeUnavailable(
            f"{artifact.path}: the {name} runtime runs {' and '.join(entry.kinds)} artifacts, this is a {kind}"
            + ("; `edgedet export` makes an onnx artifact of it" if kind == "checkpoint" else "")
        )
    if threads is not None and threads < 1:
        raise RuntimeUnavailable(f"threads must be at least 1, got {threads}; leave it out for all cores")
    reason = missing(entry.needs)
    if reason:
        raise RuntimeUnavailable(f"{artifact.path}: the {name} runtime cannot run here: {reason}")
    module = cast(_Module, importlib.import_module(entry.module))
    return module.load(artifact, Options(threads=threads or usable_cores(), spin=spin))


def require(name: str) -> None:
    """Refuse a name that is neither ``auto`` nor a runtime's.

    Raises:
        RuntimeUnavailable: names the nearest right one.
    """
    if name not in ("auto", *RUNTIMES):
        raise RuntimeUnavailable(f"no runtime is called {name!r}{nearest(name, ['auto', *RUNTIMES])}")


def choose(artifact: Artifact) -> str:
    """The runtime that ``auto`` stands for: the first of the table for this kind of artifact."""
    kind = artifact.manifest.kind
    return next(name for name, entry in RUNTIMES.items() if entry.automatic and kind in entry.kinds)


def rivals(artifact: Artifact) -> list[str]:
    """What a benchmark chooses from: the runtime of :func:`choose`, then those installed that may be faster."""
    kind = artifact.manifest.kind
    others = [name for name, entry in RUNTIMES.items() if entry.rival and kind in entry.kinds and not missing(entry.needs)]
    return [choose(artifact), *others]


def source_of(package: str) -> str:
    """Where `package` comes from, as the end of a sentence."""
    return _SOURCES.get(package, f"pip install '{package}'")


def missing(package: str | None) -> str:
    """An empty string when `package` is installed, or none is needed; else that it is not, and where it comes from."""
    if package is None or importlib.util.find_spec(package):
        return ""
    return f"{package} is not installed: {source_of(package)}"
