"""The peak memory of one artifact, measured in a process of its own: the benchmark's own inputs and models do not count.

The kernel's high-water mark of the process (``VmHWM``) is read, not ``getrusage``: on Linux a child inherits ``ru_maxrss``
from the process that started it, so a large benchmark would report its own size as the model's.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np

from edgedet.artifact import Artifact
from edgedet.bench.result import Memory
from edgedet.errors import BenchError, RuntimeUnavailable
from edgedet.preprocess import Preprocess
from edgedet.runtime import base
from edgedet.runtime.cuda import Cuda

_RUNS = 5
_TIMEOUT = 300.0


def measure(artifact: Artifact, *, runtime: str, threads: int) -> Memory:
    """Load and run `artifact` at batch 1 in a new process: its peak, and its size before the model came (bytes).

    Raises:
        BenchError: the process failed; says how.
    """
    call = f"from edgedet.bench.memory import _child; _child({str(artifact.path.resolve())!r}, {runtime!r}, {threads})"
    try:
        done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
        return msgspec.json.decode(done.stdout, type=Memory)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        raise BenchError(f"{artifact.path}: its memory could not be measured: {reason[0]}") from error
    except (subprocess.TimeoutExpired, OSError, msgspec.DecodeError) as error:
        raise BenchError(f"{artifact.path}: its memory could not be measured: {error}") from error


def peak_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The most memory that this process has had resident, in bytes."""
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # Bytes on macOS, kilobytes on the BSDs; neither has the file above.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def blank(preprocess: Preprocess, batch: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Grey pixels of the shape that the detector takes, uint8 (batch, H, W, 3); of one that reads patches, four patches."""
    times = 2 if preprocess.patch is not None else 1
    return np.full((batch, times * preprocess.height, times * preprocess.width, 3), 128, np.uint8)


def _child(path: str, runtime: str, threads: int) -> None:
    """What the new process does; the answer is one line of JSON."""
    artifact = Artifact.load(path, verify=False)
    free = free_on_device(runtime)
    before = peak_bytes()
    loaded = base.load(artifact, runtime=runtime, threads=threads)
    for _ in range(_RUNS):
        loaded.run(blank(artifact.manifest.preprocess))
    left = free_on_device(runtime)
    taken = None if free is None or left is None else max(0, free - left)
    print(msgspec.json.encode(Memory(peak_bytes=peak_bytes(), base_bytes=before, device_bytes=taken)).decode())


def free_on_device(runtime: str) -> int | None:
    """Free bytes of the GPU that `runtime` uses; None when it uses none, or none is there.

    CUDA's own context is there by then, so that it counts as no model's. What others take or give back meanwhile is counted.
    """
    if not base.RUNTIMES[runtime].gpu:
        return None
    try:
        return Cuda().free_bytes
    except RuntimeUnavailable:
        return None
