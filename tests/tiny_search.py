"""A search that takes seconds: the tiny images, one student at one width, whole or pruned, in FP32 and INT8, in two rounds.

As a script it is that search in a process of its own, which tests kill.
"""

import argparse
from pathlib import Path

import torch

from edgedet import recipe
from edgedet.artifact import Artifact
from edgedet.bench.scenarios import Rules
from edgedet.data.index import Index
from edgedet.search import run
from edgedet.search.cost import Timing
from edgedet.search.halving import Limits
from edgedet.search.result import Result
from edgedet.search.space import CompressRecipe

STUDENT = """
stage = "distill"
detector = { name = "edge32", arguments = { width = 8 } }
preprocess = { height = 16, width = 16 }
training = { epochs = 4, batch_size = 16, lr = 0.01, amp = false }
"""
PRUNE = """
stage = "prune"
steps = 1
training = { epochs = 2, batch_size = 16, lr = 0.01, amp = false }
"""
COMPRESS = """
stage = "compress"
students = [{{ recipe = "{0}/student.toml" }}]
keep = [1.0, 0.6]
precisions = ["fp32", "int8"]
prune = "{0}/prune.toml"
rungs = 2
eta = 2.0
"""
EVERYTHING = Limits(latency_ms=1e6)
QUICK = Timing(Rules(seconds=0.01, max_seconds=0.02, min_runs=1, rounds=2, warmup_max_seconds=0.02, settle_seconds=0.0), 1)


def write_recipes(folder: Path) -> Path:
    """The recipes that a search needs; the one of the search itself is returned."""
    (folder / "student.toml").write_text(STUDENT)
    (folder / "prune.toml").write_text(PRUNE)
    (folder / "compress.toml").write_text(COMPRESS.format(folder))
    return folder / "compress.toml"


def search(path: Path, teacher: Artifact, data: Index, out: Path, *, limits: Limits = EVERYTHING, **options) -> run.Search:
    torch.set_num_threads(1)
    config = recipe.load("train", str(path), CompressRecipe)
    return run.run(config, teacher, data, out, limits=limits, timing=QUICK, **options)


def result(
    name="a", *, worst=0.9, ms=1.0, kb=50.0, drop=0.01, speedup=10.0, high=None, error=0.0, failed=(), mj=None
) -> Result:
    """One of a network called `name`; with an `error` it is an estimate."""
    return Result(
        name=f"{name}-int8",
        trunk=name,
        precision="int8",
        path=f"candidates/{name}",
        digest=name,
        rung=0,
        epochs=1,
        overall=worst,
        worst=worst,
        worst_generator="up2",
        drop=drop / 2,
        drop_bound=drop,
        drop_slice="up2",
        latency_ms=ms,
        latency_kind="estimated" if error else "measured",
        p90_error=error,
        speedup=speedup,
        speedup_high=high,
        energy_mj=mj,
        size_bytes=int(1000 * kb),
        failed_gates=failed,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("recipe", "teacher", "data", "out"):
        parser.add_argument(name, type=Path)
    asked = parser.parse_args()
    search(asked.recipe, Artifact.load(asked.teacher), Index.load(asked.data), asked.out, resume=True)


if __name__ == "__main__":
    main()
