"""What compression costs, step by step: ``python benchmarks/compression_study.py CASE --data DATA --teachers ARTIFACT...``.

A case is a detector on a data set. ``cifake`` distils a student from one teacher; ``lite0`` and ``npr`` begin with trained
detectors of content-paired crops, one a seed. Each is pruned to 75, 50 and 25 % of its multiply-accumulates, taught again, and
made INT8 after training, by training, and after pruning; with every seed. All rows are graphs for this machine.

The test split is scored as it is and as `web` and `hard` platforms show it, and a fixed part of it under single degradations,
of which the worst is named. Thresholds are those of each artifact's own validation images. ``--latency`` times the first seed's
rows in turns with their teacher; nothing else should run then.

Writes benchmarks/results/study.json after every row and draws docs/study.md. What is there is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import study_page

from edgedet import recipe
from edgedet.artifact import Artifact, tool_versions
from edgedet.bench import probe
from edgedet.bench import stage as bench
from edgedet.bench.result import BenchRow
from edgedet.compress import distill, prune, qat
from edgedet.compress.distill import DistillRecipe
from edgedet.compress.prune import PruneRecipe
from edgedet.compress.qat import QatRecipe
from edgedet.data.archive import open_data
from edgedet.data.index import Index
from edgedet.errors import NothingToPrune, ParityError, QuantizeError
from edgedet.evaluate import slices
from edgedet.evaluate.slices import Evaluation
from edgedet.export import stage as export
from edgedet.export.stage import ExportConfig
from edgedet.target import Precision

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "study.json"
TIERS = ("clean", "web", "hard")
DEGRADATIONS = (
    "jpeg-50", "webp-50", "resize-0.5-bilinear", "resize-1.5-bicubic", "blur-1", "noise-0.02", "crop-0.8", "screenshot",
    "double-75-85",
)  # fmt: skip
PART = 4000
"""Test images under each of those, at most."""
KEEP = (75, 50, 25)
TEACHER = "teacher"
FIGURES = ("balanced_accuracy", "auc", "tpr_at_fpr1")

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A detector on a data set: what of the recipes is changed for it.

    student: how it is distilled; None where the teachers are themselves what is compressed.
    """

    name: str
    student: tuple[str, ...] | None
    prune: tuple[str, ...]
    qat: tuple[str, ...]


CASES = {
    each.name: each
    for each in (
        Case(
            "cifake",
            student=("detector.arguments.width=32", "training.epochs=6", "training.augment={hflip=true, jpeg=0.5}"),
            prune=("training.epochs=3", "training.warmup_epochs=0.2", "training.augment={hflip=true, jpeg=0.5}"),
            qat=("training.epochs=1", "training.batch_size=128"),
        ),
        *(
            Case(
                name,
                student=None,
                prune=(
                    "importance=taylor", "training.epochs=2", "training.batch_size=32", "training.lr=3e-4",
                    "training.monitor=auc", "training.ema=0.99", f"training.amp={amp}",
                    "distillation.feature_weight=0", "distillation.temperature=4",
                ),
                qat=("training.epochs=1",),
            )
            for name, amp in (("lite0", "false"), ("npr", "true"))  # as they were trained: see `train/`
        ),
    )
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    found = load(given.results)
    if given.case is not None:
        if not given.data:
            print("skipped: give --data or set EDGEDET_DATA")
            return
        teachers = [Artifact.load(each) for each in given.teachers]
        study = Study(CASES[given.case], open_data(given.data), given.out / given.case, teachers)
        case = found["cases"].setdefault(given.case, {"rows": []})
        if given.latency:
            case["latency"] = study.latency(given.seconds)
        else:
            case |= {"date": date.today().isoformat(), "device": probe.device().name, "test": study.test.digest}
            case["tools"] = tool_versions("torch", "onnx", "onnxruntime", "torch-pruning")
            for row in study.rows(given.seeds, case["rows"]):
                case["rows"] = [each for each in case["rows"] if _place(each) != _place(row)] + [row]
                save(given.results, found)
        save(given.results, found)
    if given.results == RESULTS:
        study_page.draw(found, ROOT / "docs")


def tiers(scored: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """The figures of `FIGURES` by tier."""
    return {name: {figure: each.overall[figure] for figure in FIGURES} for name, each in scored.items()}


def timing(row: BenchRow) -> dict[str, Any]:
    """p50 in ms, on how many threads, and how many times as fast as the first row."""
    assert row.latency is not None
    assert row.speedup is not None
    speedup = {"value": row.speedup.value, "low": row.speedup.low, "high": row.speedup.high}
    return {"p50_ms": row.latency.p50_ms, "threads": row.threads, "speedup": speedup}


def load(path: Path) -> dict[str, Any]:
    """What is recorded; no case when there is no file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cases": {}}
    return found


def save(path: Path, found: dict[str, Any]) -> None:
    """Write it whole."""
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Study:
    """A case with its data; `teachers`: one for all seeds, or one a seed; `scored`: the test split by artifact digest."""

    case: Case
    data: Index
    out: Path
    teachers: Sequence[Artifact]
    scored: dict[str, dict[str, Evaluation]] = field(default_factory=dict)

    @property
    def test(self) -> Index:
        return self.data.split("test")

    def rows(self, seeds: Sequence[int], known: Sequence[Row]) -> Iterator[Row]:
        """The figures of each row of each seed, as they are made; what `known` has of the same artifact is not scored again."""
        for seed in seeds:
            teacher = self._made(seed, TEACHER, self.steps(seed)[TEACHER])
            for name, make in self.steps(seed).items():
                print(f"{self.case.name}, seed {seed}: {name}", flush=True)
                before = next((each for each in known if _place(each) == (seed, name)), {})
                try:
                    artifact = self._made(seed, name, make)
                except (ParityError, QuantizeError, NothingToPrune) as error:
                    yield {"seed": seed, "name": name, "refused": str(error).replace(f"{self.out}/", "")}
                    continue
                again = before.get("digest") == artifact.digest
                yield before if again else {"seed": seed, "name": name, **self._row(artifact, teacher)}

    def latency(self, seconds: float) -> dict[str, Any]:
        """The first seed's rows beside each other: p50 in ms, and how many times as fast as the teacher's graph."""
        made = self.graphs(0)
        rows = bench.run([*made.values()], data=self.data.split("val"), reference=None, seconds=seconds, batches=(1,))
        found = {}
        for name, row in zip(made, rows, strict=True):
            found[name] = timing(row)
        return {"date": date.today().isoformat(), "device": probe.device().name, "rows": found}

    def teacher(self, seed: int) -> Artifact:
        return self.teachers[seed % len(self.teachers)]

    def graphs(self, seed: int) -> dict[str, Artifact]:
        """What is there of a seed, by step."""
        paths = {name: self._path(seed, name) for name in self.steps(seed)}
        return {name: Artifact.load(path) for name, path in paths.items() if path.exists()}

    def steps(self, seed: int) -> dict[str, Callable[[Path], Artifact]]:
        """The graphs of a seed, the teacher's first, and how each is made at a path, with what it is made of."""
        found = {TEACHER: self._exported(lambda: self.teacher(seed), "fp32")}
        if self.case.student is not None:
            found["student"] = self._exported(lambda: self.student(seed), "fp32")
        found |= {f"pruned to {keep} %": self._exported(self._pruning(seed, keep), "fp32") for keep in KEEP}
        found["INT8"] = self._exported(lambda: self.student(seed), "int8")
        found["INT8, trained"] = lambda out: self._trained(seed, out)
        return found | {f"pruned to {keep} %, INT8": self._exported(self._pruning(seed, keep), "int8") for keep in KEEP[1:]}

    def student(self, seed: int) -> Artifact:
        """The checkpoint that is compressed."""
        if self.case.student is None:
            return self.teacher(seed)
        config = recipe.load("train", "cifake-student", DistillRecipe, [*self.case.student, f"training.seed={seed}"])
        teacher = self.teacher(seed)
        return self._made(
            seed, "student-checkpoint", lambda out: distill.run(config, teacher, self.data, out, resume=True)
        )

    def pruned(self, seed: int, keep: int) -> Artifact:
        """The student with `keep` percent of its work, taught again by the teacher."""
        changes = [*self.case.prune, f"keep={keep / 100}", f"training.seed={seed}"]
        config = recipe.load("train", "cifake-prune", PruneRecipe, changes)
        student, teacher = self.student(seed), self.teacher(seed)
        return self._made(
            seed, f"pruned-{keep}", lambda out: prune.run(config, student, self.data, out, teachers=(teacher,), resume=True)
        )

    def _pruning(self, seed: int, keep: int) -> Callable[[], Artifact]:
        return lambda: self.pruned(seed, keep)

    def _trained(self, seed: int, out: Path) -> Artifact:
        config = recipe.load("train", "int8-finetune", QatRecipe, [*self.case.qat, f"training.seed={seed}"])
        return qat.run(config, self.student(seed), self.data, out, resume=True)

    def _exported(self, checkpoint: Callable[[], Artifact], precision: Precision) -> Callable[[Path], Artifact]:
        return lambda out: export.run(ExportConfig(precision=precision), checkpoint(), self.data, out)

    def _made(self, seed: int, name: str, make: Callable[[Path], Artifact]) -> Artifact:
        path = self._path(seed, name)
        return Artifact.load(path) if path.exists() else make(path)

    def _path(self, seed: int, name: str) -> Path:
        return self.out / f"seed{seed}" / name.replace(" %", "").replace(", ", "-").replace(" ", "-").lower()

    def _row(self, artifact: Artifact, teacher: Artifact) -> Row:
        found = self._scored(artifact)
        worst, value = self._worst(artifact)
        generators = {name: of["balanced_accuracy"] for name, of in found["clean"].by_generator.items()}
        return {
            "digest": artifact.digest,
            "bytes": artifact.model_bytes,
            "n": len(found["clean"].labels),
            "tiers": tiers(found),
            "generators": generators,
            "worst": {"condition": worst, "balanced_accuracy": value},
            "flips": slices.flips(found["clean"], self._scored(teacher)["clean"]),
        }

    def _scored(self, artifact: Artifact) -> dict[str, Evaluation]:
        if artifact.digest not in self.scored:
            self.scored[artifact.digest] = slices.evaluate_all(artifact, self.test, TIERS, n_boot=200)
        return self.scored[artifact.digest]

    def _worst(self, artifact: Artifact) -> tuple[str, Any]:
        """The degradation of least balanced accuracy, on a part of the test split that is the same for all."""
        order = np.random.default_rng(0).permutation(len(self.test))[:PART]
        found = slices.evaluate_all(artifact, self.test.take(sorted(order.tolist())), DEGRADATIONS, n_boot=200)
        figures = {name: each.overall["balanced_accuracy"] for name, each in found.items()}
        worst = min(figures, key=lambda name: figures[name]["value"])
        return worst, figures[worst]


def _place(row: Row) -> tuple[int, str]:
    return row["seed"], row["name"]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES, help="none: only draw")
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="folder, index or archive")
    parser.add_argument("--teachers", nargs="+", type=Path, default=(), help="checkpoints: one, or one a seed")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--latency", action="store_true", help="only time the first seed's rows")
    parser.add_argument("--seconds", type=float, default=5.0, help="a row, for --latency")
    parser.add_argument("--results", type=Path, default=RESULTS)
    found = parser.parse_args(given)
    if found.case is not None and not found.teachers:
        parser.error(f"{found.case} needs --teachers: the checkpoints that it begins with")
    return found


if __name__ == "__main__":
    main()
