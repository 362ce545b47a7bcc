"""The rows of a case: each tool, in what mode, in which environment, and what it answered."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.contract import Request

from comparison.case import Ready
from comparison.environment import Environment, NotInstalled, said

PEERS = Path(__file__).resolve().parent.parent / "peers"
NNCF = Environment("nncf", (("nncf==3.4.0", "openvino==2026.4.1"),))
# The CUDA packages that it lists are for calibrating on a GPU: left out, with ONNX Runtime's CPU package in their place. It
# does import torch; where pip finds a CPU-only build (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), that saves gigabytes.
MODELOPT = Environment(
    "modelopt",
    (
        ("--no-deps", "nvidia-modelopt==0.47.0"),
        (
            "torch==2.13.0", "onnx==1.21.0", "onnxruntime==1.24.4", "onnxconverter-common==1.16.0",
            "onnx-graphsurgeon==0.6.1", "onnxslim==0.1.98", "onnxscript==0.7.2", "polygraphy==0.53.6", "lief==1.0.0",
            "ml_dtypes==0.6.0", "cppimport==26.4.17", "ninja", "nvidia-ml-py", "omegaconf", "packaging", "pulp<4",
            "pydantic>=2", "PyYAML>=6", "regex", "rich", "safetensors", "scipy", "setuptools>=80", "tqdm",
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A row. own: it is edgedet. timed: it is made for this machine's CPU, or runs on it as well as anything of its tool.

    trains: it learns from the training split, which an untrained network has no use for.
    """

    name: str
    script: str
    mode: str
    environment: Environment | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    own: bool = False
    timed: bool = True
    trains: bool = False

    @property
    def folder(self) -> str:
        """A name for its files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


BASELINE = "edgedet, x86"
_X86, _TENSORRT = {"target": "cpu-x86"}, {"target": "rtx-3090"}
_EXPORT = "edgedet_export.py"
METHODS = (
    Method(BASELINE, _EXPORT, "int8", more=_X86, own=True),
    Method("edgedet, x86, mixed precision", _EXPORT, "mixed", more=_X86, own=True),
    Method("edgedet, x86, trained", _EXPORT, "qat", more=_X86, own=True, timed=False, trains=True),
    Method("edgedet, TensorRT", _EXPORT, "int8", more=_TENSORRT, own=True, timed=False),
    Method("edgedet, TensorRT, trained", _EXPORT, "qat", more=_TENSORRT, own=True, timed=False, trains=True),
    Method("quantize_static, defaults", "onnxruntime_static.py", "defaults"),
    Method("quantize_static, best", "onnxruntime_static.py", "best"),
    Method("NNCF and OpenVINO", "nncf_openvino.py", "best", NNCF),
    Method("ModelOpt", "modelopt_onnx.py", "best", MODELOPT),
)


@dataclass(frozen=True)
class Limits:
    """minutes: for installing a tool, and for each answer. threads: of every runtime that is timed or run for logits."""

    minutes: float = 30.0
    threads: int = 1


def ask(method: Method, ready: Ready, work: Path, environments: Path, limits: Limits) -> dict[str, Any]:
    """What `method` answers for a case, from `work` when it has answered the same before; an ``error`` says why it has not.

    Besides the fields of `peers.contract`: `folder`, where the model is, and `python`, the interpreter that can run it.
    """
    key = _key(method, ready)
    folder = work / method.folder
    kept = folder / "answer.json"
    try:
        python = method.environment.python(environments, limits.minutes) if method.environment else Path(sys.executable)
    except NotInstalled as problem:
        return {"error": f"not installed: {problem}", "key": key}
    if not kept.is_file() or json.loads(kept.read_text())["key"] != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        answer = _run(method, ready, python, folder, limits)
        kept.write_text(json.dumps({**answer, "key": key}, indent=1))
    return {**json.loads(kept.read_text()), "folder": str(folder), "python": str(python)}


def _key(method: Method, ready: Ready) -> str:
    """Changes with the case, the tool's version and how it is called."""
    code = [(PEERS / name).read_bytes() for name in (method.script, "contract.py", "onnx_session.py")]
    parts = [ready.key, method.name, method.mode, dict(method.more), method.environment and method.environment.digest]
    own = _own_code(trains=method.trains) if method.own else ""
    return hashlib.sha256(json.dumps([*parts, own]).encode() + b"".join(code)).hexdigest()


def _own_code(*, trains: bool) -> str:
    """edgedet has no version for each edit, so its quantizer's files stand for it."""
    package = PEERS.parent.parent / "edgedet"
    parts = ("quantize", "export", *(("compress", "training") if trains else ()))
    files = [path for part in parts for path in sorted((package / part).rglob("*.py"))]
    settings = [*sorted((package.parent / "export").glob("*.toml")), *(package.parent / "train").glob("int8-finetune.toml")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in (*files, *settings))).hexdigest()


def _run(method: Method, ready: Ready, python: Path, folder: Path, limits: Limits) -> dict[str, Any]:
    own = {"checkpoint": str(ready.checkpoint.path.resolve()), "data": str(ready.index.resolve())} if method.own else {}
    request = Request(
        graph=ready.graph.resolve(),
        images=ready.images.resolve(),
        test=ready.test.resolve(),
        out=folder.resolve(),
        mode=method.mode,
        threads=limits.threads,
        more={**method.more, **own},
    )
    request.write(folder / "request.json")
    command = [str(python), str(PEERS / method.script), "answer", str(folder / "request.json"), str(folder / "said.json")]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env=surroundings(),
            timeout=60 * limits.minutes,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limits.minutes:g} minutes"}
    if done.returncode:
        return {"error": said(done.stderr)}
    found: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return found


def surroundings() -> dict[str, str]:
    """For a tool's process: no telemetry, which OpenVINO's packages leave off under continuous integration."""
    return {**os.environ, "CI": "true"}
