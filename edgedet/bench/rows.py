"""From what one run measured to the lines of the result, the published ones beside the measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import msgspec

from edgedet.artifact import Figures
from edgedet.bench import beside, probe, steps
from edgedet.bench.beside import Beside
from edgedet.bench.entry import Entry
from edgedet.bench.power import Power
from edgedet.bench.probe import Device
from edgedet.bench.result import Accuracy, BenchRow, Interval, Memory, Point
from edgedet.bench.scenarios import Comparison, Throughput
from edgedet.bench.statistics import Latency, Ratio


@dataclass(frozen=True)
class Measured:
    """Everything that one run measured, by entry name.

    overhead: the null runtime; model, whole, pixels: single-stream, model-only, end to end and preprocessing only;
    sweep: offline. throttled: how often the processor slowed itself down meanwhile. power: or why there is none.
    """

    overhead: Latency
    model: Comparison
    whole: Comparison
    pixels: Comparison
    sweep: Mapping[str, tuple[Throughput, ...]]
    memory: Mapping[str, Memory]
    others_share: float | None
    throttled: int | None = None
    power: Mapping[str, Power | str] = field(default_factory=dict)


def build(
    entries: Sequence[Entry],
    device: Device,
    measured: Measured | None,
    baseline: str,
    found: Mapping[str, Beside],
    metrics: Mapping[str, Figures],
) -> list[BenchRow]:
    """The lines in the order of `entries`; what is `found` to be set beside them stands after the last that it belongs to.

    metrics: by artifact digest, figures that take the place of the manifest's.
    """
    lines: list[BenchRow] = []
    for position, entry in enumerate(entries):
        other = found.get(entry.name, "")
        notes = (other,) if isinstance(other, str) and other else ()
        figures = metrics.get(entry.artifact.digest, entry.artifact.manifest.metrics)
        accuracy = accuracy_of(figures) if entry.weights == "trained" else None
        base = baseline if entry.weights == "trained" else _first_of_its_kind(entry, entries)
        line = _with_step(_row(entry, device, measured, base, accuracy, notes), entry, entries, measured)
        lines.append(beside.with_share(line, other))
        later = [found.get(each.name) for each in entries[position + 1 :]]
        # On the machine itself what was measured takes the place of what was published.
        if not isinstance(other, str) and other not in later and line.accelerator != beside.device_of(other):
            lines.append(beside.line(other))
    return lines


def _first_of_its_kind(entry: Entry, entries: Sequence[Entry]) -> str:
    """The first untrained one of the same detector: of a network nobody trained only its own steps are comparable."""
    same = (e.name for e in entries if e.weights == "untrained" and e.detector_name == entry.detector_name)
    return next(same, entry.name)


def accuracy_of(metrics: Figures) -> Accuracy | None:
    """What figures in the form of a manifest's say (`edgedet.evaluate`); None when there are none."""
    balanced, auc = _interval(metrics.get("balanced_accuracy")), _interval(metrics.get("auc"))
    if balanced is None and auc is None:
        return None
    worst = metrics.get("worst_generator")
    of_worst = metrics.get("generators", {}).get(worst, {})
    return Accuracy(
        split=", ".join(split or "unassigned" for split in metrics.get("splits", ())) or None,
        balanced_accuracy=balanced,
        auc=auc,
        worst_generator=worst,
        worst_balanced_accuracy=_interval(of_worst.get("balanced_accuracy")),
        flip_rate=_interval(metrics.get("flips_against_ancestor")),
    )


def _row(
    entry: Entry,
    device: Device,
    measured: Measured | None,
    baseline: str,
    accuracy: Accuracy | None,
    notes: tuple[str, ...],
) -> BenchRow:
    figures: dict[str, Any] = {"error": entry.error}
    if measured is not None and entry.error is None:
        figures = _figures(entry, measured, baseline)
    return BenchRow(
        name=entry.name,
        kind="measured",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=device,
        precision=entry.precision,
        layout="nhwc",
        img_size=entry.size,
        detector=entry.detector_name,
        weights=entry.weights,
        digest=entry.artifact.digest,
        size_bytes=entry.artifact.model_bytes,
        accuracy=accuracy,
        notes=(*entry.notes, *notes),
        **figures,
    )


def _with_step(row: BenchRow, entry: Entry, entries: Sequence[Entry], measured: Measured | None) -> BenchRow:
    """The row with what its last compression step bought, when what it is to be compared with was measured too."""
    if measured is None or entry.error or entry.weights == "untrained":
        return row
    other = steps.before(entry.artifact, [each.artifact for each in entries])
    beside = [each for each in entries if other and each.artifact.digest == other.digest and each.error is None]
    # On the same runtime where it was measured there: the step is compared, not the runtime.
    beside.sort(key=lambda each: each.chosen != entry.chosen)
    name = beside[0].name if beside else None
    bought = _speedup(measured.model, entry.name, name) if name else None
    if bought is None:
        return row
    stage = "quantization" if row.precision != "fp32" else entry.artifact.manifest.lineage[-1].stage
    remark = steps.verdict(entry.name, stage, bought)
    return msgspec.structs.replace(row, bought=bought, notes=(*row.notes, *([remark] if remark else [])))


def _figures(entry: Entry, measured: Measured, baseline: str) -> dict[str, Any]:
    """The fields of a line that were measured."""
    name, warm_up, drawn = entry.name, measured.model.warm_ups[entry.name], measured.power.get(entry.name)
    return {
        "runtime": entry.described.get("runtime"),
        "runtime_version": entry.described.get("version"),
        "accelerator": entry.described.get("accelerator"),
        "threads": entry.threads,
        "threads_p50_ms": dict(entry.threads_p50_ms),
        "memory": measured.memory.get(name),
        "warmup_ms": warm_up.milliseconds,
        "warmup_stable": warm_up.stable,
        "latency": measured.model.latency(name),
        "end_to_end": measured.whole.latency(name),
        "preprocess": measured.pixels.latency(name),
        "throughput": tuple(
            Point(batch=p.batch, images_per_second=p.images_per_second, threads=entry.sweep_threads, calls=p.calls)
            for p in measured.sweep.get(name, ())
        ),
        "power": None if isinstance(drawn, str) else drawn,
        "power_reason": drawn or None if isinstance(drawn, str) else None,
        "parity": entry.parity,
        "speedup": _speedup(measured.model, name, baseline),
        "harness_ms": measured.overhead.p50_ms,
        "others_share": measured.others_share,
        "throttled": measured.throttled,
        "versions": probe.versions(),
    }


def _speedup(model: Comparison, name: str, baseline: str) -> Ratio | None:
    """None when the baseline fell out: nothing else takes its place."""
    return model.ratio(name, baseline) if baseline in model.samples else None


def _interval(figure: Any) -> Interval | None:
    if not isinstance(figure, Mapping) or figure.get("value") is None:
        return None
    return Interval(value=figure["value"], low=figure.get("low"), high=figure.get("high"))
