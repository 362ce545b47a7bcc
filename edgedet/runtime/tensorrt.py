"""TensorRT on an engine, on the device that built it: pinned buffers, one stream, a CUDA graph for a batch that comes again.

`tensorrt` is imported when an engine is loaded, after a child process has shown that this does not end the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact, Built
from edgedet.errors import ArtifactError, RuntimeUnavailable
from edgedet.preprocess import Pixels
from edgedet.runtime import gpu
from edgedet.runtime.base import LOGIT, Options, Outputs
from edgedet.runtime.cuda import Cuda, view


@dataclass(frozen=True)
class Port:
    """One input or output of an engine: its shape behind the batch, and its type."""

    name: str
    tail: tuple[int, ...]
    dtype: npt.DTypeLike

    def nbytes(self, batch: int) -> int:
        """The size of `batch` images of it."""
        return batch * int(np.prod(self.tail)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Buffer:
    """A port with memory for the largest batch: on the device, and pinned on the host, seen as an array (batch, *tail)."""

    port: Port
    device: int
    host: int
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class Opened:
    """An engine, what must live as long as it does, and the listener that has TensorRT's errors."""

    engine: Any
    owner: Any
    log: Any


class TensorRtRuntime:
    """One execution context on one engine. Larger batches than the engine takes are run in parts.

    The second call in a row with a batch of one size records its work as a CUDA graph, which the following ones launch. An
    engine that cannot be recorded runs without, and `describe` says so.
    """

    name = "tensorrt"

    def __init__(self, opened: Opened, cuda: Cuda, *, outputs: Sequence[str], about: Built) -> None:
        self._cuda, self._about = cuda, about
        self._input, given, self._largest = ports(opened.engine, outputs)
        self._opened: Opened | None = opened
        self._context: Any = opened.engine.create_execution_context()
        if self._context is None:
            raise RuntimeUnavailable(f"TensorRT gives no execution context: {self._reason()}")
        with contextlib.ExitStack() as held:
            self._stream = cuda.create_stream()
            held.callback(cuda.destroy_stream, self._stream)
            self._pixels = self._buffer(self._input, held)
            self._results = [self._buffer(port, held) for port in given]
            self._held = held.pop_all()
        self._batch, self._graph, self._recordable = 0, 0, True

    def run(self, pixels_u8_nhwc: Pixels) -> Outputs:
        """All outputs, float32.

        Raises:
            ArtifactError: the engine does not take pixels of this shape.
            RuntimeUnavailable: the device fails.
        """
        if pixels_u8_nhwc.dtype != np.uint8 or pixels_u8_nhwc.shape[1:] != self._input.tail or not len(pixels_u8_nhwc):
            raise ArtifactError(
                f"the engine takes uint8 pixels of shape (batch, {', '.join(map(str, self._input.tail))}), "
                f"got {pixels_u8_nhwc.dtype} {pixels_u8_nhwc.shape}"
            )
        starts = range(0, len(pixels_u8_nhwc), self._largest)
        parts = [self._run_part(pixels_u8_nhwc[start : start + self._largest]) for start in starts]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def describe(self) -> dict[str, str | int | bool]:
        """The library's version, the device, the largest batch, and whether CUDA graphs are in use."""
        return {
            "runtime": self.name,
            "version": self._about.tensorrt,
            "device": self._about.device,
            "accelerator": self._about.device,
            "largest_batch": self._largest,
            "cuda_graph": self._recordable,
        }

    def close(self) -> None:
        """Release the memory, the stream and the engine."""
        self._forget_graph()
        self._held.close()
        self._context = self._opened = None

    def _run_part(self, pixels_u8_nhwc: Pixels) -> Outputs:
        batch = len(pixels_u8_nhwc)
        self._pixels.array[:batch] = pixels_u8_nhwc
        if batch != self._batch:
            self._take(batch)
            self._enqueue()
        elif self._graph or self._record():
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        return {buffer.port.name: buffer.array[:batch].copy() for buffer in self._results}

    def _take(self, batch: int) -> None:
        """Set the shape. A recorded graph belongs to the shape before it."""
        self._forget_graph()
        if not self._context.set_input_shape(self._input.name, (batch, *self._input.tail)):
            raise ArtifactError(f"the engine refuses a batch of {batch}")
        self._batch = batch

    def _enqueue(self) -> None:
        """Pixels in, the network, results out, in the order of the stream."""
        self._cuda.to_device(self._pixels.device, self._pixels.host, self._input.nbytes(self._batch), self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeUnavailable(f"TensorRT cannot run the engine: {self._reason()}")
        for buffer in self._results:
            self._cuda.to_host(buffer.host, buffer.device, buffer.port.nbytes(self._batch), self._stream)

    def _record(self) -> bool:
        """Whether the work of one call could be recorded as a CUDA graph; an engine that refuses is not asked again."""
        if not self._recordable:
            return False
        self._cuda.begin_capture(self._stream)
        try:
            try:
                self._enqueue()
            finally:
                self._graph = self._cuda.end_capture(self._stream)
        except RuntimeUnavailable:
            self._recordable = False
            self._forget_graph()
        return self._recordable

    def _forget_graph(self) -> None:
        if self._graph:
            self._cuda.destroy_graph(self._graph)
            self._graph = 0

    def _reason(self) -> str:
        errors = self._opened.log.errors if self._opened else []
        return " ".join(errors) or "it gives no reason"

    def _buffer(self, port: Port, held: contextlib.ExitStack) -> _Buffer:
        device = self._cuda.allocate(port.nbytes(self._largest))
        held.callback(self._cuda.free, device)
        host = self._cuda.allocate_pinned(port.nbytes(self._largest))
        held.callback(self._cuda.free_pinned, host)
        if not self._context.set_tensor_address(port.name, device):
            raise ArtifactError(f"the engine takes no address for {port.name}")
        return _Buffer(port, device, host, view(host, (self._largest, *port.tail), port.dtype))


def load(artifact: Artifact, options: Options) -> TensorRtRuntime:  # noqa: ARG001  (threads are the CPU's)
    """The artifact's one engine.

    Raises:
        RuntimeUnavailable: no GPU or TensorRT here, or not those that built the engine; or the artifact has several graphs.
        ArtifactError: TensorRT does not accept the engine, or its interface is not ours.
    """
    here, count = gpu.probe(), len(artifact.manifest.graphs)
    if count != 1:
        raise RuntimeUnavailable(f"{artifact.path}: has {count} graphs, this runtime runs one")
    graph = artifact.manifest.graphs[0]
    if graph.built is None or graph.built.digest != here.digest:
        raise RuntimeUnavailable(
            f"{artifact.path}: was built by {graph.built or 'an unknown device'}, this is {here}: engines run nowhere else; "
            "build it here from its onnx artifact with `edgedet export ONNX --engine`"
        )
    trt, cuda = gpu.import_tensorrt(), Cuda()
    logger = gpu.listener(trt)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(artifact.graph.read_bytes())
    if engine is None:
        reason = " ".join(logger.errors) or "it gives no reason"
        raise ArtifactError(f"{artifact.graph}: TensorRT {here.tensorrt} does not accept it: {reason}")
    return TensorRtRuntime(Opened(engine, runtime, logger), cuda, outputs=graph.outputs, about=here)


def ports(engine: Any, outputs: Sequence[str]) -> tuple[Port, tuple[Port, ...], int]:
    """The input, the outputs in the order of `outputs`, and the largest batch of an engine.

    Raises:
        ArtifactError: its interface is not that of an exported graph of ours.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name).name for name in names}
    taken = [_port(engine, name, "UINT8", np.uint8) for name in names if modes[name] == "INPUT"]
    given = [_port(engine, name, "FLOAT", np.float32) for name in names if modes[name] == "OUTPUT"]
    order = {name: place for place, name in enumerate(outputs)}
    names_given = {port.name for port in given}
    if len(taken) != 1 or len(taken[0].tail) != 3 or set(order) != names_given or [*outputs][:1] != [LOGIT]:
        raise ArtifactError(
            f"expected an engine from uint8 pixels (batch, height, width, 3) to {', '.join(outputs)}, got one from "
            f"{', '.join(port.name for port in taken) or 'nothing'} to {', '.join(port.name for port in given) or 'nothing'}"
        )
    _, _, most = engine.get_tensor_profile_shape(taken[0].name, 0)
    largest = int(most[0])
    return taken[0], tuple(sorted(given, key=lambda port: order[port.name])), largest


def _port(engine: Any, name: str, kind: str, dtype: npt.DTypeLike) -> Port:
    shape = tuple(engine.get_tensor_shape(name))
    found = engine.get_tensor_dtype(name).name
    if found != kind or not shape or any(side < 0 for side in shape[1:]):
        raise ArtifactError(f"expected {name} of {kind} with an open batch and nothing else open, got {found} {shape}")
    return Port(name, shape[1:], dtype)
