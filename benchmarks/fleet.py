"""Detectors side by side, beside the RTX 3090: ``python benchmarks/fleet.py TRAINED... --data DATA --record LINES``.

In one run, interleaved, each on ONNX Runtime and on OpenVINO: the trained artifacts that are given, with their accuracy on the
test split and their speed-ups over the first; and RAM-Net, ResNet-50, MobileNetV4, EfficientNet-Lite0 and NPR at 224 pixels, in
FP32 and INT8, with random weights, for their speed alone, with speed-ups over their own FP32. Published throughputs of the
RTX 3090 stand beside those whose trunk has one.

Appends to LINES; ``--draw LINES`` draws benchmarks/README.md (all rows) and README.md (each artifact on its fastest
runtime, in fewer columns).
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

import marks
import msgspec

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.bench import result, stage, table
from edgedet.bench.result import BenchRow
from edgedet.data.archive import open_data
from edgedet.evaluate import slices
from edgedet.export.anchor import graphs

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- table -->", "<!-- /table -->"
UNTRAINED = ("ram-net", "resnet50", "mobilenetv4-small", "efficientnet-lite0", "npr")
SIDE = 224
RUNTIMES = ("onnxruntime", "openvino")


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    if given.draw:
        draw(given.draw)
        return
    index = open_data(given.data).split("test") if given.data else None
    trained = [Artifact.load(path) for path in given.trained]
    untrained = [graph for name in given.untrained for graph in at_side(name)]
    rows = stage.run(
        trained,
        anchor=untrained,
        data=index,
        runtime=given.runtimes,
        metrics=slices.beside_first(trained, index) if index and trained else None,
        seconds=given.seconds,
        batches=(1, 16),
    )
    result.append(given.record, rows)
    table.show(rows)


def at_side(name: str) -> list[Artifact]:
    """The FP32 and the INT8 graph of a detector at 224 pixels."""
    preprocess = msgspec.structs.replace(models.lookup(name).preprocess, height=SIDE, width=SIDE)
    return graphs(DetectorSpec(name=name), preprocess)


def fastest(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Of each artifact the row of least p50, and every row that was not measured here."""
    best = {}
    for row in rows:
        if row.kind == "measured" and row.latency is not None:
            other = best.setdefault(row.digest, row)
            assert other.latency is not None
            if row.latency.p50_ms < other.latency.p50_ms:
                best[row.digest] = row
    return [row for row in rows if row.kind != "measured" or best.get(row.digest) is row]


def draw(lines: Path) -> None:
    """Both tables, and in README.md the name of the file that they come from."""
    rows, readme = result.load(lines), ROOT / "README.md"
    marks.put(ROOT / "benchmarks" / "README.md", BEGIN, END, table.markdown(rows))
    marks.put(readme, BEGIN, END, table.brief(fastest(rows)))
    shown, mark, after = readme.read_text(encoding="utf-8").partition(END)
    named = re.sub(r"benchmarks/results/[\w.-]+\.jsonl", f"benchmarks/results/{lines.name}", after)
    readme.write_text(f"{shown}{mark}{named}", encoding="utf-8")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", nargs="*", type=Path, help="artifacts; speed-ups are over the first")
    parser.add_argument("--data", default=os.environ.get("EDGEDET_DATA"), help="what the trained ones are scored on")
    parser.add_argument("--untrained", nargs="*", default=UNTRAINED, help="names of `edgedet models`")
    parser.add_argument("--runtimes", nargs="+", default=RUNTIMES)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the single-stream scenario, a row")
    parser.add_argument("--record", type=Path, default=Path("fleet.jsonl"))
    parser.add_argument("--draw", type=Path, metavar="LINES", help="only draw the tables from this file")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
