"""Our INT8 graph against NNCF's, each where it is fastest: ``python benchmarks/nncf_latency.py --case NAME CHECKPOINT DATA``.

Both quantize the same network by the same images (`comparison.methods`, whose answers stay in ``--work``). Ours is run by ONNX
Runtime and by OpenVINO, NNCF's by OpenVINO, in turns, in one process, with the same threads; what is not INT8 runs in float32.
``--untrained DETECTOR DATA`` takes random weights: latency does not depend on them. The ratio is NNCF's p50 over that of the
faster of ours, with its 95 % interval over the rounds.

Writes benchmarks/results/nncf_latency.json, a record a network, and draws benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import marks
import numpy as np
from comparison import clock, methods
from comparison.case import Case, Ready, prepare
from comparison.methods import BASELINE, METHODS, NNCF, Limits

from edgedet.artifact import tool_versions
from edgedet.bench import probe
from edgedet.bench.table import grid
from edgedet.data.store import cache_root
from edgedet.runtime.base import Options
from edgedet.runtime.onnxruntime import OnnxRuntime
from edgedet.runtime.openvino import OpenVino

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "nncf_latency.json"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- nncf -->", "<!-- /nncf -->"
ON_ORT, ON_OPENVINO, THEIRS = "edgedet on ONNX Runtime", "edgedet on OpenVINO", "NNCF on OpenVINO"
COLUMNS = ("network", "px", "threads", *(f"{each}, p50 ms" for each in (ON_ORT, ON_OPENVINO, THEIRS)), "NNCF / edgedet [95 %]")

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _arguments(arguments)
    cases = [Case(*each) for each in given.case]
    cases += [Case(name, name, data, trained=False) for name, data in given.untrained]
    records: dict[str, Record] = json.loads(given.results.read_text()) if given.results.is_file() else {}
    for case in cases:
        print(case.name, flush=True)
        records[case.name] = compare(case, given.work, Limits(minutes=given.minutes, threads=given.threads))
        given.results.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    if given.results == RESULTS:
        marks.put(README, BEGIN, END, markdown(records))


def compare(case: Case, work: Path, limits: Limits, rounds: int = clock.ROUNDS) -> Record:
    """Quantize by both, and time the three.

    Raises:
        RuntimeError: one of them cannot be made; says why.
    """
    ready = prepare(case, work / case.name.replace("/", "-"))
    ours, theirs = (_graph(ready, name, work, limits) for name in (BASELINE, "NNCF and OpenVINO"))
    images = np.load(ready.test, mmap_mode="r")
    options = Options(threads=limits.threads, spin=False)
    contestants = {
        ON_ORT: clock.Here(OnnxRuntime(ours, options), images),
        ON_OPENVINO: clock.Here(OpenVino(ours, options), images),
        THEIRS: clock.Here(OpenVino(theirs, options), images),
    }
    samples = clock.take_turns(contestants, rounds)
    found = clock.latencies(samples, THEIRS)
    best = min((ON_ORT, ON_OPENVINO), key=lambda name: found[name]["p50_ms"])
    return {
        "detector": ready.checkpoint.manifest.detector.name,
        "digest": ready.checkpoint.digest,
        "trained": case.trained,
        "pixels": images.shape[1],
        "threads": limits.threads,
        "date": date.today().isoformat(),
        "device": probe.device().name,
        "tools": {**tool_versions("onnxruntime", "openvino"), "nncf": NNCF.installs[0][0].partition("==")[2]},
        "p50_ms": {name: of["p50_ms"] for name, of in found.items()},
        "best": best,
        "ratio": clock.latencies({THEIRS: samples[THEIRS], best: samples[best]}, best)[THEIRS]["times_slower"],
    }


def markdown(records: Mapping[str, Record]) -> str:
    """A line a network, and what was measured with."""
    cells = [_cells(name, record) for name, record in records.items()]
    lines = grid(COLUMNS, cells, right=[at > 0 for at in range(len(COLUMNS))])
    notes = {
        f"{record['date']}, {record['device']}, {', '.join(f'{tool} {version}' for tool, version in record['tools'].items())}"
        for record in records.values()
    }
    slower = [name for name, record in records.items() if record["ratio"]["high"] < 1]
    verdict = f"slower than NNCF's: {', '.join(slower)}" if slower else "none is slower than NNCF's: every interval reaches 1"
    return "\n".join([*lines, "", f"- {verdict}", *(f"- {note}" for note in sorted(notes)), ""])


def _cells(name: str, record: Record) -> list[str]:
    ratio = record["ratio"]
    times = [f"{record['p50_ms'][each]:.3f}" for each in (ON_ORT, ON_OPENVINO, THEIRS)]
    shown = f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return [name if record["trained"] else f"{name} (untrained)", str(record["pixels"]), str(record["threads"]), *times, shown]


def _graph(ready: Ready, name: str, work: Path, limits: Limits) -> Path:
    method = next(each for each in METHODS if each.name == name)
    answer = methods.ask(method, ready, work / ready.case.name.replace("/", "-") / "rows", work / "environments", limits)
    if answer["error"] is not None:
        raise RuntimeError(f"{ready.case.name}: {name}: {answer['error']}")
    return Path(answer["folder"]) / answer["model"]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=3, action="append", default=[], metavar=("NAME", "CHECKPOINT", "DATA"))
    parser.add_argument("--untrained", nargs=2, action="append", default=[], metavar=("DETECTOR", "DATA"))
    parser.add_argument("--work", type=Path, default=cache_root() / "quantization", help="where graphs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=30.0, help="for installing NNCF, and for each graph")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
