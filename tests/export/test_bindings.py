"""Every name of TensorRT's Python interface that the code uses is in the real bindings, of each version that it is for."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from bindings import WHEELS, environment, read, used

import edgedet
from edgedet.export import builder, tensorrt_child
from edgedet.runtime import gpu, tensorrt
from edgedet.target import build_flags

MODULES = (builder, tensorrt_child, gpu, tensorrt)
PATHS = dict(found for module in MODULES for found in used(Path(module.__file__)))
# Names that the code has as text: what the ports of an engine are, and the flags that it sets or clears by hand.
NAMED = ("DataType.UINT8", "DataType.FLOAT", "TensorIOMode.INPUT", "TensorIOMode.OUTPUT", "BuilderFlag.TF32")
STRONGLY_TYPED = "NetworkDefinitionCreationFlag.STRONGLY_TYPED"


def flags_of(version: str) -> set[str]:
    """The flags of that version's branch, and what an FP16 graph is asked to be under each of 10."""
    flags = build_flags(version)
    named = {f"BuilderFlag.{name}" for names in flags.builder.values() for name in names}
    return named | {f"NetworkDefinitionCreationFlag.{name}" for name in flags.network} | {STRONGLY_TYPED}


def missing(found: dict[str, bool | None]) -> list[str]:
    return [path for path, callable_ in found.items() if callable_ is None]


def test_the_code_is_read_whole():
    assert {"Builder", "OnnxParser", "Runtime", "ILogger.Severity.ERROR", "MemoryPoolType.WORKSPACE"} <= set(PATHS)
    assert {"IBuilderConfig.set_timing_cache", "ITimingCache.serialize", "IExecutionContext.execute_async_v3"} <= set(PATHS)
    assert {"ICudaEngine.get_tensor_profile_shape", "ParserError.node_name", "ITensor.dtype", "TensorIOMode.name"} <= set(PATHS)
    assert PATHS["Builder.create_network"]
    assert not PATHS["INetworkDefinition.num_inputs"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed")
def test_tensorrt_rtx_has_them_all():
    found = read("tensorrt_rtx_bindings", {*PATHS, *NAMED, *flags_of("11.4")})
    assert not missing(found)


@pytest.mark.slow
@pytest.mark.parametrize("version", WHEELS)
def test_the_bindings_have_them_all_and_they_are_called_or_read_as_here(version, tmp_path):
    found = read("tensorrt", {*PATHS, *NAMED, *flags_of(version)}, environment(version, tmp_path))
    assert str(found.pop("version")).startswith(version)
    assert not missing(found)
    wrong = [path for path, called in PATHS.items() if called and not found[path]]
    wrong += [path for path, called in PATHS.items() if not called and found[path] and path[0].islower()]
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("version", WHEELS)
def test_the_flags_that_are_gone_are_gone(version, tmp_path):
    """What decides the branches of `build_flags`: TensorRT 11 has no flags for precision."""
    found = read("tensorrt", ["BuilderFlag.FP16", "BuilderFlag.INT8"], environment(version, tmp_path))
    gone = {path for path in ("BuilderFlag.FP16", "BuilderFlag.INT8") if found[path] is None}
    assert bool(gone) is version.startswith("11")


LOOK = """
from edgedet.runtime import gpu

class Card:
    name, compute_capability, multiprocessors = "a card", "8.7", 8

gpu.Cuda = Card
gpu.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", WHEELS)
def test_the_null_pointer_that_a_builder_is_without_a_gpu_is_one_sentence(version, tmp_path):
    variables = environment(version, tmp_path)
    variables["PYTHONPATH"] += f":{Path(edgedet.__file__).parents[1]}"
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f'"why": "TensorRT {version}' in done.stdout
    assert "gives no builder on a card: " in done.stdout
    assert "nullptr" in done.stdout
