import dataclasses

import msgspec
import numpy as np
import pytest

from edgedet.bench import memory
from edgedet.bench.result import Memory
from edgedet.errors import BenchError
from edgedet.preprocess import Preprocess
from edgedet.runtime import base


def test_the_size_of_the_benchmark_is_not_the_models(make_onnx_artifact):
    ballast = np.ones(25_000_000)  # 200 MB of this process
    found = memory.measure(make_onnx_artifact(), runtime="onnxruntime", threads=1)
    assert memory.peak_bytes() > ballast.nbytes
    assert 10_000_000 < found.base_bytes < found.peak_bytes < ballast.nbytes


def test_a_process_that_fails_says_why(make_onnx_artifact):
    with pytest.raises(BenchError, match=r"memory could not be measured: .*expected `logit`"):
        memory.measure(make_onnx_artifact(output="probability"), runtime="onnxruntime", threads=1)


def test_what_a_model_takes_of_the_gpu_is_the_difference_of_what_is_free(make_onnx_artifact, monkeypatch, capsys):
    left = iter([8_000_000, 5_000_000])

    class Card:
        @property
        def free_bytes(self):
            return next(left)

    monkeypatch.setattr(memory, "Cuda", Card)
    path = str(make_onnx_artifact().path)
    memory._child(path, "onnxruntime", 1)
    assert msgspec.json.decode(capsys.readouterr().out, type=Memory).device_bytes is None  # it does not use one
    on_gpu = dataclasses.replace(base.RUNTIMES["onnxruntime"], gpu=True)
    monkeypatch.setattr(base, "RUNTIMES", {**base.RUNTIMES, "onnxruntime": on_gpu})
    memory._child(path, "onnxruntime", 1)
    assert msgspec.json.decode(capsys.readouterr().out, type=Memory).device_bytes == 3_000_000


def test_without_the_kernels_mark_the_systems_is_used(tmp_path):
    assert memory.peak_bytes(tmp_path / "missing") >= 1_000_000
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 9 kB\nVmHWM:\t    1234 kB\n")
    assert memory.peak_bytes(tmp_path / "status") == 1234 * 1024


def test_a_detector_of_patches_is_measured_on_four():
    assert memory.blank(Preprocess(geometry="native", height=8, width=8, patch=8)).shape == (1, 16, 16, 3)
    assert memory.blank(Preprocess(height=8, width=6), batch=2).shape == (2, 8, 6, 3)
