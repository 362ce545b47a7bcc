"""The part of the CUDA runtime library that running an engine needs, through ctypes: no torch, no pycuda.

Signatures are those of CUDA 12 and 13 (NVIDIA's reference of the CUDA runtime interface). Pointers and handles are integers.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedet.errors import RuntimeUnavailable

SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphInstantiate": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
}
"""The functions that are called, with their arguments; each gives an error code, 0 when all is well."""

_NAMES = ("libcudart.so.13", "libcudart.so.12")
_OLDEST = 12000  # cudaGraphInstantiate has had these arguments since CUDA 12.0
_TO_DEVICE, _TO_HOST = 1, 2
_NON_BLOCKING, _THREAD_LOCAL = 1, 1
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_PROPERTIES_BYTES = 16384  # larger than any version's cudaDeviceProp, whose first 256 bytes are the name
_NAME_BYTES = 256


class Cuda:
    """The library and the first device. A call that CUDA refuses is a RuntimeUnavailable in CUDA's own words.

    Raises:
        RuntimeUnavailable: no library, one before CUDA 12, or no device that it can use.
    """

    def __init__(self) -> None:
        self._library = _open()
        version = self._number("cudaRuntimeGetVersion")
        if version < _OLDEST:
            raise RuntimeUnavailable(f"CUDA {_shown(version)} is too old: edgedet runs engines with CUDA 12.0 or later")
        self._require_device(version)

    @property
    def name(self) -> str:
        """What the driver calls the device; every Jetson Orin is ``Orin`` to it."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", ctypes.addressof(properties), 0)
        return properties.raw[:_NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")

    @property
    def compute_capability(self) -> str:
        """Of the device, as its maker writes it: ``8.6``."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    @property
    def multiprocessors(self) -> int:
        """How many the device has."""
        return self._attribute(_MULTIPROCESSORS)

    @property
    def free_bytes(self) -> int:
        """Of the device's memory, whoever holds the rest; on a board that shares it with the processor, of all memory."""
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, nbytes: int) -> int:
        """The address of `nbytes` of the device's memory."""
        return self._handle("cudaMalloc", nbytes)

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` gave."""
        self._call("cudaFree", address)

    def allocate_pinned(self, nbytes: int) -> int:
        """The address of `nbytes` of the host's memory that are never paged out, so that copies need no detour."""
        return self._handle("cudaHostAlloc", nbytes, 0)

    def free_pinned(self, address: int) -> None:
        """Give back what :meth:`allocate_pinned` gave."""
        self._call("cudaFreeHost", address)

    def to_device(self, address: int, host: int, nbytes: int, stream: int) -> None:
        """Queue a copy from the host's address to the device's."""
        self._call("cudaMemcpyAsync", address, host, nbytes, _TO_DEVICE, stream)

    def to_host(self, host: int, address: int, nbytes: int, stream: int) -> None:
        """Queue a copy from the device's address to the host's."""
        self._call("cudaMemcpyAsync", host, address, nbytes, _TO_HOST, stream)

    def create_stream(self) -> int:
        """A queue of work that does not wait for the default one."""
        return self._handle("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of `stream` is done."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give back what :meth:`create_stream` gave."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        """From here on `stream` records its work instead of doing it."""
        self._call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """What `stream` recorded, ready to be launched."""
        graph = self._handle_last("cudaStreamEndCapture", stream)
        try:
            return self._handle("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        """Queue what was recorded."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give back what :meth:`end_capture` gave."""
        self._call("cudaGraphExecDestroy", graph)

    def _require_device(self, version: int) -> None:
        driver = self._number("cudaDriverGetVersion")
        if not driver:
            raise RuntimeUnavailable("there is no NVIDIA driver on this machine: engines need an NVIDIA GPU and its driver")
        try:
            found = self._number("cudaGetDeviceCount")
        except RuntimeUnavailable as error:
            raise RuntimeUnavailable(
                f"no GPU can be used here: {error} (driver for CUDA {_shown(driver)}, library of CUDA {_shown(version)})"
            ) from error
        if not found:
            raise RuntimeUnavailable("no GPU can be used here: CUDA finds no device")

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cudaDeviceGetAttribute", ctypes.byref(value), number, 0)
        return value.value

    def _number(self, function: str) -> int:
        value = c_int()
        self._call(function, ctypes.byref(value))
        return value.value

    def _handle(self, function: str, *arguments: int) -> int:
        """The pointer that `function` writes behind its first argument."""
        value = c_void_p()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value or 0

    def _handle_last(self, function: str, *arguments: int) -> int:
        value = c_void_p()
        self._call(function, *arguments, ctypes.byref(value))
        return value.value or 0

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            words = self._library.cudaGetErrorString(code).decode("utf-8", "replace")
            raise RuntimeUnavailable(f"{function} answers {code}, {words}")


def view(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of `shape` on the host's memory at `address`; it is of use for as long as the memory is held."""
    kind = np.dtype(dtype)
    memory = (ctypes.c_uint8 * (int(np.prod(shape)) * kind.itemsize)).from_address(address)
    return np.ctypeslib.as_array(memory).view(kind).reshape(shape)


def _open() -> ctypes.CDLL:
    tried = list(_candidates())
    for path in tried:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name, arguments in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        library.cudaGetErrorString.argtypes, library.cudaGetErrorString.restype = (c_int,), c_char_p
        return library
    raise RuntimeUnavailable(
        f"the CUDA runtime library ({' or '.join(_NAMES)}) is not found: on a Jetson JetPack brings it, elsewhere NVIDIA's "
        "CUDA toolkit or the packages that TensorRT is installed with"
    )


def _candidates() -> Iterator[str]:
    """The system's own first, then the toolkit's folder, then those of NVIDIA's Python packages."""
    yield from _NAMES
    yield from (str(path) for name in _NAMES for path in Path("/usr/local").glob(f"cuda*/lib64/{name}"))
    yield from (str(path) for name in _NAMES for folder in sys.path for path in Path(folder).glob(f"nvidia/*/lib/{name}"))


def _shown(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
