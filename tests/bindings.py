"""NVIDIA's own Python bindings of TensorRT, imported without TensorRT: what their classes have is read, nothing is run.

The wheels are on the package index and hold the bindings only. The libraries behind them are replaced by one with the same nine
functions, each of which gives a null pointer, as the real ones do without a GPU.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.11": "tensorrt-cu12-bindings==10.11.0.33",
    "10.13": "tensorrt-cu13-bindings==10.13.3.9",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
CACHE_VARIABLE = "EDGEDET_TEST_CACHE"

CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
"""What a variable of that name holds in the modules that drive TensorRT."""

RESULTS = {"get_timing_cache": "ITimingCache", "get_tensor_mode": "TensorIOMode", "get_tensor_dtype": "DataType"}
"""What a method gives whose result is used at once."""


@cache
def unpacked(version: str) -> Path:
    """The folder with the bindings of `version`, fetched once into the folder of ``$EDGEDET_TEST_CACHE``."""
    given = os.environ.get(CACHE_VARIABLE)
    root = Path(given) if given else Path(tempfile.gettempdir()) / f"edgedet-test-bindings-{os.getuid()}"
    folder = root / f"{WHEELS[version]}-cp{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "tensorrt_bindings").is_dir():
        with tempfile.TemporaryDirectory() as download:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "-d", download]
            done = subprocess.run([*command, WHEELS[version]], capture_output=True, text=True, timeout=300)
            wheels = list(Path(download).glob("*.whl"))
            if done.returncode or not wheels:
                pytest.skip(f"{WHEELS[version]} cannot be had here: {(done.stderr.strip().splitlines() or ['no wheel'])[-1]}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extractall(folder)
    return folder


def environment(version: str, folder: Path) -> dict[str, str]:
    """Variables with which a process imports `tensorrt` of `version`; its libraries are made in `folder`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler, with which the bindings get libraries to load")
    source, made = folder / "null.c", folder / "null.so"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True, timeout=60)
    for name in LIBRARIES:
        shutil.copy(made, folder / f"{name}.so.{version.partition('.')[0]}")
    # What the package `tensorrt`, which is not on the index as a wheel, does.
    (folder / "tensorrt.py").write_text("from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n")
    path = os.pathsep.join([str(folder), str(unpacked(version))])
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}


READ = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
found = {"version": trt.__version__}
for path in json.load(sys.stdin):
    value = trt
    for part in path.split("."):
        value = getattr(value, part, None)
    found[path] = None if value is None else callable(value)
print(json.dumps(found))
"""


def read(module: str, paths: Iterable[str], variables: dict[str, str] | None = None) -> dict[str, bool | None]:
    """For each dotted path below `module` whether it can be called, None when there is no such thing; and ``version``."""
    command = [sys.executable, "-W", "ignore", "-c", READ, module]
    done = subprocess.run(
        command, input=json.dumps(sorted(paths)), capture_output=True, text=True, env=variables, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def used(path: Path) -> Iterator[tuple[str, bool]]:
    """The dotted paths below the module `trt` that the code in `path` uses, and whether it calls them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (found := _dotted(node)):
            yield found, id(node) in called


def _dotted(node: ast.Attribute) -> str:
    """``BuilderFlag.TF32`` for ``trt.BuilderFlag.TF32``, ``IBuilderConfig.set_flag`` for ``config.set_flag``, else nothing."""
    value = node.value
    if isinstance(value, ast.Name) and value.id == "trt":
        return node.attr
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in RESULTS:
        return f"{RESULTS[value.func.attr]}.{node.attr}"
    own = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id in ("self", "opened")
    name = value.id if isinstance(value, ast.Name) else value.attr if own else ""
    if name.lstrip("_") in CLASSES:
        return f"{CLASSES[name.lstrip('_')]}.{node.attr}"
    before = _dotted(value) if isinstance(value, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before else ""
