"""A detector on the machines of a Ray cluster: the rows of :meth:`Detector.stream`, in its order, by many processes.

The images are cut into shares, whole batches in the order of the files. Each process of the cluster (one a core, or one for as
many cores as it has threads) opens the detector once and takes one share after the other; what comes back is put in order.
Batches are cut as a crew cuts them (`edgedet.runtime.crew`): how many machines there are, and who takes what, moves no logit.

The machines see the images, the artifact and edgedet under the paths of the one that asks: only paths and figures travel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedet import errors
from edgedet.artifact import Artifact
from edgedet.errors import DataError, EdgedetError, RuntimeUnavailable
from edgedet.runtime import base, crew
from edgedet.runtime.connection import last_line
from edgedet.runtime.detector import Detector, Prediction, batch_limit, threshold_of

_MOST = 16  # batches a share, so that handing out and collecting shares takes little of the time
_OF_PREDICTION = tuple(field.name for field in dataclasses.fields(Prediction))

log = logging.getLogger("edgedet.runtime.cluster")


@dataclasses.dataclass(frozen=True)
class Job:
    """What each process needs to know. `folder`: where relative paths begin, None when there are none."""

    artifact: str
    digest: str
    runtime: str
    threads: int
    batch_size: int
    operating_point: str | None
    folder: str | None


class Scorer:
    """One process of the cluster: opens the detector at its first share and keeps it.

    An error of edgedet's is handed back as a row: raised here, Ray would print it, and try again what cannot succeed.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._detector: Detector | None = None

    def __call__(self, share: Any) -> Any:
        """A `pyarrow.Table` with ``path`` to one with a row of :class:`Prediction` for each, and what stops the whole run."""
        try:
            paths = [_text(path) for path in share["path"].to_pylist()]
            rows = [_row(path, each) for path, each in zip(paths, self._predicted(paths), strict=True)]
        except EdgedetError as error:
            rows = [{"stop": type(error).__name__, "error": _bytes(f"{socket.gethostname()}: {error}")}]
        return _table(rows)

    def _predicted(self, paths: list[str]) -> Iterator[Prediction]:
        if self._detector is None:
            self._detector = self._open()
        return self._detector.batch_by_batch(paths, operating_point=self._job.operating_point)

    def _open(self) -> Detector:
        job = self._job
        if job.folder is not None:
            try:
                os.chdir(job.folder)  # this process has no other work, and errors name files as they were given
            except OSError as error:
                raise RuntimeUnavailable(f"{job.folder}: every machine needs this folder: {error.strerror}") from error
        artifact = Artifact.load(job.artifact)
        if artifact.digest != job.digest:
            raise RuntimeUnavailable(f"{job.artifact}: is another artifact on this machine: copy it to every machine")
        return Detector.load(artifact, runtime=job.runtime, threads=job.threads, spin=False, batch_size=job.batch_size)


def stream(
    artifact: Artifact,
    files: Sequence[Path],
    *,
    runtime: str = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    operating_point: str | None = None,
) -> Iterator[Prediction]:
    """One prediction for each of `files`, in order, as they are ready; a file that cannot be read has one with the error.

    Takes place in a block of :func:`edgedet.runtime.connection.connected`. `threads` None is one: a process for every core.

    Raises:
        ArtifactError: no such operating point; or on a machine the artifact is missing, damaged or gives no finite logit.
        DataError: an image that is here is not on a machine of the cluster.
        RuntimeUnavailable: a machine cannot run the artifact; the cluster is too small for `threads`, or was lost.
    """
    import ray

    threshold_of(artifact, operating_point)
    base.require(runtime)
    if not files:
        return iter(())
    relative = any(not Path(path).is_absolute() for path in (artifact.path, *files))
    job = Job(
        artifact=str(artifact.path),
        digest=artifact.digest,
        runtime=base.choose(artifact) if runtime == "auto" else runtime,
        threads=threads or 1,
        batch_size=batch_size,
        operating_point=operating_point,
        folder=str(Path.cwd()) if relative else None,
    )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(base.RUNTIMES[job.runtime].gpu and any(node.get("GPU", 0) for node in nodes))
    slots = processes(nodes, job.threads, gpus)
    shares = cut(files, batch_limit(artifact.manifest.preprocess, batch_size), slots)
    slots = min(slots, len(shares))
    log.info("%d images on %d machines of a Ray cluster, %d processes", len(files), len(nodes), slots)
    return _checked(files, _rows(job, shares, slots, gpus))


def processes(nodes: Sequence[dict[str, float]], threads: int, gpus: int = 0) -> int:
    """How many processes of `threads` cores (and `gpus` GPUs) machines with these resources hold.

    Raises:
        RuntimeUnavailable: none of them has so many cores.
    """
    each = [int(node.get("CPU", 0)) // threads for node in nodes]
    if gpus:
        each = [min(cores, int(node.get("GPU", 0)) // gpus) for cores, node in zip(each, nodes, strict=True)]
    if not sum(each):
        most = int(max((node.get("CPU", 0) for node in nodes), default=0))
        raise RuntimeUnavailable(f"no machine of the cluster has {threads} cores, the largest has {most}: lower --threads")
    return sum(each)


def cut(files: Sequence[Path], batch: int, slots: int) -> list[Sequence[Path]]:
    """`files` in shares of whole batches, in order: few enough to be quick, and several for each of the `slots`."""
    size = batch * max(1, crew.batch_of(len(files), _MOST * batch, slots) // batch)
    return [files[start : start + size] for start in range(0, len(files), size)]


def _rows(job: Job, shares: Sequence[Sequence[Path]], slots: int, gpus: int) -> Generator[dict[str, Any], None, None]:
    """The rows of all shares, in order."""
    import pyarrow
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    tables = [pyarrow.table({"path": pyarrow.array(map(_bytes, map(str, share)), pyarrow.binary())}) for share in shares]
    scored = ray.data.from_arrow(tables).map_batches(
        Scorer,
        fn_constructor_args=(job,),
        batch_size=None,  # a share is a block, and is scored whole
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=slots),
        num_cpus=job.threads,
        num_gpus=gpus,
    )
    try:
        for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_pylist()
    except Exception as error:
        if not type(error).__module__.startswith("ray."):  # Ray's own have no common base below Exception
            raise
        raise RuntimeUnavailable(f"the cluster could not go on: {last_line(error)}") from error


def _checked(files: Sequence[Path], rows: Generator[dict[str, Any], None, None]) -> Iterator[Prediction]:
    """Rows to predictions, one for each file; a row that stops the run is raised.

    Raises:
        EdgedetError: of the kind that was raised on the machine.
        DataError: a machine does not see a file that is here.
    """
    with contextlib.closing(rows):
        for path, row in zip(files, rows, strict=True):
            error = _text(row["error"]) if row["error"] is not None else None
            if row["stop"]:
                raise getattr(errors, row["stop"])(error)
            if row["absent"] and os.path.lexists(path):
                raise DataError(f"{path}: is here but not on {row['absent']}: every machine needs it at the same path")
            yield Prediction(**{name: row[name] for name in _OF_PREDICTION if name != "error"}, error=error)


def _row(path: str, prediction: Prediction) -> dict[str, Any]:
    # A disk that is not mounted on this machine must not pass for images that are not there.
    absent = socket.gethostname() if prediction.error and not os.path.lexists(path) else None
    error = _bytes(prediction.error) if prediction.error else None
    return {**dataclasses.asdict(prediction), "error": error, "absent": absent}


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow

    number, text = pyarrow.float64(), pyarrow.string()
    kinds = {"score": number, "logit": number, "verdict": text, "margin": number, "threshold": number}
    kinds["unsure"] = pyarrow.bool_()
    schema = pyarrow.schema({**kinds, "error": pyarrow.binary(), "absent": text, "stop": text})
    return pyarrow.Table.from_pylist(rows, schema=schema)


def _bytes(text: str) -> bytes:
    """`text` as bytes, whatever a file name has in it: Arrow's strings hold no lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def _text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogatepass")
