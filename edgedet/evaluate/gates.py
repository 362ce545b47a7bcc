"""Gates: what an artifact must hold against its parent and its full-precision ancestor before it may leave.

A gate tests the confidence bound, not the point: the upper 95 % bound of a drop or of a flip rate, the lower one of a figure.
Comparisons are paired: both models on the same images and the same resamples. In scope ``worst_generator`` a gate is tested
on every generator (its fakes with all reals; a flip rate on its fakes alone, and on the reals alone) and the worst one decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.markup import escape
from rich.table import Table

from edgedet import metrics
from edgedet.artifact import Gate
from edgedet.data.index import FAKE, REAL
from edgedet.errors import DataError
from edgedet.evaluate.slices import Evaluation, require_same_images
from edgedet.metrics import Figure

Evaluations = Mapping[str, Evaluation]
"""By condition."""

Outcome = Literal["passed", "failed", "not measured"]
Mask = npt.NDArray[np.bool_]
OVERALL = "overall"
REALS = "(real)"


@dataclass(frozen=True)
class GateResult:
    """One gate, tested.

    slice: ``overall``, or the generator that decided; value: the figure, the drop or the rate; bound: the end of its
    interval that is compared with `limit`; reason: why it could not be measured, empty otherwise.
    """

    gate: Gate
    outcome: Outcome
    slice: str
    value: float | None
    bound: float | None
    limit: float
    n: int
    reason: str = ""

    @property
    def text(self) -> str:
        """One line: what is tested, and what came of it."""
        if self.outcome == "not measured":
            return f"{describe(self.gate)}: not measured: {self.reason}"
        sign = {"passed": "holds", "failed": "FAILS"}[self.outcome]
        value, bound = self.shown
        return f"{describe(self.gate)}: {sign}: {value}, bound {bound} ({self.slice}, n = {self.n:,})"

    @property
    def shown(self) -> tuple[str, str]:
        """Value and bound for people; a dash for what was not measured."""
        value, bound = ("-" if number is None else _beside(number, self.limit) for number in (self.value, self.bound))
        return value, bound


def conditions(gates: Iterable[Gate]) -> list[str]:
    """The conditions that must be evaluated to test `gates`, in order, each once."""
    return list(dict.fromkeys(gate.condition for gate in gates))


def check(
    gates: Sequence[Gate],
    child: Evaluations,
    *,
    parent: Evaluations | None = None,
    ancestor: Evaluations | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> list[GateResult]:
    """Test each gate; the caller raises GateFailed when one of the results has failed.

    `flip_rate` compares with the parent. A gate against a parent or an ancestor that there is none of, or whose metric too
    few reals measure, is ``not measured``: neither passed nor failed, and shown as such.

    Raises:
        DataError: an evaluation is not on the validation split, a condition is missing, or images differ between the models.
    """
    for evaluations in (child, parent or {}, ancestor or {}):
        for evaluation in evaluations.values():
            _require_val(evaluation)
    others = {"parent": parent, "ancestor": ancestor}
    return [_check(gate, child, others, n_boot, seed) for gate in gates]


def failed(results: Iterable[GateResult]) -> list[GateResult]:
    """Those that failed."""
    return [result for result in results if result.outcome == "failed"]


def describe(gate: Gate) -> str:
    """A gate in words, as in ``auc drop against ancestor <= 0.005 (worst generator, web)``."""
    scope = f"({gate.scope.replace('_', ' ')}, {gate.condition})"
    if gate.max_drop is not None:
        return f"{gate.metric} drop against {gate.against} <= {gate.max_drop:.15g} {scope}"
    if gate.max_value is not None:
        other = " against parent" if gate.metric == "flip_rate" else ""
        return f"{gate.metric}{other} <= {gate.max_value:.15g} {scope}"
    return f"{gate.metric} >= {gate.min_value:.15g} {scope}"


def table(results: Sequence[GateResult]) -> Table:
    """The results for people: what was tested, on which slice, the figure, its bound and the outcome."""
    shown = Table(title="gates: the 95 % bound is tested, not the point")
    for column in ("gate", "slice", "n", "value", "bound", "outcome"):
        shown.add_column(column, justify="right" if column in ("n", "value", "bound") else "left")
    colours = {"passed": "green", "failed": "bold red", "not measured": "yellow"}
    for result in results:
        outcome = f"[{colours[result.outcome]}]{result.outcome}[/]"
        if result.reason:
            outcome += f": {result.reason}"
        shown.add_row(describe(result.gate), escape(result.slice), f"{result.n:,}", *result.shown, outcome)
    return shown


def _beside(number: float, limit: float) -> str:
    """`number` with four decimals, or with as many more as it takes to show on which side of `limit` it is."""
    texts = (f"{number:.{decimals}f}" for decimals in range(4, 18))
    return next((text for text in texts if _side(float(text), limit) == _side(number, limit)), repr(number))


def _side(number: float, limit: float) -> int:
    return (number > limit) - (number < limit)


def _require_val(evaluation: Evaluation) -> None:
    if evaluation.splits != ("val",):
        held = ", ".join(split or "no split" for split in evaluation.splits)
        raise DataError(
            f"gates are tested on the val split, this evaluation holds images of {held}: train was learned, and test is "
            "reported once and decides nothing; use --split val"
        )


def _check(
    gate: Gate, child: Evaluations, others: Mapping[str, Evaluations | None], n_boot: int, seed: int
) -> GateResult:
    against = "parent" if gate.metric == "flip_rate" else gate.against
    mine = _of(child, gate.condition, "the artifact")
    other = others.get(against)
    if against != "absolute" and other is None:
        return _result(gate, OVERALL, Figure(value=None, low=None, high=None, n=0, reason=f"there is no {against}"))
    its = _of(other, gate.condition, f"the {against}") if other is not None else None
    if its is not None:
        require_same_images(mine, its)
    results = [_result(gate, name, _figure(gate, mine, its, mask, n_boot, seed)) for name, mask in _slices(gate, mine)]
    return max(results, key=_badness)


def _of(evaluations: Evaluations, condition: str, whose: str) -> Evaluation:
    if condition not in evaluations:
        there = ", ".join(evaluations) or "none"
        raise DataError(f"a gate needs {whose} evaluated under {condition!r}, it was evaluated under: {there}")
    return evaluations[condition]


def _slices(gate: Gate, evaluation: Evaluation) -> list[tuple[str, Mask]]:
    """What the gate is tested on. A flip rate is not diluted by the reals: they are a slice of their own."""
    whole = [(OVERALL, np.ones(len(evaluation.labels), dtype=np.bool_))]
    if gate.scope == "overall":
        return whole
    masks = evaluation.slices()
    if gate.metric != "flip_rate":
        return list(masks.items()) or whole
    alone = {name: mask & (evaluation.labels == FAKE) for name, mask in masks.items()}
    reals = evaluation.labels == REAL
    return [*alone.items(), *([(REALS, reals)] if reals.any() else [])] or whole


def _figure(
    gate: Gate, child: Evaluation, other: Evaluation | None, mask: Mask, n_boot: int, seed: int
) -> Figure:
    """The figure that the gate tests, on one slice."""
    labels, logits = child.labels[mask], child.logits[mask]
    if other is None:
        figure: Figure = metrics.summary(logits, labels, child.calibration, n_boot=n_boot, seed=seed)[gate.metric]
        return figure
    if gate.metric == "flip_rate":
        return metrics.flip_rate(other.verdicts[mask], child.verdicts[mask])
    before, after = (other.logits[mask], other.calibration), (logits, child.calibration)
    return metrics.paired_difference(gate.metric, labels, before, after, n_boot=n_boot, seed=seed)


def _result(gate: Gate, name: str, figure: Figure) -> GateResult:
    upper = gate.min_value is None
    limit = next(value for value in (gate.max_drop, gate.max_value, gate.min_value) if value is not None)
    bound = figure["high"] if upper else figure["low"]
    if bound is None:
        reason = figure["reason"] or "no interval was computed"
        return GateResult(gate, "not measured", name, figure["value"], None, limit, figure["n"], reason)
    holds = bound <= limit if upper else bound >= limit
    return GateResult(gate, "passed" if holds else "failed", name, figure["value"], bound, limit, figure["n"])


def _badness(result: GateResult) -> float:
    """Orders the slices of one gate: how far the bound is beyond the limit; what is not measured never decides."""
    if result.bound is None:
        return -np.inf
    return result.bound - result.limit if result.gate.min_value is None else result.limit - result.bound
