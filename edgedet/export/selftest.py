"""The proof of an installed bundle, on the device that runs it.

Digests, then the engine where the runtime is TensorRT, then parity with the parent at every batch size, the labelled sample,
latency, throughput and power. The result is one JSON file. A test that fails is a result too: it says what did not hold, and
has the figures up to there.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgedet.artifact import Artifact, Figures, sha256_of
from edgedet.bench import power, powermode, probe
from edgedet.bench import stage as bench
from edgedet.bench.power import Power, Rails, Source
from edgedet.bench.probe import Device
from edgedet.bench.result import BenchRow
from edgedet.bench.scenarios import Cycle
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, EdgedetError
from edgedet.evaluate import slices
from edgedet.export import bundle as bundles
from edgedet.export import parity
from edgedet.export.bundle import FOLDER, INDEX, SAMPLE, Bundle
from edgedet.export.parity import Parity, ParityGate
from edgedet.recipe import Config
from edgedet.runtime.base import LOGIT
from edgedet.runtime.detector import Detector

log = logging.getLogger(__name__)

SCHEMA = 1
RESULT = "self-test.json"
ENGINE = "engine"
TENSORRT = "tensorrt"


class SelfTest(Config, frozen=True, kw_only=True):
    """What was found on one device, all of it measured there.

    failed: what did not hold, in one line; None when everything did.
    bundle: the sha256 of its list; artifact, engine: digests. build: how the engine was built, and in what time.
    runtime: what ran, and `described` its versions; intended: what the target runs.
    parity: the golden inputs at every batch size, against the parent's logits and those of the graph where it was made.
    sample: the labelled images: accuracy here, and the difference to the graph's logits where it was made.
    bench: latency, throughput and memory. power: None where the machine has no sensors.
    """

    schema: int = SCHEMA
    kind: Literal["measured"] = "measured"
    date: str
    failed: str | None
    bundle: str
    artifact: str
    engine: str | None = None
    build: Figures | None = None
    target: str
    runtime: str
    intended: str
    described: dict[str, str | int | bool] = {}
    device: Device
    parity: Figures | None = None
    sample: Figures | None = None
    bench: BenchRow | None = None
    power: Power | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = {}


@dataclass
class _Course:
    """One test on its way: what is tested, how, and the figures so far.

    artifact: the bundle's; subject: what runs, which is the engine once one is built.
    """

    folder: Path
    bundle: Bundle
    runtime: str
    seconds: float
    artifact: Artifact
    subject: Artifact
    sample: Index | None
    found: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(folder: Path, *, runtime: str | None = None, seconds: float = 5.0, power_mode: str | None = None) -> SelfTest:
    """Test the bundle that is installed at `folder`, and keep the result there.

    runtime: instead of the one that the bundle is for. seconds: for each of latency, throughput and power.
    power_mode: the mode that the board is put into first; None leaves it as it is.

    Raises:
        ArtifactError: no bundle is there, or one of its files is not what it was made with.
        BenchError: the power mode cannot be set.
    """
    bundle = bundles.load(folder / FOLDER)
    artifact = Artifact.load(folder / FOLDER / bundles.ARTIFACT)
    if power_mode is not None:
        powermode.choose(power_mode)
    chosen = runtime or bundle.target.runtime
    course = _Course(folder, bundle, chosen, seconds, artifact, artifact, _sample(folder, bundle))
    if course.runtime != bundle.target.runtime:
        course.notes.append(f"{course.runtime} stood in for {bundle.target.runtime}: these are no figures of the target")
    if not bundle.target.is_this_machine:
        course.notes.append(f"this machine is no {bundle.target.device}")
    failed = None
    try:
        _measure(course)
    except EdgedetError as error:
        failed = " ".join(str(error).split())
    result = _result(course, failed)
    save(folder / RESULT, result)
    return result


def save(path: Path, result: SelfTest) -> None:
    """Write the JSON in one step.

    Raises:
        ArtifactError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: the result cannot be written: {error.strerror}") from error


def read(raw: bytes) -> SelfTest:
    """What :func:`save` wrote.

    Raises:
        ArtifactError: it is something else.
    """
    try:
        return msgspec.json.decode(raw, type=SelfTest)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"not the result of a self-test of schema {SCHEMA}: {error}") from error


def _sample(folder: Path, bundle: Bundle) -> Index | None:
    return Index.load(folder / FOLDER / SAMPLE / INDEX) if bundle.sample else None


def _measure(course: _Course) -> None:
    """Fill in the figures, one step after the other.

    Raises:
        EdgedetError: a step failed or its gate does not hold.
    """
    source = power.find()
    rest = _at_rest(course, source)
    gate = _gate(course.artifact)
    if course.runtime == TENSORRT:
        _build(course, gate)
    log.info("parity at batch sizes %s on %s", ", ".join(map(str, parity.BATCH_SIZES)), course.runtime)
    with Detector.load(course.subject, runtime=course.runtime, spin=False) as detector:
        course.found["described"] = detector.runtime.describe()
        _prove(course, detector).hold(gate, f"{course.bundle.detector} on {course.runtime}")
        if course.sample is not None:
            _test_sample(course, detector, course.sample).hold(gate, f"{course.bundle.detector} on the labelled sample")
    _time(course)
    if source is not None:
        _weigh(course, source, rest)


def _at_rest(course: _Course, source: Source | None) -> list[Rails]:
    """Power before anything is loaded."""
    if source is None:
        course.notes.append(f"no power figures: {power.why_not()}")
        return []
    log.info("power at rest, by %s", source.name)
    return power.at_rest(source, course.seconds)


def _gate(artifact: Artifact) -> ParityGate:
    """The gate that the graph was exported under."""
    given = artifact.manifest.config.get("parity")
    return msgspec.convert(given, ParityGate) if given else parity.GATES[artifact.manifest.graphs[0].precision]


def _build(course: _Course, gate: ParityGate) -> None:
    """TensorRT's engine, always a new one, since two builds of one graph differ; it replaces an earlier one when it is whole.

    Raises:
        EdgedetError: TensorRT is not there, refuses the graph, or what it built disagrees with the graph.
    """
    from edgedet.export import tensorrt

    log.info("building the engine, which can take minutes")
    place = course.folder / ENGINE
    fresh = place.with_name(f".{ENGINE}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    tensorrt.run(tensorrt.EngineConfig(parity=gate), course.artifact, None, fresh, assessed=False)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    course.subject = Artifact.load(place)
    course.found["build"] = course.subject.manifest.metrics["engine"]


def _prove(course: _Course, detector: Detector) -> Parity:
    """The golden inputs: figures against the parent, and against the graph where it was made."""
    golden, calibration = course.artifact.golden, detector.calibration
    found = parity.measure(lambda batch: detector.runtime.run(batch)[LOGIT], golden.pixels, golden.parent_logits, calibration)
    beside = parity.compare({found.batch_sizes[-1]: found.logits}, golden.logits, calibration)
    course.found["parity"] = {**found.figures, "against_export": beside.figures}
    return found


def _test_sample(course: _Course, detector: Detector, sample: Index) -> Parity:
    """The labelled images: how good the verdicts are here, and how far the logits are from those where the graph was made."""
    assert course.bundle.sample is not None
    log.info("accuracy on %d images", len(sample))
    logits = bundles.logits_of(detector, sample)
    expected = np.array(course.bundle.sample.logits, dtype=np.float32)
    beside = parity.compare({1: logits}, expected, detector.calibration)
    evaluation = slices.of_logits(logits, detector.calibration, sample)
    course.found["sample"] = {**evaluation.plain(), "against_export": beside.figures}
    return beside


def _time(course: _Course) -> None:
    """Latency, throughput and memory, by the benchmark of `edgedet bench`."""
    log.info("latency, throughput and memory")
    (row,) = bench.run(
        [course.subject],
        data=course.sample,
        runtime=course.runtime,
        threads="best" if course.runtime == bundles.ALTERNATIVE else 1,
        reference=None,
        seconds=course.seconds,
        energy=False,
    )
    course.found["bench"] = row
    if row.error:
        raise ArtifactError(row.error)


def _weigh(course: _Course, source: Source, rest: list[Rails]) -> None:
    """Power at batch 1 and at the batch of the highest throughput, above rest."""
    row: BenchRow = course.found["bench"]
    best = row.best_throughput
    batches = sorted({1, best.batch if best else 1})
    log.info("power at batch %s", " and ".join(map(str, batches)))
    pixels = course.artifact.golden.pixels
    with Detector.load(course.subject, runtime=course.runtime, threads=row.threads) as detector:
        inputs = {size: [pixels[np.arange(size) % len(pixels)]] for size in batches}
        inputs[1] = [pixels[number : number + 1] for number in range(len(pixels))]
        runners = {size: Cycle(detector.runtime.run, inputs[size]) for size in batches}
        course.found["power"] = power.measure(source, rest, runners, course.seconds)


def _result(course: _Course, failed: str | None) -> SelfTest:
    return SelfTest(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        failed=failed,
        bundle=sha256_of(course.folder / FOLDER / bundles.MANIFEST),
        artifact=course.artifact.digest,
        engine=None if course.subject is course.artifact else course.subject.digest,
        target=course.bundle.target.name,
        runtime=course.runtime,
        intended=course.bundle.target.runtime,
        device=probe.device(),
        notes=tuple(course.notes),
        versions=probe.versions("tensorrt"),
        **course.found,
    )
