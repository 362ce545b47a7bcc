"""The benchmark: artifacts side by side in one run, beside the published figures of another machine.

Every artifact is timed in both scenarios of `edgedet.bench.scenarios`, interleaved with the others, at its own best thread
count; its size and its peak memory are measured, and its accuracy is that of its own manifest, so that speed and accuracy carry
the same digest. `anchor` holds the two permanent lines, ResNet-50 at 224 px in FP32 and INT8: measured here and
published for the other machine, they say how the two machines compare. Their weights may be untrained, and their rows say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgedet.artifact import Artifact, Figures
from edgedet.bench import beside, memory, probe, result, rows, samples, scenarios
from edgedet.bench import entry as entries_of
from edgedet.bench.entry import Entry, Threads
from edgedet.bench.power import Meter
from edgedet.bench.probe import CpuTime
from edgedet.bench.reference import device_name
from edgedet.bench.result import BenchRow, Memory
from edgedet.bench.rows import Measured
from edgedet.bench.scenarios import BATCHES, Rules, Throughput
from edgedet.data.index import Index
from edgedet.errors import BenchError, nearest
from edgedet.runtime import base as runtimes

log = logging.getLogger(__name__)


def run(
    artifacts: Sequence[Artifact],
    *,
    anchor: Sequence[Artifact] = (),
    data: Index | None = None,
    runtime: str | Sequence[str] = "auto",
    baseline: str | None = None,
    threads: Threads = "best",
    record: Path | None = None,
    keep: Path | None = None,
    reference: str | None = "rtx-3090",
    metrics: Mapping[str, Figures] | None = None,
    seconds: float = 10.0,
    batches: Sequence[int] = BATCHES,
    energy: bool = True,
) -> list[BenchRow]:
    """Measure `artifacts`, then `anchor`, and set the published rows of `reference` beside them.

    A row that cannot be measured is there with its `error`. An artifact takes about twice `seconds`, and up to seven times
    when one call is slow.

    Args:
        artifacts: in the order of the table.
        anchor: marked untrained, and compared with the first of the same detector.
        data: the images that are timed, usually one split; None: the golden images.
        runtime: a name of `edgedet.runtime.base`; ``auto``: the fastest for the artifact, as measured; several: a row each.
        baseline: the folder name of the artifact that speed-ups are over; None: the first.
        threads: ``best`` measures each artifact at 1, 2, 4 ... and all cores and takes the least p50.
        record: a file of JSON lines that the rows are added to.
        keep: a file for the raw samples, every timed call (`edgedet.bench.samples`).
        reference: the machine whose published rows are shown, a key of `edgedet.bench.reference.DEVICES`; None: no such rows.
        metrics: figures by artifact digest, in the form of a manifest's, to show instead of the manifest's own.
        seconds: of the single-stream scenario, per artifact; at least 1,000 runs, when three times as long allows them.
        batches: the sweep of the offline scenario.
        energy: where this machine can tell what it draws, measure that too, above what it draws at rest before all else.

    Raises:
        BenchError: nothing to measure, no such baseline or reference, no images, or `record` or `keep` cannot be written.
        RuntimeUnavailable: no runtime has that name.
    """
    wanted = [runtime] if isinstance(runtime, str) else list(dict.fromkeys(runtime))
    require_names(wanted, reference)
    entries = entries_of.collect(artifacts, anchor, wanted)
    names = [entry.name for entry in entries if entry.weights == "trained"] or [entry.name for entry in entries]
    if baseline is not None and baseline not in names:
        raise BenchError(f"no artifact to compare with is called {baseline!r}{nearest(baseline, names)}")
    others = beside.find(entries, reference)
    images = entries_of.sample_images(data, entries)
    device, before = probe.device(), probe.cpu_time()
    meter = Meter.at_rest(seconds / 4) if energy else Meter()
    for entry in entries:
        entry.prepare(images, threads=threads)
    measured = _measure([entry for entry in entries if entry.error is None], before, seconds, batches, meter)
    found = rows.build(entries, device, measured, baseline or names[0], others, metrics or {})
    if record is not None:
        result.append(record, found)
    if keep is not None and measured is not None:
        digests = {entry.name: entry.artifact.digest for entry in entries}
        date = max(row.date or "" for row in found)
        samples.save(keep, measured.model, measured.whole, digests, date=date, preprocess=measured.pixels)
    return found


def require_names(names: Sequence[str], machine: str | None) -> None:
    """Refuse names that mean nothing, before hours of work.

    Raises:
        BenchError: no figures are kept of that machine. RuntimeUnavailable: no runtime has that name.
    """
    for name in names:
        runtimes.require(name)
    if machine is not None:
        device_name(machine)


def _measure(
    live: Sequence[Entry], before: CpuTime | None, seconds: float, batches: Sequence[int], meter: Meter
) -> Measured | None:
    """Both scenarios and the memory of all that could be loaded; None when nothing could."""
    if not live:
        return None
    base, throttles = live[0].name, probe.throttles()
    try:
        log.info("single-stream, model only, of %s", ", ".join(entry.name for entry in live))
        overhead = scenarios.overhead()
        model = scenarios.compare({e.name: e.model_only() for e in live}, baseline=base, rules=Rules.lasting(seconds))
        log.info("single-stream, end to end")
        whole = scenarios.compare({e.name: e.end_to_end() for e in live}, baseline=base, rules=Rules.lasting(seconds / 2))
        log.info("single-stream, preprocessing only")
        pixels = scenarios.compare({e.name: e.preprocessing() for e in live}, baseline=base, rules=Rules.lasting(seconds / 4))
        log.info("offline, batches of %s", ", ".join(map(str, batches)))
        sweep = _sweep(live, seconds, batches)
        best = {name: max(points, key=lambda point: point.images_per_second).batch for name, points in sweep.items() if points}
        powers = {entry.name: meter.of(_loads(entry, best.get(entry.name, 1)), seconds / 4) for entry in live}
        others = probe.others_share(before, probe.cpu_time())
        throttled = probe.since(throttles, probe.throttles())
    finally:
        for entry in live:
            entry.close()
    peaks = {entry.name: peak for entry in live if (peak := _memory(entry)) is not None}
    return Measured(overhead, model, whole, pixels, sweep, peaks, others, throttled, powers)


def _loads(entry: Entry, best: int) -> dict[int, Callable[[], object]]:
    """`entry` at batch 1 and at its `best`."""
    return {1: entry.model_only(), **({best: entry.batch(best)} if best > 1 else {})}


def _sweep(live: Sequence[Entry], seconds: float, batches: Sequence[int]) -> dict[str, tuple[Throughput, ...]]:
    """The offline scenario of those whose batch size is free, at `sweep_threads`."""
    free = [entry for entry in live if entry.fixed_batch is None]
    for entry in live:
        if entry.fixed_batch is not None:
            entry.notes.append(f"{entry.name}: its graph has a fixed batch of {entry.fixed_batch}: no sweep")
    for entry in free:
        if entry.sweep_threads != entry.threads:
            entry.load(entry.sweep_threads)
    makers = {entry.name: entry.batch for entry in free}
    return scenarios.offline(makers, batches=batches, rules=scenarios.sweep_rules(seconds / 10))


def _memory(entry: Entry) -> Memory | None:
    try:
        return memory.measure(entry.artifact, runtime=entry.chosen, threads=entry.threads)
    except BenchError as error:
        entry.notes.append(str(error))
        return None
