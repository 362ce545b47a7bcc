"""The results as Markdown, drawn from their file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FLOAT = "float"
TRAINED = ", trained"
"""Behind the name of a row, that of the same graph trained."""

WORTH_TRAINING = 0.5
COLUMNS = (
    "tool", "chosen", "INT8 layers", "mean abs. logit error", "max", "AUC %", "bal. acc. %", "flips", "p50 ms",
    "p50 / edgedet's",
)  # fmt: skip
_RIGHT = COLUMNS[2:]
_NONE = "–"


def markdown(results: Mapping[str, Any]) -> str:
    """One table a case, each behind a line that says what was measured; a verdict on flips behind it."""
    return "\n".join(part for case in results["cases"] for part in _case(case))


def _case(case: Mapping[str, Any]) -> list[str]:
    trained = "" if case["trained"] else ", untrained: its logit error only"
    trained += ", channels rescaled: the same in float" if case.get("rescaled") else ""
    title = f"**{case['name']}** on {case['data']} ({case['pixels']} px, {case['n']:,} test images{trained}; {case['date']})"
    head = f"| {' | '.join(COLUMNS)} |"
    rule = f"| {' | '.join('---:' if column in _RIGHT else '---' for column in COLUMNS)} |"
    found = (*_fewest_flips(case), *_won_back(case), *_failures(case), *_versions(case), *case["notes"])
    notes = [f"- {line}" for line in found]
    return [title, "", head, rule, *(_row(row) for row in case["rows"]), "", *notes, *([""] if notes else [])]


def _row(row: Mapping[str, Any]) -> str:
    layers = row.get("layers")
    ratio = row.get("times_slower")
    cells = [
        row["name"],
        row.get("chosen", _NONE) if row.get("error") is None else "failed",
        f"{layers[0]} of {layers[1]}" if layers else _NONE,
        _number(row, "mean_error", "{:.3g}"),
        _number(row, "max_error", "{:.3g}"),
        _number(row, "auc", "{:.2f}", 100),
        _number(row, "balanced_accuracy", "{:.2f}", 100),
        _number(row, "flips", "{}"),
        _number(row, "p50_ms", "{:.3f}"),
        f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else _NONE,
    ]
    return f"| {' | '.join(cells)} |"


def _number(row: Mapping[str, Any], key: str, form: str, factor: int = 1) -> str:
    value = row.get(key)
    return _NONE if value is None else form.format(value * factor if factor != 1 else value)


def _fewest_flips(case: Mapping[str, Any]) -> Sequence[str]:
    """Whether edgedet changed the fewest verdicts; where it did not, who did."""
    counted = [row for row in case["rows"] if row.get("flips") is not None and row["name"] != FLOAT]
    own, others = ([row for row in counted if row["own"] is kind] for kind in (True, False))
    if not own or not others:
        return ()
    best, rival = (min(rows, key=lambda row: row["flips"]) for rows in (own, others))
    ours, theirs = f"{best['flips']} by {best['name']}", f"{rival['flips']} by {rival['name']}"
    if best["flips"] > rival["flips"]:
        return (f"edgedet has **not** the fewest flips: {ours}, {theirs}",)
    return (f"fewest flips: {ours}; {'as few' if best['flips'] == rival['flips'] else 'the next'}: {theirs}",)


def _won_back(case: Mapping[str, Any]) -> Sequence[str]:
    """Where rounding cost more than half a point of balanced accuracy, and the same graph was trained: what that won back."""
    points = {row["name"]: 100 * row["balanced_accuracy"] for row in case["rows"] if row.get("balanced_accuracy") is not None}
    lines = []
    for name in (name for name in points if FLOAT in points and name + TRAINED in points):
        lost, won = points[FLOAT] - points[name], points[name + TRAINED] - points[name]
        if lost > WORTH_TRAINING:
            back = f"training won {won:.2f} back ({won / lost:.0%})"
            lines.append(f"{name}: rounding cost {lost:.2f} points of balanced accuracy, {back}")
    return lines


def _failures(case: Mapping[str, Any]) -> Sequence[str]:
    whole = [f"{row['name']}: {row['error']}" for row in case["rows"] if row.get("error")]
    parts = [
        f"{row['name']}, {tried['name']}: {tried['error']}"
        for row in case["rows"]
        if not row.get("error")
        for tried in row.get("candidates", ())
        if tried["error"]
    ]
    return (*whole, *parts)


def _versions(case: Mapping[str, Any]) -> Sequence[str]:
    """One line for the rows of the same versions."""
    together: dict[str, list[str]] = {}
    for row in case["rows"]:
        versions = ", ".join(f"{package} {version}" for package, version in row.get("versions", {}).items())
        together.setdefault(versions, []).append(row["name"])
    return [f"{'; '.join(names)}: {versions}" for versions, names in together.items() if versions]
