"""What every stage ends with: thresholds re-fitted, figures measured, parent and ancestor compared, gates tested.

An artifact keeps its validation logits and those of its full-precision ancestor, so a descendant is compared with both on the
same images without either being run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgedet.artifact import Artifact, Calibration, Draft, Figures, Gate, Manifest
from edgedet.data.index import FAKE, REAL, Index
from edgedet.errors import DataError, GateFailed
from edgedet.evaluate import degrade, gates, slices, thresholds
from edgedet.evaluate.collapse import collapse
from edgedet.evaluate.gates import Evaluations, GateResult
from edgedet.evaluate.slices import Evaluation

VALIDATION = "validation.npz"
LABELS = "labels"
_COMPARISONS = {f"{what}_against_{whom}" for what in ("flips", "mcnemar") for whom in ("parent", "ancestor")}
_COMPARED = {"gates", "threshold_drift", *_COMPARISONS}
"""What a manifest's figures say of two artifacts."""


def inherited(parent: Artifact | None, own: tuple[Gate, ...]) -> tuple[Gate, ...]:
    """The parent's gates, then those of the recipe that it does not have."""
    before = parent.manifest.gates if parent else ()
    return (*before, *(gate for gate in own if gate not in before))


def require_assessable(tested: Sequence[Gate], data: Index) -> None:
    """Refuse before hours of work what :func:`assess` would refuse behind them.

    Raises:
        DataError: a gate names a condition that there is none of; the validation split is missing, or has images without a
            label, or of one class only.
    """
    slices.require_conditions(gates.conditions(tested))
    labels = data.split("val").labels
    for label, name in ((REAL, "real"), (FAKE, "fake")):
        if label not in labels:
            raise DataError(f"{data.root}: expected real and fake images in the validation split, it has no {name} one")


def assess(draft: Draft, data: Index, *, parent: Artifact | None, extra: Mapping[str, object] | None = None) -> Manifest:
    """Measure the artifact in `draft` on the validation split of `data` and return its manifest with calibration and figures.

    Runs it under the conditions that thresholds are fitted on and every one that its gates name. A failed gate is
    written down, not raised: see :func:`require_gates`; so is a collapse (`edgedet.evaluate.collapse`), as the first note.

    Raises:
        DataError: there is no validation split, or the parent was validated on other images.
    """
    preview = draft.preview()
    val = data.split("val")
    conditions = list(dict.fromkeys([*thresholds.VIEWS, *gates.conditions(preview.manifest.gates)]))
    raw = slices.evaluate_all(preview, val, conditions, n_boot=0)
    views = {name: raw[name].logits for name in thresholds.VIEWS}
    calibration = thresholds.fit(views, val.labels, fitted_on=val.digest)
    own = {name: evaluation.recalibrated(calibration) for name, evaluation in raw.items()}
    theirs = parent_evaluations(parent, val, conditions) if parent else None
    # A parent without ancestors is the ancestor, and has just been measured under what it lacked.
    ancestors = ancestor_evaluations(parent, val) if parent and parent.manifest.lineage else theirs
    results = _check(preview.manifest.gates, own, theirs, ancestors)
    metrics: Figures = {
        **preview.manifest.metrics,
        **slices.for_manifest(own),
        **_comparison(own, theirs, ancestors),
        "gates": [{"gate": gates.describe(r.gate), "outcome": r.outcome, "text": r.text} for r in results],
        **(extra or {}),
    }
    metrics |= (lost := collapse(preview.manifest, metrics, parent))
    if parent:
        moved = thresholds.drift(parent.manifest.calibration, calibration, own[degrade.CLEAN].logits, val.labels)
        metrics["threshold_drift"] = [line.__dict__ for line in moved]
    _save(draft.path / VALIDATION, own, ancestors or own, val)
    notes = (*(each["text"] for each in lost.values()), *draft.so_far.notes)
    return msgspec.structs.replace(draft.so_far, calibration=calibration, metrics=metrics, notes=notes)


def carry_over(draft: Draft, parent: Artifact) -> Manifest:
    """The manifest of an artifact that was not measured: the figures are its parent's, and a note says so.

    What the parent was compared with, and its gates, are left out, and so are its logits: who compares with this artifact runs
    it. Those of the first of the line go on.
    """
    manifest = draft.so_far
    if VALIDATION not in parent.manifest.files:
        return manifest
    with np.load(parent.file(VALIDATION), allow_pickle=False) as file:
        np.savez(draft.path / VALIDATION, **{name: file[name] for name in file.files if not name.startswith("own/")})
    figures = {name: value for name, value in parent.manifest.metrics.items() if name not in _COMPARED}
    return msgspec.structs.replace(
        manifest,
        metrics={**figures, **manifest.metrics},
        notes=(*manifest.notes, "not measured: the accuracy figures are the parent's; give --data to measure"),
    )


def require_gates(artifact: Artifact) -> None:
    """Raise when the artifact was written with a failed gate.

    Raises:
        GateFailed: lists the failed ones.
    """
    broken = [gate["text"] for gate in artifact.manifest.metrics.get("gates", ()) if gate["outcome"] == "failed"]
    if broken:
        raise GateFailed(f"{artifact.path} was written, but {len(broken)} of its gates failed: {'; '.join(broken)}")


def parent_evaluations(parent: Artifact, val: Index, conditions: list[str]) -> Evaluations:
    """The parent's evaluations from the logits it keeps; a condition that it was not measured under is measured now.

    Raises:
        DataError: it was validated on other images.
    """
    kept = _load(parent, "own", val)
    missing = [name for name in conditions if name not in kept]
    return {**kept, **slices.evaluate_all(parent, val, missing)} if missing else kept


def ancestor_evaluations(parent: Artifact, val: Index) -> Evaluations:
    """The evaluations of the first of the line, which every descendant carries.

    Raises:
        DataError: it was validated on other images.
    """
    return _load(parent, "ancestor", val)


@dataclass(frozen=True)
class Kept:
    """What an artifact keeps of its validation: clean logits, its own and those of the first of its line.

    labels: int64 (N,); own, ancestor: logits float32 (N,) with the calibration that makes scores of them.
    """

    labels: npt.NDArray[np.int64]
    own: tuple[npt.NDArray[np.float32], Calibration]
    ancestor: tuple[npt.NDArray[np.float32], Calibration]


def kept(artifact: Artifact) -> Kept:
    """What is drawn of an artifact without its data set.

    Raises:
        DataError: it was never validated, or by an edgedet that kept no labels.
    """
    if VALIDATION not in artifact.manifest.files:
        raise DataError(f"{artifact.path}: keeps no validation logits: make it with --data")
    with np.load(artifact.file(VALIDATION), allow_pickle=False) as file:
        if LABELS not in file.files:
            raise DataError(f"{artifact.path}: keeps no validation labels, as older artifacts: make it again")
        head = json.loads(file["head"].tobytes())
        if f"own/{degrade.CLEAN}" not in file.files:
            raise DataError(f"{artifact.path}: was made without --data, and keeps no validation logits: make it with it")
        pairs = [(file[f"{whose}/{degrade.CLEAN}"], msgspec.convert(head[whose], Calibration)) for whose in ("own", "ancestor")]
        return Kept(file[LABELS].astype(np.int64), *pairs)


def _check(
    tested: Sequence[Gate], own: Evaluations, theirs: Evaluations | None, ancestors: Evaluations | None
) -> list[GateResult]:
    """:func:`gates.check`, but for gates against an ancestor whose logits under their condition nobody kept: not measured."""
    known = [gate for gate in tested if gate.against != "ancestor" or ancestors is None or gate.condition in ancestors]
    results = iter(gates.check(known, own, parent=theirs, ancestor=ancestors))
    return [next(results) if gate in known else _unmeasured(gate) for gate in tested]


def _unmeasured(gate: Gate) -> GateResult:
    reason = f"the ancestor was not evaluated under {gate.condition!r}: give this gate to the recipe of the first of the line"
    return GateResult(gate, "not measured", gates.OVERALL, None, None, gate.max_drop or 0.0, 0, reason)


def _ordered(val: Index) -> str:
    """A digest of the images in their order: logits are matched to images by place."""
    return hashlib.sha256("\n".join(f"{row.sha256} {row.label} {row.generator}" for row in val.rows).encode()).hexdigest()


def _comparison(own: Evaluations, theirs: Evaluations | None, ancestors: Evaluations | None) -> Figures:
    clean = own[degrade.CLEAN]
    found: Figures = {}
    for name, other in (("parent", theirs), ("ancestor", ancestors)):
        if other is not None:
            found[f"flips_against_{name}"] = slices.flips(clean, other[degrade.CLEAN])
            found[f"mcnemar_against_{name}"] = slices.mcnemar(clean, other[degrade.CLEAN])
    return found


def _save(path: Path, own: Evaluations, ancestor: Evaluations, val: Index) -> None:
    """Logits by whose and under which condition, labels, the calibrations, and the digest of the images in their order."""
    calibrations = {"own": own[degrade.CLEAN].calibration, "ancestor": ancestor[degrade.CLEAN].calibration}
    head = json.dumps(
        {"images": _ordered(val), **{k: msgspec.to_builtins(v) for k, v in calibrations.items()}}
    )
    arrays: dict[str, Any] = {
        f"{whose}/{name}": evaluation.logits
        for whose, evaluations in (("own", own), ("ancestor", ancestor))
        for name, evaluation in evaluations.items()
    }
    arrays[LABELS] = val.labels.astype(np.int8)
    np.savez(path, head=np.frombuffer(head.encode(), dtype=np.uint8), **arrays)


def _load(artifact: Artifact, whose: str, val: Index) -> dict[str, Evaluation]:
    with np.load(artifact.file(VALIDATION), allow_pickle=False) as file:
        head = json.loads(file["head"].tobytes())
        logits = {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{whose}/")}
    if head["images"] != _ordered(val):
        raise DataError(
            f"{artifact.path} was validated on other images than the validation split of --data, or in another order: "
            "a stage is compared with its parent on the same ones; give the same --data"
        )
    calibration = msgspec.convert(head[whose], Calibration)
    return {
        name: slices.of_logits(values, calibration, val, condition=name, n_boot=0) for name, values in logits.items()
    }
