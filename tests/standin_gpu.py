"""A stand-in for a GPU, where there is none: CUDA on this process's own memory, and an engine that NumPy computes.

Addresses, sizes and the order of the work are real: a copy to a wrong address or of a wrong size is seen. It does not show that
TensorRT computes the right thing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.artifact import Built
from edgedet.errors import RuntimeUnavailable

Network = Callable[[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]]]
"""uint8 (B, H, W, 3) -> each output, float32 (B, ...)."""

BUILT = Built.by(device="A Board", chip="Stand", compute_capability="8.7", multiprocessors=8, tensorrt="10.3.0")


class HostCuda:
    """`edgedet.runtime.cuda.Cuda` on host memory. Work is done when it is queued, or recorded while a stream is captured."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.said: list[str] = []

    def allocate(self, nbytes: int) -> int:
        buffer = ctypes.create_string_buffer(nbytes)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.held[address]

    allocate_pinned, free_pinned = allocate, free

    def create_stream(self) -> int:
        return self.allocate(1)

    destroy_stream = free

    def to_device(self, address: int, host: int, nbytes: int, stream: int) -> None:
        self.do(lambda: self._move(address, host, nbytes))

    def to_host(self, host: int, address: int, nbytes: int, stream: int) -> None:
        self.do(lambda: self._move(host, address, nbytes))

    def synchronize(self, stream: int) -> None:
        assert self.recording is None, "a captured stream cannot be waited for"
        self.said.append("synchronize")

    def begin_capture(self, stream: int) -> None:
        self.recording = []

    def end_capture(self, stream: int) -> int:
        assert self.recording is not None
        graph = self.allocate(1)
        self.graphs[graph], self.recording = self.recording, None
        self.said.append("record")
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.said.append("launch")
        for work in self.graphs[graph]:
            work()

    def destroy_graph(self, graph: int) -> None:
        self.said.append("forget")
        del self.graphs[graph]
        self.free(graph)

    def do(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def _move(self, to: int, source: int, nbytes: int) -> None:
        for address in (to, source):
            assert nbytes <= ctypes.sizeof(self.held[address]), "a copy beyond the memory that was asked for"
        ctypes.memmove(to, source, nbytes)


class HostEngine:
    """What `edgedet.runtime.tensorrt` asks of an engine and its context; `network` computes.

    outputs: name -> shape behind the batch, in the engine's order. recordable: whether its work can be captured.
    """

    num_io_tensors: int

    def __init__(
        self,
        cuda: HostCuda,
        network: Network,
        *,
        size: tuple[int, int] = (8, 8),
        outputs: dict[str, tuple[int, ...]] | None = None,
        largest: int = 16,
        recordable: bool = True,
        kinds: Sequence[str] = ("UINT8", "FLOAT"),
    ) -> None:
        self.cuda, self.network, self.largest, self.recordable, self.kinds = cuda, network, largest, recordable, kinds
        self.shapes = {"pixels": (*size, 3), **(outputs or {"logit": ()})}
        self.num_io_tensors = len(self.shapes)
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def get_tensor_name(self, number: int) -> str:
        return list(self.shapes)[number]

    def get_tensor_mode(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INPUT" if name == "pixels" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.kinds[name != "pixels"])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shapes[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.shapes[name]) for batch in (1, 1, self.largest)]

    def create_execution_context(self) -> HostEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return shape[0] <= self.largest and shape[1:] == self.shapes[name]

    def execute_async_v3(self, stream: int) -> bool:
        if self.cuda.recording is not None and not self.recordable:
            return False
        batch = self.batch
        self.cuda.do(lambda: self._compute(batch))
        return True

    def _compute(self, batch: int) -> None:
        pixels = self._array("pixels", batch, np.uint8)
        for name, values in self.network(pixels.copy()).items():
            self._array(name, batch, np.float32)[...] = values

    def _array(self, name: str, batch: int, dtype: Any) -> npt.NDArray[Any]:
        shape = (batch, *self.shapes[name])
        memory = self.cuda.held[self.addresses[name]]
        return np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)


class BrokenCuda(HostCuda):
    """Has room for `room` allocations."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def allocate(self, nbytes: int) -> int:
        if len(self.held) == self.room:
            raise RuntimeUnavailable("cudaMalloc answers 2, out of memory")
        return super().allocate(nbytes)

    allocate_pinned = allocate
