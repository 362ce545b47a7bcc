"""The published CIFAKE figures and ours: ``python benchmarks/reproduce_cifake.py --data CIFAKE --out RUNS``.

Trains `cifake-cnn`, `cifake-cnn-srm` and `cifake-mini` by their recipes and scores the whole test split, leaks kept, at
logit 0, as the source does. Writes benchmarks/results/cifake_published.json. Unlike the source, the epoch is chosen on a
validation split that is cut from the training images; the mini network of the source was validated on test images.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from edgedet import metrics, recipe
from edgedet.artifact import Artifact, tool_versions
from edgedet.data.archive import open_data
from edgedet.data.index import Index
from edgedet.evaluate.slices import evaluate
from edgedet.training.stage import TrainRecipe, run

RESULTS = Path(__file__).resolve().parent / "results" / "cifake_published.json"
RECIPES = ("cifake-cnn", "cifake-cnn-srm", "cifake-mini")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="CIFAKE, a folder or an archive")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    given = parser.parse_args()
    if not given.data:
        print("skipped: give --data or set EDGEDET_DATA to CIFAKE")
        return
    kept = open_data(given.data, keep_leaks=True)
    rows = [one(name, kept, given.out) for name in RECIPES]
    record = {"test": kept.split("test").digest, "tools": tool_versions("torch"), "rows": rows}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    for row in rows:
        print(f"{row['recipe']:16} accuracy {row['accuracy']:.2f}, published {row['published']['accuracy']:.2f}")


def one(name: str, data: Index, folder: Path) -> dict[str, object]:
    config = recipe.load("train", name, TrainRecipe)
    out = folder / name
    artifact = Artifact.load(out) if out.exists() else run(config, None, data, out, resume=True)
    found = evaluate(artifact, data.split("test"), n_boot=0)
    # The source's positive class is real.
    verdicts, real = found.logits <= 0, 1 - found.labels
    return {
        "recipe": name,
        "digest": artifact.digest,
        "accuracy": round(100 * metrics.accuracy(verdicts, real), 2),
        "f1_real": round(100 * metrics.f1(verdicts, real), 2),
        "precision_real": round(100 * metrics.precision(verdicts, real), 2),
        "recall_real": round(100 * metrics.tpr(verdicts, real), 2),
        "published": config.published,
        "n": len(np.asarray(found.labels)),
    }


if __name__ == "__main__":
    main()
