"""A tool of the benchmark's contract that multiplies the mean pixel by a weight which it rounds, well or badly."""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "peers"))

from contract import main

WEIGHT = 0.0123


def mean_logits(pixels, weight=WEIGHT):
    """The float graph: uint8 (B, H, W, 3) -> (B,)."""
    return (pixels.astype(np.float64).mean(axis=(1, 2, 3)) * weight).astype(np.float32)


def rounded(graph, pixels, out, *, digits):
    out.write_text(json.dumps({"weight": round(WEIGHT, digits), "images": len(pixels)}))


def refused(graph, pixels, out):
    raise RuntimeError("no kernel\n  for this graph")


def not_finite(graph, pixels, out):
    out.write_text(json.dumps({"weight": float("nan"), "images": len(pixels)}))


def spoils(graph, pixels, out):
    graph.write_text("another graph")
    rounded(graph, pixels, out, digits=3)


def endless(graph, pixels, out):
    time.sleep(600)


class Toy:
    packages = ("numpy",)
    runtime = "toy"
    suffix = ".json"

    def candidates(self, request):
        coarse, fine = ((lambda *given, digits=digits: rounded(*given, digits=digits)) for digits in (2, 3))
        return {
            "best": {"coarse": coarse, "fine": fine, "refused": refused, "not-finite": not_finite},
            "defaults": {"coarse": coarse},
            "refused": {"refused": refused},
            "spoils": {"spoils": spoils},
            "endless": {"endless": endless},
        }[request.mode]

    def load(self, model, threads):
        weight = json.loads(model.read_text())["weight"]
        return lambda pixels: mean_logits(pixels, weight)

    def facts(self, model):
        return {"layers": [1, 1], "notes": [f"{json.loads(model.read_text())['images']} images"]}


if __name__ == "__main__":
    main(Toy())
