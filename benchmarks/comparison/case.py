"""A checkpoint and a data set, made ready: what every tool is given, and what its answer is judged by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from peers.contract import Logits, in_batches

from comparison.rescaled import rescaled
from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.archive import open_data
from edgedet.data.cache import PixelCache
from edgedet.data.index import Index
from edgedet.data.parallel import usable_cores
from edgedet.export.anchor import untrained
from edgedet.export.stage import ExportConfig, run
from edgedet.quantize.sample import stratified, take_sample
from edgedet.runtime.base import LOGIT, Options
from edgedet.runtime.onnxruntime import OnnxRuntime

FLOAT_TARGET = "cpu-x86"
FEW = 1
UNTRAINED_RANGES, UNTRAINED_TEST = 48, 64
"""Images of both splits that an untrained network is run on: only its logit error is of interest."""


@dataclass(frozen=True)
class Case:
    """`data` is what ``--data`` takes; an untrained case has a detector's name in place of a checkpoint's path.

    rescaled: the checkpoint's channels are rescaled first, which rounding feels and float does not.
    """

    name: str
    source: str
    data: str
    trained: bool = True
    rescaled: bool = False


@dataclass(frozen=True)
class Ready:
    """graph: the float ONNX. images, test: as `peers.contract.Request` has them. logits (M,): the float graph's on `test`.

    key: the digest of all that the rows depend on but the tools.
    """

    case: Case
    checkpoint: Artifact
    index: Path
    graph: Path
    images: Path
    test: Path
    labels: npt.NDArray[np.int64]
    logits: Logits
    key: str


def prepare(case: Case, folder: Path) -> Ready:
    """Everything in `folder`; what is there of the same key is taken as it is."""
    data = open_data(case.data) if case.trained else _few(open_data(case.data))
    checkpoint = _checkpoint(case, data, folder)
    folder = folder / checkpoint.digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "index.csv"
    data.save(index)
    float_graph = _float_graph(checkpoint, folder / "fp32")
    test = data.split("test")
    cached = PixelCache.open(test, checkpoint.manifest.preprocess)
    images = folder / "images.npz"
    _save_images(images, checkpoint, float_graph, data)
    return Ready(
        case=case,
        checkpoint=checkpoint,
        index=index,
        graph=float_graph,
        images=images,
        test=cached.path,
        labels=test.labels,
        logits=logits_of(float_graph, cached.pixels),
        key=hashlib.sha256(f"{checkpoint.digest} {data.digest} {test.digest}".encode()).hexdigest(),
    )


def logits_of(graph: Path, pixels: npt.NDArray[np.uint8]) -> Logits:
    """(N,) under ONNX Runtime; pixels uint8 (N, H, W, 3)."""
    runtime = OnnxRuntime(graph, Options(threads=usable_cores(), spin=False))
    try:
        return in_batches(lambda batch: runtime.run(batch)[LOGIT], pixels)
    finally:
        runtime.close()


def _few(data: Index) -> Index:
    parts = (("ranges", UNTRAINED_RANGES), ("test", UNTRAINED_TEST))
    return Index(data.root, tuple(row for split, count in parts for row in stratified(data.split(split), count).rows))


def _checkpoint(case: Case, data: Index, folder: Path) -> Artifact:
    if not case.trained:
        return _untrained(case.source, folder)
    given = Artifact.load(case.source)
    if not case.rescaled:
        return given
    out = folder / f"rescaled-{given.digest[:12]}"
    return Artifact.load(out) if out.is_dir() else rescaled(given, data, out)


def _untrained(detector: str, folder: Path) -> Artifact:
    out = folder / "untrained"
    if not out.is_dir():
        untrained(out, DetectorSpec(name=detector), models.lookup(detector).preprocess)
    return Artifact.load(out)


def _float_graph(checkpoint: Artifact, out: Path) -> Path:
    if not out.is_dir():
        run(ExportConfig(precision="fp32", target=FLOAT_TARGET, gates=()), checkpoint, None, out, assessed=False)
    return Artifact.load(out).graph


def _save_images(path: Path, checkpoint: Artifact, graph: Path, data: Index) -> None:
    """The images that the export stage would draw, and the float graph's logits on those held out."""
    config = ExportConfig()
    sample = take_sample(data, config.images, few=FEW, held_out=config.held_out, seed=config.seed)
    ranges, held_out = (_pixels(part, checkpoint) for part in (sample.ranges, sample.held_out))
    np.savez(path, ranges=ranges, held_out=held_out, logits=logits_of(graph, held_out))


def _pixels(index: Index, checkpoint: Artifact) -> npt.NDArray[np.uint8]:
    preprocess = checkpoint.manifest.preprocess
    return np.stack([preprocess(index.read(position)) for position in range(len(index))])


def as_data(case: Case) -> dict[str, object]:
    """For the results file: no path of this machine, only the names."""
    return {**msgspec.to_builtins(case), "source": Path(case.source).name, "data": Path(case.data).name}
