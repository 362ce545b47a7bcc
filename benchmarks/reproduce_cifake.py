"""The published CIFAKE figures and ours: ``python benchmarks/reproduce_cifake.py --data CIFAKE --out RUNS [--seeds 11 0 1]``.

Trains `cifake-cnn`, `cifake-cnn-srm` and `cifake-mini` by their recipes, once for each seed, and scores the whole test split,
leaks kept, at logit 0, as the source does. Writes benchmarks/results/cifake_published.json. The source trains on all 100,000
training images and has no validation split; here 1,000 of them choose the epoch. The mini network of the source was validated
on test images. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgedet import metrics, recipe
from edgedet.artifact import Artifact, tool_versions
from edgedet.data.archive import open_data
from edgedet.data.index import Index
from edgedet.evaluate.slices import evaluate
from edgedet.training.journal import METRICS
from edgedet.training.stage import TrainRecipe, run

RESULTS = Path(__file__).resolve().parent / "results" / "cifake_published.json"
RECIPES = ("cifake-cnn", "cifake-cnn-srm", "cifake-mini")
VALIDATION = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="CIFAKE, a folder or an archive")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 0, 1])
    given = parser.parse_args()
    if not given.data:
        print("skipped: give --data or set EDGEDET_DATA to CIFAKE")
        return
    data = as_published(open_data(given.data, keep_leaks=True))
    rows = [one(name, seed, data, given.out) for seed in given.seeds for name in RECIPES]
    record = {
        "test": data.split("test").digest,
        "train": len(data.split("train")),
        "tools": tool_versions("torch"),
        "summary": [summary(name, rows) for name in RECIPES],
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    for line in record["summary"]:
        print("{recipe:16} accuracy {mean:.2f} ({least:.2f} to {most:.2f}), published {published:.2f}".format(**line))


def as_published(data: Index) -> Index:
    """The source's split: everything that is not test trains, but for the validation images that choose the epoch."""
    spare = np.flatnonzero([row.split == "val" for row in data.rows])
    chosen = set(np.random.default_rng(0).permutation(spare)[:VALIDATION].tolist())
    rows = (
        row if row.split == "test" or position in chosen else msgspec.structs.replace(row, split="train")
        for position, row in enumerate(data.rows)
    )
    return Index(data.root, tuple(rows))


def one(name: str, seed: int, data: Index, folder: Path) -> dict[str, object]:
    """Train and score one network."""
    config = recipe.load("train", name, TrainRecipe, [f"training.seed={seed}"])
    out = folder / f"{name}-seed{seed}"
    artifact = Artifact.load(out) if out.exists() else run(config, None, data, out, resume=True)
    found = evaluate(artifact, data.split("test"), n_boot=0)
    # The source's positive class is real.
    verdicts, real = found.logits <= 0, 1 - found.labels
    return {
        "recipe": name,
        "seed": seed,
        "digest": artifact.digest,
        "accuracy": round(100 * metrics.accuracy(verdicts, real), 2),
        "f1_real": round(100 * metrics.f1(verdicts, real), 2),
        "precision_real": round(100 * metrics.precision(verdicts, real), 2),
        "recall_real": round(100 * metrics.tpr(verdicts, real), 2),
        "training_loss": training_losses(artifact),
        "published": config.published,
        "n": len(found.labels),
    }


def training_losses(artifact: Artifact) -> list[float]:
    """The mean loss of every epoch."""
    lines = map(json.loads, (artifact.path / METRICS).read_text(encoding="utf-8").splitlines())
    return [round(line["train_loss"], 4) for line in lines if line["event"] == "epoch"]


def summary(name: str, rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """The accuracies of one network over the seeds."""
    found = [row for row in rows if row["recipe"] == name]
    accuracies = [float(str(row["accuracy"])) for row in found]
    published = found[0]["published"]
    assert isinstance(published, dict)
    return {
        "recipe": name,
        "mean": round(statistics.mean(accuracies), 2),
        "least": min(accuracies),
        "most": max(accuracies),
        "published": published["accuracy"],
    }


if __name__ == "__main__":
    main()
