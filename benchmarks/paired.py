"""Detectors of paired crops under one budget, by generator: ``python benchmarks/paired.py --data PAIRS --out RUNS``.

Every detector sees the same images in the same order, pair by pair in one batch, for the same number of passes; its optimiser
and rates are its recipe's. Nothing is resized. The test split is scored once, at the end; the validation split chooses the
epoch. The best two by validation AUC are trained from two more seeds, and the best one anew without each generator in turn (its
fakes and their photographs), in a third of the passes, then asked about the generator that it never saw.

Writes benchmarks/results/paired.json after every training, with a 95 % bootstrap interval over the test images of each figure,
and draws benchmarks/README.md. A run that was stopped goes on; a training that is there is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import marks
from paired_table import markdown

from edgedet import recipe
from edgedet.artifact import Artifact, DetectorSpec, tool_versions
from edgedet.bench import probe
from edgedet.data.archive import open_data
from edgedet.data.index import FAKE, Index
from edgedet.evaluate.slices import evaluate
from edgedet.recipe import Config
from edgedet.training.config import TrainingConfig
from edgedet.training.stage import TrainRecipe, run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "paired.json"
README = HERE / "README.md"
BEGIN, END = "<!-- paired -->", "<!-- /paired -->"
RECIPES = ("pairs-lite0", "pairs-npr", "pairs-safe", "pairs-mobilenetv4-small", "pairs-repvgg-edge", "npr-student")
SEEDS = (0, 1, 2)
EPOCHS = 12

Row = dict[str, Any]


class AnyRecipe(Config, frozen=True, kw_only=True):
    """A recipe of training or of distillation, of which the teacher is left out here."""

    stage: Literal["train", "distill"]
    detector: DetectorSpec
    preprocess: dict[str, Any] = {}
    training: TrainingConfig = TrainingConfig()
    distillation: dict[str, Any] = {}
    gates: tuple[dict[str, Any], ...] = ()
    published: dict[str, float] = {}


@dataclass(frozen=True)
class Training:
    """One training: a recipe, a seed, the passes, and the generator that it does not see."""

    recipe: str
    seed: int
    epochs: int
    without: str | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe}-seed{self.seed}{f'-without-{self.without}' if self.without else ''}"


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if not given.data:
        print("skipped: give --data or set EDGEDET_DATA to content-paired images")
        return
    data = open_data(given.data)
    head = {"date": date.today().isoformat(), "device": probe.device().name, "tools": tool_versions("torch", "timm")}
    head |= {"test": data.split("test").digest, "train": len(data.split("train"))}
    rows: list[Row] = []
    for training in _trainings(given, data, rows):
        print(training.name, flush=True)
        rows.append(asdict(training) | _one(training, data, given.out))
        given.results.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if given.results == RESULTS:
        draw(RESULTS, README)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="folder, index or archive")
    parser.add_argument("--out", type=Path, default=Path("runs/paired"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="first everybody's, then the best two's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(given)


def _trainings(given: argparse.Namespace, data: Index, rows: Sequence[Row]) -> Iterator[Training]:
    """Everybody once, the best two again, the best one without each generator; `rows` grows between the answers."""
    first, *more = given.seeds
    yield from (Training(name, first, given.epochs) for name in given.recipes)
    best = [row["recipe"] for row in sorted(rows, key=lambda row: -row["validation_auc"])]
    yield from (Training(name, seed, given.epochs) for name in best[:2] for seed in more)
    yield from (Training(best[0], first, -(-given.epochs // 3), without) for without in generators(data))


def generators(data: Index) -> list[str]:
    """The names of the fakes' generators."""
    return sorted({row.generator for row in data.rows if row.label == FAKE})


def without_generator(data: Index, name: str) -> Index:
    """`data` without the fakes of generator `name` and, in what is trained and validated on, without their photographs."""
    gone = {row.pair for row in data.rows if row.label == FAKE and row.generator == name}
    return data.where(lambda row: row.split == "test" or row.pair not in gone)


def config_of(training: Training) -> TrainRecipe:
    """What the recipe's detector is trained with here: the common budget and order, the recipe's optimiser and rates."""
    own = recipe.load("train", training.recipe, AnyRecipe, [
        f"training.epochs={training.epochs}", f"training.seed={training.seed}", "training.order=pairs",
        "training.warmup_epochs=1", "training.ema=0.99", "training.augment={hflip=true, margin=128}",
        'preprocess={geometry="crop_only", height=128, width=128}',
    ])  # fmt: skip
    return TrainRecipe(stage="train", detector=own.detector, preprocess=own.preprocess, training=own.training)


def _one(training: Training, data: Index, folder: Path) -> Row:
    """Train it, or take what is there, and score the test split."""
    out = folder / training.name
    seen = without_generator(data, training.without) if training.without else data
    artifact = Artifact.load(out) if out.exists() else run(config_of(training), None, seen, out, resume=True)
    found = evaluate(artifact, data.split("test"))
    return {
        "detector": artifact.manifest.detector.name,
        "digest": artifact.digest,
        "images": training.epochs * len(seen.split("train")),
        "validation_auc": artifact.manifest.metrics["auc"]["value"],
        "test": {"auc": found.overall["auc"], "balanced_accuracy": found.overall["balanced_accuracy"]},
        "generators": {name: {"auc": figures["auc"]} for name, figures in found.by_generator.items()},
        "n": len(found.labels),
    }


def draw(results: Path, document: Path) -> None:
    """The tables between the marks in `document`."""
    marks.put(document, BEGIN, END, markdown(json.loads(results.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
