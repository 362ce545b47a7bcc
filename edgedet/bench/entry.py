"""What takes part in a benchmark: an artifact on a runtime, at its best thread count, with the inputs that it is timed on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgedet.artifact import GOLDEN, Artifact
from edgedet.bench import pick, scenarios
from edgedet.bench.scenarios import Cycle, Runner
from edgedet.data.index import Index
from edgedet.data.parallel import usable_cores
from edgedet.errors import BenchError, EdgedetError, ImageError
from edgedet.patches import windows
from edgedet.preprocess import Pixels
from edgedet.runtime import base as runtimes
from edgedet.runtime.base import Runtime
from edgedet.runtime.detector import Detector

log = logging.getLogger(__name__)

Threads = int | Literal["best"]
IMAGES = 64
"""So many images are timed in turn; more would measure the disk and the memory of the benchmark."""


@dataclass
class Entry:
    """One artifact on its way through a benchmark; `error` says why it fell out.

    pixels: uint8 (1, H, W, 3) each, preprocessed; images: the encoded files that they come from.
    asked: the runtime's name, or ``auto``; chosen: what that stands for (`edgedet.bench.pick`).
    parity: the largest difference of a golden image's logit to the artifact's own.
    threads: of the single-stream runs; sweep_threads: of the offline sweep, all cores unless a count was given.
    """

    name: str
    artifact: Artifact
    weights: Literal["trained", "untrained"]
    asked: str = "auto"
    chosen: str = ""
    parity: float | None = None
    detector: Detector | None = None
    threads: int = 0
    sweep_threads: int = 0
    threads_p50_ms: Mapping[int, float] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)
    pixels: list[Pixels] = field(default_factory=list)
    described: Mapping[str, str | int | bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def prepare(self, images: Sequence[bytes], *, threads: Threads) -> None:
        """Decode the images, choose runtime and thread count by measurement and load; a failure is kept in `error`."""
        try:
            self._decode(images)
            self._choose_runtime(usable_cores() if threads == "best" else threads)
            if threads == "best":
                self._choose_threads()
            else:
                self.threads = self.sweep_threads = threads
            self.load(self.threads)
            self.described = self.runtime.describe()
            self.parity = pick.parity(self.artifact, self.runtime)
        except EdgedetError as error:
            self.error = str(error)
            self.close()
            log.warning("%s is left out: %s", self.name, error)

    def load(self, threads: int) -> None:
        """Load, instead of what was loaded, and run once."""
        self.close()
        self.detector = Detector.load(self.artifact, runtime=self.chosen, threads=threads)
        self.runtime.run(self.pixels[0])

    def close(self) -> None:
        """Give back the runtime's memory."""
        if self.detector is not None:
            self.detector.close()
            self.detector = None

    @property
    def loaded(self) -> Detector:
        """The loaded detector.

        Raises:
            BenchError: nothing is loaded.
        """
        if self.detector is None:
            raise BenchError(f"{self.name}: nothing is loaded, so it cannot be run")
        return self.detector

    @property
    def runtime(self) -> Runtime:
        """The loaded runtime.

        Raises:
            BenchError: nothing is loaded.
        """
        return self.loaded.runtime

    @property
    def detector_name(self) -> str:
        """Of the network that it is."""
        return self.artifact.manifest.detector.name

    @property
    def precision(self) -> str:
        """Of its first graph; a checkpoint's is FP32."""
        graphs = self.artifact.manifest.graphs
        return graphs[0].precision if graphs else "fp32"

    def model_only(self) -> Runner:
        """Single-stream: pixels to logits, one image a call."""
        return Cycle(self.runtime.run, self.pixels)

    def preprocessing(self) -> Runner:
        """Single-stream: an encoded file's bytes to pixels, one image a call, without the model."""
        return Cycle(self.artifact.manifest.preprocess, self.images)

    def end_to_end(self) -> Runner:
        """Single-stream: an encoded file's bytes to score and verdict, as :meth:`Detector.predict` does it for one image."""
        detector = self.loaded
        return Cycle(lambda image: detector.predict(image), self.images)

    def batch(self, size: int) -> Runner:
        """Offline: one call on `size` images. Images of mixed shapes (``native``) cannot share a batch: the first repeats."""
        alike = len({one.shape for one in self.pixels}) == 1
        chosen = [self.pixels[number % len(self.pixels) if alike else 0] for number in range(size)]
        return Cycle(self.runtime.run, [np.concatenate(chosen)])

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that is written into the graph that takes pixels, None when it is free."""
        for graph in self.artifact.manifest.graphs[:1]:
            for shape in graph.inputs.values():
                if shape and isinstance(shape[0], int):
                    return shape[0]
        return None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what it is timed on; the least of them where images have their own sizes."""
        preprocess = self.artifact.manifest.preprocess
        if preprocess.geometry != "native" or not self.pixels:
            return preprocess.height, preprocess.width
        sizes = [(pixels.shape[1], pixels.shape[2]) for pixels in self.pixels]
        return min(sizes, key=lambda size: size[0] * size[1])

    def _decode(self, images: Sequence[bytes]) -> None:
        refused = 0
        for image in images:
            try:
                self.pixels.append(self.artifact.manifest.preprocess(image)[None])
                self.images.append(image)
            except ImageError:
                refused += 1
        if not self.images:
            raise BenchError(f"{self.name}: none of the {len(images)} images can be read by its preprocessing")
        side = self.artifact.manifest.preprocess.patch
        if side is not None:
            counted = _patches(self.pixels, side)
            self.notes.append(f"{self.name}: {counted} of {side}x{side} px an image, four for the peak memory")
        if refused:
            self.notes.append(f"{self.name}: {refused} of {len(images)} images cannot be read and were not timed")

    def _choose_runtime(self, threads: int) -> None:
        if self.asked != "auto":
            self.chosen = self.asked
            return
        found = pick.fastest(self.artifact, self.pixels, threads=threads)
        self.chosen = found.runtime
        if found.ratios or found.left_out:
            self.notes.append(f"{self.name} {found}")
            log.info("%s %s", self.name, found)

    def _choose_threads(self) -> None:
        loaded: list[Detector] = []

        def load(threads: int) -> Runner:
            loaded.append(Detector.load(self.artifact, runtime=self.chosen, threads=threads))
            return Cycle(loaded[-1].runtime.run, self.pixels)

        try:
            choice = scenarios.best_threads(load)
        finally:
            for detector in loaded:
                detector.close()
        self.threads, self.sweep_threads, self.threads_p50_ms = choice.threads, usable_cores(), choice.p50_ms
        log.info("%s: %d threads are best (p50 ms by threads: %s)", self.name, choice.threads, dict(choice.p50_ms))


def _patches(images: Sequence[Pixels], side: int) -> str:
    """How many patches of `side` pixels images, uint8 (1, H, W, 3) each, are read in, in words."""
    counts = [len(windows(image.shape[1], image.shape[2], side)) for image in images]
    least, most = min(counts), max(counts)
    return f"{least} patch{'es' if least > 1 else ''}" if least == most else f"{least} to {most} patches"


def collect(artifacts: Sequence[Artifact], anchor: Sequence[Artifact], names: Sequence[str] = ("auto",)) -> list[Entry]:
    """One entry each, under the name of its folder; a name that is taken gets the start of the digest.

    With several names of runtimes an artifact has one entry on each that runs its kind, under both names.

    Raises:
        BenchError: there are no artifacts, or one is given a third time (twice compares it with itself).
    """
    if not artifacts and not anchor:
        raise BenchError("nothing to measure: give at least one artifact")
    entries: list[Entry] = []
    for artifact in (*artifacts, *anchor):
        name = artifact.path.resolve().name
        if name in {entry.name for entry in entries}:
            name = f"{name}@{artifact.digest[:8]}"
        if name in {entry.name for entry in entries}:
            raise BenchError(f"{artifact.path} was given twice: give each artifact once")
        is_anchor = len(entries) >= len(artifacts)
        entries.append(Entry(name, artifact, "untrained" if is_anchor else "trained"))
    return [each for entry in entries for each in _on(entry, names)]


def _on(entry: Entry, names: Sequence[str]) -> list[Entry]:
    """`entry` once on each runtime for its kind; when there is none, on the first, which will say why not."""
    kind = entry.artifact.manifest.kind
    fitting = [name for name in names if name == "auto" or kind in runtimes.RUNTIMES[name].kinds] or list(names[:1])
    called = {asked: f"{entry.name}, {asked}" if len(fitting) > 1 else entry.name for asked in fitting}
    return [Entry(name, entry.artifact, entry.weights, asked=asked) for asked, name in called.items()]


def sample_images(data: Index | None, entries: Sequence[Entry]) -> list[bytes]:
    """The encoded images that everything is timed on: spread over `data`, or the golden ones of the first that has any.

    Raises:
        BenchError: there is no data and no artifact has golden images.
    """
    if data is not None and len(data):
        positions = np.unique(np.linspace(0, len(data) - 1, min(len(data), IMAGES)).round().astype(int))
        return [data.read(int(position)) for position in positions]
    for entry in entries:
        if GOLDEN in entry.artifact.manifest.files and entry.artifact.golden.images:
            return list(entry.artifact.golden.images)
    raise BenchError("no images to time: no artifact has golden images, so give a data set with --data")
