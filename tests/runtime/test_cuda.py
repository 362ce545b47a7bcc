"""The real CUDA runtime library, as far as it goes without a GPU."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgedet.errors import RuntimeUnavailable
from edgedet.runtime import cuda
from edgedet.runtime.cuda import SIGNATURES, Cuda, view


def has_library() -> bool:
    try:
        cuda._open()
    except RuntimeUnavailable:
        return False
    return True


def has_driver() -> bool:
    try:
        Cuda()
    except RuntimeUnavailable:
        return False
    return True


needs_library = pytest.mark.skipif(not has_library(), reason="no CUDA runtime library: it comes with torch, or TensorRT")
no_gpu = pytest.mark.skipif(has_library() and has_driver(), reason="this machine has a GPU")


@needs_library
def test_the_library_has_every_function_and_they_take_what_is_given():
    library = cuda._open()
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        assert (function.argtypes, function.restype) == (arguments, ctypes.c_int), name


@needs_library
@no_gpu
def test_without_a_device_the_library_answers_and_the_answer_is_one_sentence(monkeypatch):
    real = Cuda._number
    monkeypatch.setattr(Cuda, "_number", lambda self, name: 13000 if name == "cudaDriverGetVersion" else real(self, name))
    with pytest.raises(RuntimeUnavailable, match=r"^no GPU can be used here: cudaGetDeviceCount answers \d+, .* \(driver for"):
        Cuda()


@needs_library
@no_gpu
def test_without_a_driver_the_sentence_says_so():
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a driver")
    with pytest.raises(RuntimeUnavailable, match=r"^there is no NVIDIA driver on this machine: engines need an NVIDIA GPU"):
        Cuda()


@needs_library
def test_an_old_library_is_refused(monkeypatch):
    monkeypatch.setattr(Cuda, "_number", lambda self, name: 11080)
    with pytest.raises(RuntimeUnavailable, match=r"CUDA 11\.8 is too old: edgedet runs engines with CUDA 12\.0 or later"):
        Cuda()


def test_without_the_library_the_sentence_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(cuda, "_candidates", lambda: iter(["libno-such-library.so.9"]))
    with pytest.raises(RuntimeUnavailable, match=r"libcudart\.so\.13 or libcudart\.so\.12\) is not found: on a Jetson JetPack"):
        Cuda()


def test_an_array_lies_on_the_memory_itself():
    memory = ctypes.create_string_buffer(2 * 3 * 4)
    array = view(ctypes.addressof(memory), (2, 3), np.float32)
    array[1, 2] = 1.5
    assert np.frombuffer(memory, np.float32).tolist() == [0, 0, 0, 0, 0, 1.5]
