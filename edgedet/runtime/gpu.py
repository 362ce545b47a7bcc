"""The GPU and the TensorRT of this machine, looked at from a child process: without a device TensorRT can end the process."""

from __future__ import annotations

import functools
import importlib
import json
import signal
import subprocess
import sys
from typing import Any

import msgspec

from edgedet.artifact import Built
from edgedet.errors import RuntimeUnavailable
from edgedet.runtime.base import missing, source_of
from edgedet.runtime.cuda import Cuda
from edgedet.target import board_model

_SECONDS = 120.0


@functools.cache
def probe() -> Built:
    """The device and the TensorRT that engines are built by here; looked for once in a process.

    Raises:
        RuntimeUnavailable: there is no GPU, no TensorRT, or the two do not work together; one sentence says which.
    """
    if reason := missing("tensorrt"):
        raise RuntimeUnavailable(reason)
    command = [sys.executable, "-m", "edgedet.runtime.gpu"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeUnavailable(f"TensorRT does not start within {_SECONDS:.0f} seconds here") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise RuntimeUnavailable(f"TensorRT ends its process with {name} when it is started here: does it fit the driver?")
    last = (done.stdout.strip().splitlines() or ["{}"])[-1]
    return _answered(last, done.stderr)


def _answered(line: str, stderr: str) -> Built:
    try:
        answer = json.loads(line)
    except json.JSONDecodeError:
        answer = {}
    if "why" in answer:
        raise RuntimeUnavailable(str(answer["why"]))
    try:
        return msgspec.convert(answer, Built)
    except msgspec.ValidationError as error:
        last = (stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise RuntimeUnavailable(f"TensorRT does not start here: {last}") from error


def look() -> Built:
    """What :func:`probe` asks a child process for.

    Raises:
        RuntimeUnavailable: as there.
    """
    cuda = Cuda()
    trt = import_tensorrt()
    logger = listener(trt)
    try:
        trt.Builder(logger)
    except TypeError as error:  # what the bindings make of the null pointer that the library gives
        why = " ".join(logger.errors) or str(error)
        raise RuntimeUnavailable(f"TensorRT {trt.__version__} gives no builder on {cuda.name}: {why}") from error
    return Built.by(
        device=board_model() or cuda.name,
        chip=cuda.name,
        compute_capability=cuda.compute_capability,
        multiprocessors=cuda.multiprocessors,
        tensorrt=str(trt.__version__),
    )


def import_tensorrt() -> Any:
    """The module, whose Python half can be there without its libraries.

    Raises:
        RuntimeUnavailable: it cannot be imported.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise RuntimeUnavailable(f"tensorrt cannot be imported: {error}; {source_of('tensorrt')}") from error


def listener(trt: Any, keep: tuple[str, ...] = ()) -> Any:
    """A logger that prints nothing: TensorRT's errors are in its `errors`, what starts with one of `keep` in its `lines`."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
            elif message.startswith(keep):
                self.lines.append(message)

    return Listener()


def main() -> None:
    """One line of JSON on stdout: the device, or why there is none."""
    try:
        print(json.dumps(msgspec.to_builtins(look())))
    except RuntimeUnavailable as error:
        print(json.dumps({"why": str(error)}))


if __name__ == "__main__":
    main()
