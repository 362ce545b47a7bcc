"""The Detector: images in, scores and verdicts out, on whatever runtime the artifact needs.

::

    from edgedet import Detector

    with Detector.load("artifacts/int8") as detector:
        for prediction in detector.predict(["a.jpg", "b.png"]):
            print(prediction.verdict, prediction.score, prediction.margin)
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgedet.artifact import Artifact, Calibration
from edgedet.data.parallel import SMALL_FILE, prefetch, usable_cores
from edgedet.errors import ArtifactError, ImageError, RuntimeUnavailable, nearest
from edgedet.preprocess import Pixels, Preprocess, Source
from edgedet.runtime import base, crew
from edgedet.runtime.base import Runtime

OnError = Literal["raise", "return"]
Decoded: TypeAlias = "Pixels | ImageError"
_NATIVE = 4  # photographs of their own size that a thread decodes at once
_SAMPLE = 64  # files whose size decides how many threads decode


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image. Everything but `threshold` and `error` is None when the image cannot be read.

    score: probability of fake, calibrated; verdict: fake when ``score >= threshold``; margin: ``score - threshold``.
    unsure: the score is in the band where a detector had better abstain; None also where too few images measured that band.
    """

    score: float | None
    logit: float | None
    verdict: Literal["fake", "real"] | None
    margin: float | None
    threshold: float
    unsure: bool | None = None
    error: str | None = None


class Detector:
    """A loaded artifact with its preprocessing and calibration. Not for use by several threads at once.

    workers: more than one is a crew (`edgedet.runtime.crew`): so many threads, each with its own batches.
    """

    def __init__(self, artifact: Artifact, runtime: Runtime, *, batch_size: int = 32, workers: int = 1) -> None:
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise RuntimeUnavailable(f"{name} must be at least 1, got {value}")
        if workers > 1 and not base.RUNTIMES[runtime.name].shared:
            raise RuntimeUnavailable(f"the {runtime.name} runtime cannot be shared by {workers} workers: leave workers at 1")
        self.artifact, self.runtime, self.batch_size, self.workers = artifact, runtime, batch_size, workers

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Artifact,
        *,
        runtime: str = "auto",
        threads: int | None = None,
        batch_size: int = 32,
        spin: bool = True,
        workers: int = 1,
    ) -> Detector:
        """Check the artifact's digests and load it; `threads` None is all cores that this process may use.

        `workers` above 1 is for many images: each of them has one thread of the runtime, whatever `threads` and `spin` say.

        Raises:
            ArtifactError: no artifact there, or a damaged one.
            RuntimeUnavailable: this machine cannot run it; says what is missing.
        """
        artifact = path if isinstance(path, Artifact) else Artifact.load(path)
        if workers > 1:
            threads, spin = 1, False
        loaded = base.load(artifact, runtime=runtime, threads=threads, spin=spin)
        return cls(artifact, loaded, batch_size=batch_size, workers=workers)

    @property
    def preprocess(self) -> Preprocess:
        """Bytes to pixels, as the artifact's manifest has it."""
        return self.artifact.manifest.preprocess

    @property
    def calibration(self) -> Calibration:
        """Logits to scores and verdicts, as the artifact's manifest has it."""
        return self.artifact.manifest.calibration

    def predict(
        self, images: Source | Iterable[Source], *, on_error: OnError = "raise", operating_point: str | None = None
    ) -> list[Prediction]:
        """One prediction per image, in order; one image gives a list of one.

        `operating_point` names one of the calibration's thresholds; None is its default.

        Raises:
            ImageError: an image cannot be read, unless `on_error` is ``return``: then its prediction carries the error.
            ArtifactError: no such operating point, or the model gives no finite logit.
        """
        return list(self.stream(images, on_error=on_error, operating_point=operating_point))

    def stream(
        self, images: Source | Iterable[Source], *, on_error: OnError = "raise", operating_point: str | None = None
    ) -> Iterator[Prediction]:
        """As :meth:`predict`, one at a time as they are ready: for a folder that does not fit in memory."""
        threshold = threshold_of(self.artifact, operating_point)
        sources = _each(images)
        if self.workers > 1:
            found = self._by_crew(sources, threshold)
        else:
            found = self._predicted(decoded(self.preprocess, iter(sources), ahead=self.batch_size), threshold)
        for each in found:
            if isinstance(each, ImageError) and on_error == "raise":
                raise each
            yield _told(each, threshold)

    def batch_by_batch(self, sources: Iterable[Source], *, operating_point: str | None = None) -> Iterator[Prediction]:
        """As :meth:`stream`, all on the calling thread, in the batches of a crew: for one process of many that share the cores.

        An image that cannot be read has a prediction with the error.
        """
        threshold = threshold_of(self.artifact, operating_point)
        for batch in crew.batches(sources, batch_limit(self.preprocess, self.batch_size)):
            images = (read(self.preprocess, source) for source in batch)
            yield from (_told(each, threshold) for each in self._predicted(images, threshold))

    def _predicted(self, images: Iterator[Decoded], threshold: float) -> Iterator[Prediction | ImageError]:
        for batch in batches(images, self.batch_size):
            if isinstance(batch, ImageError):
                yield batch
            else:
                yield from predictions(self.artifact, self.logits(np.stack(batch)), threshold)

    def _by_crew(self, sources: Iterable[Source], threshold: float) -> Iterator[Prediction | ImageError]:
        iterator = iter(sources)
        first = list(itertools.islice(iterator, _SAMPLE))
        count = len(sources) if isinstance(sources, Sized) else None
        most = batch_limit(self.preprocess, self.batch_size)
        return crew.spread(
            lambda source: read(self.preprocess, source),
            lambda images: list(self._predicted(images, threshold)),
            itertools.chain(first, iterator),
            workers=self.workers,
            size=crew.batch_of(count, most, self.workers),
            one_decodes=_threads_for(first) == 1,
        )

    def logits(self, pixels_u8_nhwc: Pixels) -> npt.NDArray[np.float32]:
        """The logits (N,) of preprocessed pixels, uint8 (N, H, W, 3), batch by batch.

        Raises:
            ImageError: the pixels are of another type or shape.
            ArtifactError: the graph refuses the shape, or a logit is not finite.
        """
        shape = pixels_u8_nhwc.shape
        if pixels_u8_nhwc.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ImageError(f"expected uint8 pixels of shape (N, H, W, 3), got {pixels_u8_nhwc.dtype} {shape}")
        starts = range(0, len(pixels_u8_nhwc), self.batch_size)
        parts = [self.runtime.run(pixels_u8_nhwc[start : start + self.batch_size])[base.LOGIT] for start in starts]
        return _finite(self.artifact, np.concatenate([np.empty(0, np.float32), *parts]))

    def close(self) -> None:
        """Give back the runtime's memory."""
        self.runtime.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def threshold_of(artifact: Artifact, operating_point: str | None) -> float:
    """The score from which on `artifact` says fake; `operating_point` None is its default.

    Raises:
        ArtifactError: it has no such operating point.
    """
    calibration = artifact.manifest.calibration
    if operating_point is None:
        return calibration.threshold
    if operating_point not in calibration.thresholds:
        near = nearest(operating_point, calibration.thresholds)
        raise ArtifactError(f"{artifact.path}: has no operating point {operating_point!r}{near}")
    return calibration.thresholds[operating_point]


def predictions(artifact: Artifact, logits: npt.NDArray[np.float32], threshold: float) -> Iterator[Prediction]:
    """What `artifact` says of images with these logits (N,), calibrated.

    Raises:
        ArtifactError: a logit is not finite.
    """
    calibration = artifact.manifest.calibration
    scores = calibration.score(_finite(artifact, logits))
    for logit, score in zip(logits.tolist(), scores.tolist(), strict=True):
        verdict: Literal["fake", "real"] = "fake" if score >= threshold else "real"
        yield Prediction(score, logit, verdict, score - threshold, threshold, calibration.is_unsure(score))


def _finite(artifact: Artifact, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{artifact.path}: the model gives a logit that is not finite: it cannot be used")
    return logits


def batch_limit(preprocess: Preprocess, batch_size: int) -> int:
    """How many of a batch a thread of a crew takes at once: at native size, tens of megabytes a photograph, it holds few."""
    return min(batch_size, _NATIVE) if preprocess.geometry == "native" else batch_size


def _told(found: Prediction | ImageError, threshold: float) -> Prediction:
    """What is said of an image: its prediction, or why it has none."""
    return Prediction(None, None, None, None, threshold, error=str(found)) if isinstance(found, ImageError) else found


def _each(images: Source | Iterable[Source]) -> Iterable[Source]:
    """One image as a list of one; an array is one image when it has three axes."""
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return [images]
    return images


def decoded(preprocess: Preprocess, sources: Iterator[Source], *, ahead: int) -> Iterator[Decoded]:
    """Pixels or the error of each source, in order, decoded in the background while the caller works."""
    decode = functools.partial(read, preprocess)
    first = list(itertools.islice(sources, _SAMPLE))
    if len(first) <= 1:  # a thread would only cost time
        yield from map(decode, first)
        return
    threads = _threads_for(first)
    # At native size a photograph is tens of megabytes: hold few.
    ahead = threads + 1 if preprocess.geometry == "native" else ahead + threads
    remaining = itertools.chain(first, sources)
    yield from prefetch(decode, remaining, threads=threads, ahead=ahead)


def read(preprocess: Preprocess, source: Source) -> Decoded:
    """The pixels of `source`, or why it has none."""
    try:
        return preprocess(source)
    except ImageError as error:
        return error


def batches(images: Iterator[Decoded], size: int) -> Iterator[list[Pixels] | ImageError]:
    """Runs of at most `size` images of one shape (of mixed sizes: batches of one); errors stand alone, in order."""
    batch: list[Pixels] = []
    for item in images:
        if batch and (isinstance(item, ImageError) or item.shape != batch[0].shape or len(batch) == size):
            yield batch
            batch = []
        if isinstance(item, ImageError):
            yield item
        else:
            batch.append(item)
    if batch:
        yield batch


def _threads_for(sources: list[Source]) -> int:
    """One thread for thumbnails, whose decoding holds Python's lock; one a core for photographs."""
    sizes = [size for size in map(_size, sources) if size]
    return 1 if sizes and sum(sizes) / len(sizes) < SMALL_FILE else usable_cores()


def _size(source: Source) -> int:
    """Encoded bytes; 0 when that is not known."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return len(source)
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).stat().st_size
        except (OSError, ValueError):
            return 0
    return 0
