"""Estimates for a device that is not here: a roofline of its published rows, with its error on rows that it has not seen.

A device with enough architectures of a family has factors of its own. One with few takes those of the RTX 3090 in units of its
own ceilings (``export/*.toml``), and one factor of its own beside them. One with fewer still is refused, with the reason.
Latencies are estimated from latencies, throughputs from throughputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from edgedet import target as targets
from edgedet.bench import published, reference, roofline
from edgedet.bench.published import LatencyRow
from edgedet.bench.roofline import Ceilings, Errors, Family, Fitter, Sample
from edgedet.errors import BenchError
from edgedet.recipe import Config
from edgedet.target import Precision, Target
from edgedet.work import Work

BASE = "rtx-3090"
OWN, FEWEST = 6, 3
"""Architectures of a family that a device needs for three factors of its own, and for one beside those of `BASE`."""

_PEAKS = {"fp32": "fp32", "fp16": "fp16 dense", "int8": "int8 dense"}
_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


class Estimate(Config, frozen=True, kw_only=True):
    """A figure that was calculated, never measured, and how far such figures were off.

    mode: the power mode that it holds for, empty where the device has none. statistic: what was published, and so is estimated.
    median_error, p90_error: relative, on `rows` published figures of `architectures` networks, each left out in turn.
    method: how it was calculated. notes: what weakens it.
    """

    kind: Literal["estimated"] = "estimated"
    value: float
    unit: Literal["ms", "images/s"]
    target: str
    device: str
    mode: str
    precision: str
    family: Family
    median_error: float
    p90_error: float
    rows: int
    architectures: int
    method: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Evidence:
    """The published rows of a device that a family's estimates rest on, all in one power mode."""

    device: str
    mode: str
    samples: tuple[Sample, ...]
    works: tuple[Work, ...]

    def of(self, precision: str) -> list[Sample]:
        """Those of one precision."""
        return [sample for sample in self.samples if sample.precision == precision]


def latency(work: Work, target: Target, precision: Precision) -> Estimate:
    """The latency of one image on `target`, in milliseconds, of a network that does `work`, with everything in `precision`.

    Raises:
        BenchError: nothing is published of such networks on this device, or too little.
    """
    family = roofline.family(work)
    evidence = _evidence(target.name, family)
    asked = Sample("", precision, roofline.terms(work, _ceilings(target, evidence.mode, precision)))
    own = {sample.architecture for sample in evidence.of(precision)}
    notes: list[str] = []
    fitter: Fitter = roofline.linear
    if len(own) >= OWN:
        known, base = evidence.of(precision), evidence
        method = "roofline of its own published rows"
    else:
        base = _evidence(BASE, family)
        if not base.of(precision):
            raise BenchError(f"no {precision} latency of a {family} network is published for the {BASE}: nothing to go by")
        known, fitter = list(evidence.samples), roofline.scaled(roofline.linear(base.samples))
        method = f"roofline of the {BASE}'s published rows in units of this device's ceilings, times one factor from its own"
        if not own:
            others = " and ".join(sorted({sample.precision for sample in known}))
            notes.append(f"no {precision} row of a {family} network is published for it: factor and error are of {others}")
    errors = roofline.leave_one_out(known, fitter, lambda sample: not own or sample.precision == precision)
    if errors is None:
        raise BenchError(_too_little(target, family, {sample.architecture for sample in known}))
    notes += _outside(work, (*base.works, *evidence.works))
    return _estimate(
        fitter(known)(asked), "ms", errors, target=target, mode=evidence.mode, precision=precision, family=family,
        method=method, notes=notes,
    )


def throughput(work: Work, target: Target) -> Estimate:
    """Images per second of PyTorch in mixed precision, at a batch that fills the card; published for the RTX 3090 alone.

    Raises:
        BenchError: nothing is published of such networks on this device.
    """
    family = roofline.family(work)
    if target.name != BASE:
        raise BenchError(f"no throughputs to estimate from are kept of {target.device}: of the {BASE} there are")
    samples, works = _throughputs(family)
    errors, names = roofline.leave_one_out(samples, roofline.linear), {sample.architecture for sample in samples}
    if len(names) < OWN or errors is None:
        raise BenchError(_too_little(target, family, names))
    ceilings, batch = _ceilings(target, "", "fp16"), 256
    took = roofline.linear(samples)(Sample("", "amp", roofline.terms(work, ceilings, batch)))
    return _estimate(
        1000 / took, "images/s", errors, target=target, mode="", precision="amp", family=family,
        method=f"roofline of its published throughputs (PyTorch, mixed precision), at a batch of {batch}",
        notes=_outside(work, works),
    )


def _estimate(
    value: float,
    unit: Literal["ms", "images/s"],
    errors: Errors,
    *,
    target: Target,
    mode: str,
    precision: str,
    family: Family,
    method: str,
    notes: Iterable[str],
) -> Estimate:
    return Estimate(
        value=value,
        unit=unit,
        target=target.name,
        device=target.device,
        mode=mode,
        precision=precision,
        family=family,
        median_error=errors.median,
        p90_error=errors.p90,
        rows=errors.rows,
        architectures=errors.architectures,
        method=method,
        notes=tuple(notes),
    )


@cache
def _evidence(name: str, family: Family) -> _Evidence:
    """The rows of the target called `name`, in the power mode that most of its architectures were measured in.

    Raises:
        BenchError: there are fewer than :data:`FEWEST` architectures.
    """
    target = targets.load(name)
    known = {_mode_word(each.at) for each in target.ceilings}
    theirs = [row for row in published.latencies() if row.target == name and _counts(row, family)]
    by_mode = ([row for row in theirs if _mode_word(row.mode) == mode] for mode in sorted(known))
    rows = max(by_mode, key=lambda some: len({row.architecture for row in some}), default=[])
    names = {row.architecture for row in rows}
    if len(names) < FEWEST:
        raise BenchError(_too_little(target, family, names))
    works = [published.work_of(row.architecture, row.height, row.width) for row in rows]
    samples = tuple(_sample(row, work, target) for row, work in zip(rows, works, strict=True))
    return _Evidence(target.device, rows[0].mode, samples, tuple(works))


def _counts(row: LatencyRow, family: Family) -> bool:
    """Whether an estimate may rest on it: one image at a time, by TensorRT, of a network of this family."""
    if row.batch != 1 or not row.architecture or row.precision not in _PEAKS:
        return False
    if "TensorRT" not in published.sources()[row.source].runtime:
        return False
    return roofline.family(published.work_of(row.architecture, row.height, row.width)) == family


def _sample(row: LatencyRow, work: Work, target: Target) -> Sample:
    ceilings = _ceilings(target, row.mode, row.precision)
    return Sample(row.architecture, row.precision, roofline.terms(work, ceilings), row.latency_ms)


@cache
def _throughputs(family: Family) -> tuple[list[Sample], list[Work]]:
    """The best published throughput of every architecture of `family` at each size, as milliseconds an image."""
    best: dict[tuple[str, int], reference.PublishedRow] = {}
    for row in reference.load(BASE):
        before = best.get((row.model, row.img_size))
        if before is None or row.samples_per_sec > before.samples_per_sec:
            best[row.model, row.img_size] = row
    ceilings, samples, works = _ceilings(targets.load(BASE), "", "fp16"), [], []
    for row in best.values():
        work = published.work_of(f"timm/{row.model}", row.img_size, row.img_size)
        if roofline.family(work) == family:
            samples.append(Sample(row.model, "amp", roofline.terms(work, ceilings, row.batch_size), 1000 / row.samples_per_sec))
            works.append(work)
    return samples, works


def _ceilings(target: Target, mode: str, precision: str) -> Ceilings:
    """Of `target` in a power mode.

    Raises:
        BenchError: one of them is not known.
    """
    found = {}
    for figure in (_PEAKS[precision], "bandwidth"):
        wanted = _mode_word(mode)
        values = [each.value for each in target.ceilings if each.figure == figure and _mode_word(each.at) in ("", wanted)]
        if not values:
            raise BenchError(f"export/{target.name}.toml has no ceiling {figure!r} in mode {wanted or 'any'}: nothing to go by")
        found[figure] = values[0]
    # 1 TFLOPS is 1e9 operations a millisecond, 1 GB/s is 1e6 bytes.
    return Ceilings(found[_PEAKS[precision]] * 1e9, found["bandwidth"] * 1e6, _BYTES[precision])


def _mode_word(text: str) -> str:
    """The mode in ``MAXN, 1300 MHz`` or ``MAXN (assumed)``."""
    return text.partition(",")[0].partition(" (")[0]


def _outside(work: Work, works: Sequence[Work]) -> list[str]:
    """A note when `work` is not within what was published."""
    found = []
    for name, unit, scale in (("macs", "MMACs", 1e6), ("kernels", "kernels", 1)):
        least, most = (limit(getattr(each, name) for each in works) / scale for limit in (min, max))
        mine = getattr(work, name) / scale
        if not least <= mine <= most:
            found.append(
                f"extrapolated: {mine:,.0f} {unit}, published are {least:,.0f} to {most:,.0f}: the error does not cover that"
            )
    return found


def _too_little(target: Target, family: Family, architectures: Iterable[str]) -> str:
    names = sorted(name.rpartition("/")[2] for name in architectures)
    said = f"{len(names)} ({', '.join(names)})" if names else "none"
    return (
        f"no estimate for a {family} network on {target.device}: {FEWEST} architectures of it with published latencies "
        f"are needed, there are {said}; throughputs do not count: measure on the device (edgedet bundle, edgedet self-test)"
    )
