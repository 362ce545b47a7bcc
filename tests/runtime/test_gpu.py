"""Looking for the GPU in a child process: each way that it can fail is one sentence."""

import importlib.util
from pathlib import Path

import pytest

from edgedet.errors import RuntimeUnavailable
from edgedet.runtime import gpu
from edgedet.runtime.gpu import listener

needs_bindings = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed"
)


@pytest.fixture(autouse=True)
def anew():
    gpu.probe.cache_clear()
    yield
    gpu.probe.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `tensorrt` that this process and its children import."""

    def write(text: str = "__version__ = '10.3.0'\n") -> None:
        (tmp_path / "tensorrt.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_without_tensorrt_the_sentence_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"^tensorrt is not installed: on a Jetson JetPack brings it"):
        gpu.probe()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver")
def test_a_child_without_a_gpu_says_why(module):
    module()
    with pytest.raises(RuntimeUnavailable, match=r"^(there is no NVIDIA driver|the CUDA runtime library .* not found)[^\n]*$"):
        gpu.probe()


def test_a_child_that_is_aborted_is_reported_with_its_signal(module, tmp_path):
    module()
    (tmp_path / "sitecustomize.py").write_text("import os\nos.abort()\n")
    with pytest.raises(RuntimeUnavailable, match="TensorRT ends its process with SIGABRT when it is started here"):
        gpu.probe()


def test_a_child_that_fails_otherwise_is_reported_with_its_last_words(module, tmp_path):
    module()
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.exit('no such thing')\n")
    with pytest.raises(RuntimeUnavailable, match=r"does not start here: .*no such thing"):
        gpu.probe()


def test_a_child_that_hangs_is_stopped(module, tmp_path, monkeypatch):
    module()
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(gpu, "_SECONDS", 0.2)
    with pytest.raises(RuntimeUnavailable, match="does not start within 0 seconds"):
        gpu.probe()


def test_what_the_child_finds_is_the_device(module, tmp_path, monkeypatch):
    module()
    found = '{"device": "A Board", "chip": "Orin", "compute_capability": "8.7", "multiprocessors": 8, "tensorrt": "10.3.0"'
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nprint('TensorRT says hello')\nprint('''{found}, \"digest\": \"d\"}}''', flush=True)\nos._exit(0)\n"
    )
    built = gpu.probe()
    assert str(built) == "A Board (compute capability 8.7) with TensorRT 10.3.0"
    assert (built.chip, built.multiprocessors) == ("Orin", 8)


def test_a_python_half_without_its_libraries_is_one_sentence(module, monkeypatch):
    module("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    with pytest.raises(RuntimeUnavailable, match=r"cannot be imported: libnvinfer\.so\.10: cannot open .*; on a Jetson"):
        gpu.import_tensorrt()


@needs_bindings
def test_a_listener_keeps_errors_and_what_it_is_told_to_and_prints_nothing(capfd):
    import tensorrt_rtx_bindings as trt

    heard = listener(trt, ("kept",))
    for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        heard.log(getattr(trt.ILogger.Severity, severity), f"kept {severity}")
    heard.log(trt.ILogger.Severity.INFO, "not kept")
    assert heard.errors == ["kept INTERNAL_ERROR", "kept ERROR"]
    assert heard.lines == ["kept WARNING", "kept INFO", "kept VERBOSE"]
    runtime = trt.Runtime(heard)
    assert runtime.deserialize_cuda_engine(b"no engine") is None
    assert len(heard.errors) > 2
    assert capfd.readouterr() == ("", "")


@needs_bindings
def test_a_device_that_gives_a_builder_is_described(monkeypatch):
    import tensorrt_rtx_bindings as trt

    class Card:
        name, compute_capability, multiprocessors = "Orin", "8.7", 16

    monkeypatch.setattr(gpu, "Cuda", Card)
    monkeypatch.setattr(gpu, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(gpu, "board_model", lambda: "NVIDIA Jetson AGX Orin Developer Kit")
    found = gpu.look()
    assert (found.device, found.chip, found.tensorrt) == ("NVIDIA Jetson AGX Orin Developer Kit", "Orin", trt.__version__)
    # In a container the board's name is hidden, and the engine is the same.
    monkeypatch.setattr(gpu, "board_model", lambda: "")
    again = gpu.look()
    assert (again.device, again.digest) == ("Orin", found.digest)
    Card.multiprocessors = 8
    assert gpu.look().digest != found.digest
