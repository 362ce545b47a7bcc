"""Evaluations and drift as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgedet.artifact import Figures
from edgedet.evaluate.slices import Evaluation
from edgedet.evaluate.thresholds import Drift
from edgedet.metrics import Discordant, Figure

_COLUMNS = {
    "balanced_accuracy": "balanced acc. %",
    "auc": "AUC %",
    "ap": "AP %",
    "f1": "F1 %",
    "tnr": "TNR %",
    "tpr": "TPR %",
    "tpr_at_fpr1": "TPR@1%FPR",
    "tpr_at_fpr5": "TPR@5%FPR",
    "ece": "ECE %",
}


def evaluation_table(evaluation: Evaluation) -> Table:
    """One row over all images, one a generator (the worst is marked), and what guessing the larger class would give."""
    splits = ", ".join(split or "unassigned" for split in evaluation.splits)
    shown = Table(title=f"{evaluation.condition}, split {splits}: 95 % bootstrap intervals")
    shown.add_column("slice")
    for column in ("reals", "fakes", *_COLUMNS.values()):
        shown.add_column(column, justify="right")
    shown.add_row("overall", *_cells(evaluation.overall), end_section=True)
    worst = evaluation.worst_generator
    for name, figures in evaluation.by_generator.items():
        shown.add_row(escape(name) + (" (worst)" if name == worst else ""), *_cells(figures))
    majority = 100 * evaluation.overall["majority_accuracy"]
    shown.caption = f"guessing the larger class: accuracy {majority:.1f} %, balanced accuracy 50.0 %"
    notes = {figures[name]["reason"] for figures in [evaluation.overall] for name in _COLUMNS if figures[name]["reason"]}
    if notes:
        shown.caption += "\n" + "\n".join(sorted(notes))
    return shown


def drift_table(drifts: Sequence[Drift]) -> Table:
    """How the thresholds moved, and what the child's rates would be had they not been fitted again."""
    shown = Table(title="thresholds, as logits: the parent's and the child's own")
    columns = ("operating point", "parent", "child", "TNR % kept", "TNR % refitted", "TPR % kept", "TPR % refitted")
    for column in columns:
        shown.add_column(column, justify="left" if column == "operating point" else "right")
    for each in drifts:
        rates = (each.kept_tnr, each.refitted_tnr, each.kept_tpr, each.refitted_tpr)
        cuts = (f"{each.parent_cut:.3f}", f"{each.child_cut:.3f}")
        shown.add_row(each.operating_point, *cuts, *(f"{100 * rate:.1f}" for rate in rates))
    return shown


def in_words(each: Discordant) -> str:
    """What McNemar's test compares, and its probability: ``12 only the other gets right, 3 only this; p = 0.035``."""
    return f"{each['only_before']:,} only the other gets right, {each['only_after']:,} only this; p = {each['p']:.2g}"


def percent(figure: Figure) -> str:
    """``97.1 [96.5, 97.6]``; a dash when it was not measured."""
    if figure["value"] is None:
        return "-"
    point = f"{100 * figure['value']:.1f}"
    if figure["low"] is None or figure["high"] is None:
        return point
    return f"{point} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _cells(figures: Figures) -> list[str]:
    return [f"{figures['n_real']:,}", f"{figures['n_fake']:,}", *(percent(figures[name]) for name in _COLUMNS)]
