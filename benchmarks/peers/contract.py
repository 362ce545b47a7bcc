"""What a tool is asked and what it answers. Runs in the tool's own environment: nothing here but Python 3.10 and numpy.

    python TOOL.py answer REQUEST.json ANSWER.json
    python TOOL.py time MODEL PIXELS.npy THREADS

The first quantizes one float graph in every way that the request's mode allows, keeps the one whose logits on the held-out
images are nearest to the float graph's, and writes the answer. The second keeps a model loaded and times one block of calls
for each line "SECONDS RUNS" on its input, so that the benchmark can take turns with models in other processes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Run = Callable[[Pixels], Logits]
Make = Callable[[Path, Pixels, Path], None]
"""Float graph, images to calibrate on, where to write the quantized model."""

ONNX_RUNTIME = "onnxruntime"
PIXELS_A_BATCH = 64 * 32 * 32


@dataclass(frozen=True)
class Request:
    """graph: float ONNX, uint8 (batch, H, W, 3) -> ``logit`` (batch,). out: an empty folder for what the answer names.

    images: npz of uint8 (N, H, W, 3): `ranges` to calibrate on, `held_out` to choose by, and the float graph's logits on the
    latter, `logits` (N,). test: npy, uint8 (M, H, W, 3). mode: which candidates are tried. more: what one tool alone needs.
    """

    graph: Path
    images: Path
    test: Path
    out: Path
    mode: str
    threads: int
    more: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Request:
        given = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**given, **{name: Path(given[name]) for name in ("graph", "images", "test", "out")}})

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), default=str, indent=1), encoding="utf-8")


class Tool(Protocol):
    """packages: whose versions the answer has. runtime: ``onnxruntime``, which the benchmark itself runs, or its own."""

    @property
    def packages(self) -> tuple[str, ...]: ...

    @property
    def runtime(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    def candidates(self, request: Request) -> Mapping[str, Make]: ...

    def load(self, model: Path, threads: int) -> Run: ...

    def facts(self, model: Path) -> dict[str, Any]:
        """More of the answer: `layers`, how many are INT8 and how many there are; `notes`."""
        ...


def main(tool: Tool) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("answer")
    asked.add_argument("request", type=Path)
    asked.add_argument("answer", type=Path)
    timed = commands.add_parser("time")
    timed.add_argument("model", type=Path)
    timed.add_argument("pixels", type=Path)
    timed.add_argument("threads", type=int)
    given = parser.parse_args()
    if given.command == "answer":
        given.answer.write_text(json.dumps(answer(tool, Request.read(given.request)), indent=1), encoding="utf-8")
    else:
        serve(tool.load(given.model, given.threads), np.load(given.pixels, mmap_mode="r"), sys.stdin)


def answer(tool: Tool, request: Request) -> dict[str, Any]:
    """Try what the mode allows and keep the best; a candidate that fails is in the answer with its reason."""
    with np.load(request.images) as file:
        ranges, held_out, logits = file["ranges"], file["held_out"], file["logits"]
    made = tool.candidates(request)
    # Where there is no choice, nothing need be held out.
    seen = np.concatenate([ranges, held_out]) if len(made) == 1 else ranges
    tried = [_try(tool, request, name, make, seen, (held_out, logits)) for name, make in made.items()]
    found = {"versions": {name: version(name) for name in tool.packages}, "runtime": tool.runtime, "candidates": tried}
    working = [line for line in tried if line["error"] is None]
    if not working:
        return {**found, "error": tried[0]["error"]}
    best = min(working, key=lambda line: line["held_out"])
    model = _model(tool, request, best["name"])
    if tool.runtime != ONNX_RUNTIME:
        np.save(request.out / "logits.npy", in_batches(tool.load(model, request.threads), np.load(request.test, mmap_mode="r")))
    return {**found, "error": None, "chosen": best["name"], "model": model.name, **tool.facts(model)}


def _try(tool: Tool, request: Request, name: str, make: Make, seen: Pixels, held_out: tuple[Pixels, Logits]) -> dict[str, Any]:
    """One candidate; `held_out` is its mean logit error on the images that it did not see."""
    model, started = _model(tool, request, name), time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Its own copy: ModelOpt writes to the file that it is given.
            make(Path(shutil.copy(request.graph, folder)), seen, model)
        seconds = round(time.perf_counter() - started, 1)
        error = float(np.abs(in_batches(tool.load(model, request.threads), held_out[0]) - held_out[1]).mean())
        if not np.isfinite(error):
            raise ValueError("its logits are not finite")
    except Exception as problem:  # whatever another tool raises is its answer
        return {"name": name, "held_out": None, "seconds": None, "error": one_line(problem)}
    return {"name": name, "held_out": error, "seconds": seconds, "error": None}


def _model(tool: Tool, request: Request, name: str) -> Path:
    return request.out / f"{name}{tool.suffix}"


def batches(pixels: Pixels) -> Iterator[Pixels]:
    """`pixels` in batches of bounded memory: one image at 224 px, 64 at 32 px; the last may be smaller."""
    size = max(1, PIXELS_A_BATCH // (pixels.shape[1] * pixels.shape[2]))
    yield from (np.ascontiguousarray(pixels[start : start + size]) for start in range(0, len(pixels), size))


def in_batches(run: Run, pixels: Pixels) -> Logits:
    return np.concatenate([np.asarray(run(batch), np.float32) for batch in batches(pixels)])


def serve(run: Run, pixels: Pixels, lines: Iterable[str]) -> None:
    """Say that the model is there, then answer each line "SECONDS RUNS" with the nanoseconds of one block's calls."""
    shown = images_of(pixels)
    print(json.dumps([]), flush=True)
    for line in lines:
        seconds, runs = line.split()
        print(json.dumps(block(run, shown, float(seconds), int(runs))), flush=True)


def images_of(pixels: Pixels) -> list[Pixels]:
    """The first 64 images, as batches of one."""
    return [np.ascontiguousarray(pixels[number : number + 1]) for number in range(min(64, len(pixels)))]


def block(run: Run, images: list[Pixels], seconds: float, runs: int) -> list[int]:
    """Call until `seconds` are over and `runs` are made, or three times `seconds` are over; nanoseconds of each call."""
    took: list[int] = []
    spent = 0
    while not took or ((spent < seconds * 1e9 or len(took) < runs) and spent < 3 * seconds * 1e9):
        image = images[len(took) % len(images)]
        start = time.perf_counter_ns()
        run(image)
        took.append(time.perf_counter_ns() - start)
        spent += took[-1]
    return took


def one_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:300]
