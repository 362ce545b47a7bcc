"""From what lies in a folder to what the report says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from edgedet import __version__, metrics
from edgedet.artifact import Artifact, Calibration, Figures
from edgedet.bench.result import BenchRow
from edgedet.bench.samples import Series
from edgedet.data.audit import Audit
from edgedet.errors import BenchError, DataError
from edgedet.evaluate import assess
from edgedet.evaluate.assess import Kept
from edgedet.evaluate.degrade import CLEAN
from edgedet.report.content import AuditLine, Curves, Distribution, OperatingPoint, Report, Run, Subject, Sweep
from edgedet.report.material import Material, Slice, collect


def build(folder: Path) -> Report:
    """The report on everything below `folder`.

    Raises:
        BenchError: it is no folder, or has neither artifacts nor result lines in it.
    """
    found = collect(folder)
    if not (found.artifacts or any(found.results.values())):
        reasons = f" ({'; '.join(found.unused[:3])})" if found.unused else ""
        raise BenchError(f"{folder}: neither artifacts nor result lines (.jsonl of `edgedet bench --record`) in it{reasons}")
    ordered = sorted(found.artifacts, key=lambda each: (_root(each), len(each.manifest.lineage), each.path.name))
    subjects = tuple(map(_subject, ordered))
    report = Report(
        title=folder.resolve().name,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgedet=__version__,
        runs=tuple(_run(file, rows, _depths(found.artifacts)) for file, rows in found.results.items() if rows),
        subjects=subjects,
        sweeps=tuple(_sweeps(found, subjects)),
        latencies=tuple(map(_distribution, found.samples)),
        audits=tuple(_audits(found)),
        missing=(),
        unused=tuple(found.unused),
    )
    return _with_missing(report)


def _root(artifact: Artifact) -> str:
    """The digest of the first of the line: families stand together."""
    lineage = artifact.manifest.lineage
    return lineage[0].digest if lineage else artifact.digest


def _depths(artifacts: Sequence[Artifact]) -> dict[str, tuple[int, int]]:
    """By digest, how far an artifact is from the first of its line: in checkpoints, then in stages of any kind."""
    lines = {each.digest: (*each.manifest.lineage, each.as_ancestor()) for each in artifacts}
    return {digest: (sum(each.kind == "checkpoint" for each in line), len(line)) for digest, line in lines.items()}


def _run(file: str, rows: Sequence[BenchRow], depths: Mapping[str, tuple[int, int]]) -> Run:
    """The last line of each row, the first of a line of artifacts on top, a published row after its measured one."""
    latest = {(row.name, row.kind, row.runtime, row.precision, row.device.name): row for row in rows}
    groups: list[list[BenchRow]] = []
    for row in latest.values():
        if row.kind == "measured" or not groups:
            groups.append([row])
        else:
            groups[-1].append(row)
    bases = {row.speedup.baseline for row in latest.values() if row.speedup}
    last = max(depths.values(), default=(0, 0))[0]
    # Who is not in the folder keeps its place, but that the one that speed-ups are over stands before the others.
    groups.sort(key=lambda group: depths.get(group[0].digest or "", (last + 1, group[0].name not in bases)))
    kept = tuple(row for group in groups for row in group)
    return Run(file=file, rows=kept, older=len(rows) - len(kept))


def _subject(artifact: Artifact) -> Subject:
    manifest, pixels = artifact.manifest, artifact.manifest.preprocess
    try:
        curves, missing = _curves(assess.kept(artifact), manifest.calibration, first=not manifest.lineage), ""
    except DataError as error:
        curves, missing = None, str(error).removeprefix(f"{artifact.path}: ")
    return Subject(
        name=artifact.path.name,
        digest=artifact.digest,
        stage=manifest.stage,
        kind=manifest.kind,
        detector=manifest.detector.name,
        precision=manifest.graphs[0].precision if manifest.graphs else "fp32",
        size_bytes=artifact.model_bytes,
        input=f"{pixels.geometry} {pixels.height}x{pixels.width}",
        seed=manifest.seed,
        lineage=manifest.lineage,
        gates=tuple({key: str(value) for key, value in gate.items()} for gate in manifest.metrics.get("gates", ())),
        notes=manifest.notes,
        tools=manifest.tools,
        metrics=manifest.metrics,
        curves=curves,
        curves_missing=missing,
    )


def _curves(kept: Kept, calibration: Calibration, *, first: bool) -> Curves:
    logits, labels = kept.own[0], kept.labels
    line, bins = metrics.roc(logits, labels), metrics.reliability(logits, labels, calibration)
    scores = calibration.score(logits)
    points = tuple(
        OperatingPoint(
            name=name,
            threshold=threshold,
            fpr=1 - metrics.tnr(scores >= threshold, labels),
            tpr=metrics.tpr(scores >= threshold, labels),
            default=name == calibration.operating_point,
        )
        for name, threshold in calibration.thresholds.items()
    )
    # The drop from own to ancestor is the change from ancestor to own.
    delta = None if first else metrics.paired_difference("balanced_accuracy", labels, kept.own, kept.ancestor)
    return Curves(
        roc=tuple(zip(line.fpr.tolist(), line.tpr.tolist(), strict=True)),
        points=points,
        reliability=tuple(zip(bins.score.tolist(), bins.fakes.tolist(), bins.weight.tolist(), strict=True)),
        delta=delta,
    )


def _sweeps(found: Material, subjects: Sequence[Subject]) -> list[Sweep]:
    """From manifests, and from evaluations of artifacts that are there or not; the later of two of the same is shown."""
    names = {subject.digest: subject.name for subject in subjects}
    sweeps: dict[tuple[str, str], Sweep] = {}
    measured = [(subject.digest, _of_manifest(subject.metrics)) for subject in subjects]
    measured += [(each.artifact, each.evaluations) for each in found.evaluations]
    for digest, evaluations in measured:
        if not evaluations:
            continue
        clean = evaluations.get(CLEAN)
        split = ", ".join((clean or next(iter(evaluations.values()))).splits) or "unassigned"
        before = sweeps.get((digest, split))
        own = {name: each.balanced_accuracy for name, each in evaluations.items()}
        generators = {name: each.balanced_accuracy for name, each in clean.generators.items()} if clean else {}
        sweeps[digest, split] = Sweep(
            name=names.get(digest, digest[:12]),
            digest=digest,
            split=split,
            conditions={**(before.conditions if before else {}), **own},
            generators=generators or (before.generators if before else {}),
        )
    return list(sweeps.values())


def _of_manifest(kept: Figures) -> dict[str, Slice]:
    """The evaluations that a manifest keeps, by condition, the clean one first; none of an artifact that was not measured."""
    if "balanced_accuracy" not in kept:
        return {}
    return msgspec.convert({CLEAN: kept, **kept.get("conditions", {})}, dict[str, Slice])


def _distribution(series: Series) -> Distribution:
    milliseconds = series.samples.nanoseconds / 1e6
    return Distribution(
        name=series.name,
        digest=series.digest,
        scenario=series.scenario,
        date=series.date,
        n=int(milliseconds.size),
        quantiles_ms=tuple(np.quantile(milliseconds, np.linspace(0, 1, 101)).tolist()),
    )


def _audits(found: Material) -> list[AuditLine]:
    """Whole audits, one a data set; where there is none, the lines that evaluations carry."""
    whole = {each.index: _audit(each) for each in found.audits}
    if whole:
        return list(whole.values())
    return [AuditLine(headline=line) for line in sorted({each.audit for each in found.evaluations} - {""})]


def _audit(found: Audit) -> AuditLine:
    return AuditLine(
        headline=found.headline,
        images=found.images,
        shortcuts={name: each["value"] for name, each in found.shortcuts.items()},
        leaks=len(found.leaks),
        near=len(found.near),
    )


def _with_missing(report: Report) -> Report:
    """The report with a line for each section that there is nothing for."""
    latency = any(row.latency for run in report.runs for row in run.rows)
    degraded = any(len(sweep.conditions) > 1 for sweep in report.sweeps)
    wanted = (
        (report.runs, "no result lines: `edgedet bench ARTIFACT... --record results.jsonl` measures speed"),
        (latency or not report.runs, "no latency was measured: every row is published or failed"),
        (report.subjects, "no artifacts: their folders give accuracy by generator, curves and lineage"),
        (report.latencies, "no raw samples: `edgedet bench ... --samples samples.npz` keeps every timed call"),
        (degraded, "no robustness: `edgedet eval ARTIFACT --degrade robustness --json eval.json` measures it"),
        (report.audits, "no audit: `edgedet data audit INDEX --json audit.json` says what gives the label away"),
    )
    lines = [line for there, line in wanted if not there]
    lines += [f"no curves of {each.name}: {each.curves_missing}" for each in report.subjects if each.curves_missing]
    return replace(report, missing=tuple(lines))
