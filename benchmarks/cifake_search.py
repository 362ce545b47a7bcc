"""A CIFAKE detector of 100 KB, found by `edgedet compress`: ``python benchmarks/cifake_search.py --data CIFAKE --out RUNS``.

Two teachers are trained, where they are not there yet (``--teachers`` takes others), and made one, for which the best detector
within the limits is searched, in ``--budget-minutes``. What it finds is set beside its teacher on the test split, as it is and
as `web` and `hard` platforms show it, and timed in one run with it, each at its best thread count: let nothing else run then.

Stopped at any moment, the same command goes on. Writes benchmarks/results/cifake-search.json and draws docs/study.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

import marks
import msgspec
from compression_study import TIERS, tiers, timing
from study_page import over_seeds

from edgedet import recipe
from edgedet.artifact import Artifact, tool_versions
from edgedet.bench import probe
from edgedet.bench import stage as bench
from edgedet.bench.table import grid
from edgedet.data.archive import open_data
from edgedet.data.index import Index
from edgedet.evaluate import slices, thresholds
from edgedet.evaluate.assess import parent_evaluations
from edgedet.evaluate.degrade import CLEAN
from edgedet.evaluate.slices import Evaluation
from edgedet.metrics import Figure
from edgedet.search import halving, report
from edgedet.search import run as search
from edgedet.search.halving import Limits
from edgedet.search.run import SETTINGS, TEACHER
from edgedet.search.space import CompressRecipe
from edgedet.training import ensemble
from edgedet.training import stage as training
from edgedet.training.stage import TrainRecipe

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cifake-search.json"
BEGIN, END = "<!-- search -->", "<!-- /search -->"
TEACHERS = (("cifake-teacher-shift", "cifake-teacher-sturdy"), ("cifake-teacher-web",))
"""Of each the recipes that it is trained by, one after the other."""
RECIPE = "cifake-compress-100kb"
COLUMNS = (
    "detector", "size KB", "p50 ms (threads)", "times as fast [95 %]", "clean %", "`web` %", "`hard` %",
    "clean %, threshold for clean", "AUC %", "TPR % at 1 % FPR", "verdict flips %",
)  # fmt: skip
CANDIDATES = ("candidate", "validation %", "lost [bound]", "p50 ms", "times as fast", "size KB", "round")

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if not given.data:
        print("skipped: give --data or set EDGEDET_DATA")
        return
    data = open_data(given.data)
    teacher = together([Artifact.load(path) for path in given.teachers] or trained(data, given.out), data, given.out)
    limits = Limits(size_kb=given.max_size_kb, speedup=given.min_speedup, drop=given.max_drop)
    config = recipe.load("train", given.recipe, CompressRecipe)
    folder = given.out / "search"
    resume = (folder / SETTINGS).is_file()
    found = search.run(config, teacher, data, folder, limits=limits, budget_minutes=given.budget_minutes, resume=resume)
    record = {
        **json.loads(msgspec.json.encode(report.record(found, limits))),
        "budget_minutes": given.budget_minutes,
        "date": date.today().isoformat(),
        "device": probe.device().name,
        "tools": tool_versions("torch", "onnx", "onnxruntime", "torch-pruning"),
    }
    results = list(found.results.values())
    if results:
        best = found.chosen or halving.nearest(results, limits)
        record["shown"] = best.name
        record["rows"] = beside(Artifact.load(folder / TEACHER), Artifact.load(folder / best.path), data, given.seconds)
    given.results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.results == RESULTS:
        marks.put(ROOT / "docs" / "study.md", BEGIN, END, markdown(record))


def trained(data: Index, out: Path) -> list[Artifact]:
    """The teachers, each trained where it is not there."""
    return [_by(recipes, data, out) for recipes in TEACHERS]


def _by(recipes: Sequence[str], data: Index, out: Path) -> Artifact:
    """What the last of `recipes` makes of what those before it made."""
    *before, name = recipes
    path = out / name
    if path.exists():
        return Artifact.load(path)
    parent = _by(before, data, out) if before else None
    return training.run(recipe.load("train", name, TrainRecipe), parent, data, path, resume=True)


def together(teachers: Sequence[Artifact], data: Index, out: Path) -> Artifact:
    """The one teacher of several."""
    if len(teachers) == 1:
        return teachers[0]
    path = out / "ensemble"
    return Artifact.load(path) if path.exists() else ensemble.run(teachers, data, path)


def beside(teacher: Artifact, found: Artifact, data: Index, seconds: float) -> list[Record]:
    """Both graphs on the test split in all tiers, and in one run."""
    val, test, both = data.split("val"), data.split("test"), (teacher, found)
    scored = [slices.evaluate_all(each, test, TIERS) for each in both]
    timed = bench.run(both, data=val, reference=None, seconds=seconds, batches=(1,))
    rows = []
    for artifact, seen, row in zip(both, scored, timed, strict=True):
        rows.append(
            {
                "name": artifact.path.name,
                "detector": artifact.manifest.detector.name,
                "digest": artifact.digest,
                "bytes": artifact.model_bytes,
                "n": len(seen["clean"].labels),
                "tiers": tiers(seen),
                "clean_alone": clean_alone(artifact, seen["clean"], val, test),
                "flips": slices.flips(seen["clean"], scored[0]["clean"]),
                **timing(row),
            }
        )
    return rows


def clean_alone(artifact: Artifact, seen: Evaluation, val: Index, test: Index) -> Figure:
    """Balanced accuracy on clean test images at a threshold that is fitted on clean validation images, not on all tiers."""
    known = parent_evaluations(artifact, val, [CLEAN])[CLEAN]
    calibration = thresholds.fit({CLEAN: known.logits}, known.labels, fitted_on=None)
    return cast(Figure, slices.of_logits(seen.logits, calibration, test).overall["balanced_accuracy"])


def markdown(record: Record) -> str:
    """Teacher and student beside each other, then every candidate of the search."""
    limits = record["limits"]
    asked = (
        f"at most {limits['size_kb']:g} KB, {limits['speedup']:g} times as fast, an upper bound of at most "
        f"{100 * limits['drop']:g} points for what is lost"
    )
    chosen = f"chosen: `{record['chosen']}`" if record["chosen"] else f"nothing fits; nearest: `{record.get('shown', '–')}`"
    notes = [f"- asked for: {asked}; {chosen}"]
    lines = []
    if rows := record.get("rows"):
        lines += [*grid(COLUMNS, [_cells(row) for row in rows], right=[at > 0 for at in range(len(COLUMNS))]), ""]
        notes.append(f"- {rows[0]['n']:,} test images, {record['date']}, {record['device']}")
    notes.append(f"- {', '.join(f'{tool} {version}' for tool, version in record['tools'].items())}")
    notes += [f"- {note}" for note in record["notes"]]
    notes += [f"- not made: {each['name']}: {each['reason']}" for each in record["failures"]]
    tried = sorted(record["candidates"], key=lambda each: -each["worst"])
    lines += grid(CANDIDATES, [_tried(each) for each in tried], right=[at > 0 for at in range(len(CANDIDATES))])
    return "\n".join([*lines, "", *notes, ""])


def _cells(row: Record) -> list[str]:
    ratio, clean = row["speedup"], row["tiers"]["clean"]
    return [
        f"`{row['name']}` ({row['detector']})",
        f"{row['bytes'] / 1000:,.1f}",
        f"{row['p50_ms']:.3g} ({row['threads']})",
        f"{ratio['value']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}]",
        *(over_seeds([row["tiers"][tier]["balanced_accuracy"]]) for tier in TIERS),
        over_seeds([row["clean_alone"]]),
        over_seeds([clean["auc"]]),
        over_seeds([clean["tpr_at_fpr1"]]),
        over_seeds([row["flips"]]),
    ]


def _tried(each: Record) -> list[str]:
    return [
        f"`{each['name']}`",
        f"{100 * each['worst']:.2f}",
        f"{100 * each['drop']:.2f} [{100 * each['drop_bound']:.2f}]",
        f"{each['latency_ms']:.4f}",
        f"{each['speedup']:.1f}",
        f"{each['size_bytes'] / 1000:.1f}",
        str(each["rung"] + 1),
    ]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="CIFAKE: folder, index or archive")
    parser.add_argument("--teachers", nargs="+", type=Path, default=(), help="trained checkpoints; else they are trained")
    parser.add_argument("--recipe", default=RECIPE, help="of the search")
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    parser.add_argument("--max-size-kb", type=float, default=100.0)
    parser.add_argument("--min-speedup", type=float, default=40.0)
    parser.add_argument("--max-drop", type=float, default=0.01, help="its 95 %% bound")
    parser.add_argument("--budget-minutes", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="a row, when the two are timed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
